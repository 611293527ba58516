"""Generative models: a file each, with its learner."""
