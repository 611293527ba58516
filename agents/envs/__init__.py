"""Environments: Gymnasium's and Trivium's own, stepped in batches."""
