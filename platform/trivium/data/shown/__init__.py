"""What a data set is, for whoever looks at it."""
