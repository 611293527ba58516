"""Data sets that are made up: nothing to download."""
