"""Training on Ray's actors."""
