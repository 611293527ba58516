"""Data sets that the families share, and the order in which they are read."""
