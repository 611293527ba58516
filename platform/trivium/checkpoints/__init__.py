"""Checkpoints: written whole or not at all, verified when loaded, in a folder or a bucket."""
