"""Supervised networks: one learner, and models of plain modules."""
