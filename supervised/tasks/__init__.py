"""What the outputs of a supervised model mean: a file for each task."""
