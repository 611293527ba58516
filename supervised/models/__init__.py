"""Models of plain modules, one file a family."""
