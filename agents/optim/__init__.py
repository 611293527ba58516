"""Optimizers over a module's parameters as one flat vector."""
