"""The training loop and the decisions it makes."""
