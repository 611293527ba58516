"""Hyperparameter search with Ray Tune: the space, the trials, the driver, the results."""
