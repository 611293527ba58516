"""Judging what a trained model makes, by a classifier that is a run too."""
