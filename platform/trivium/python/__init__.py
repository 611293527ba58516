"""What a Python caller hands over: objects in the place of names in a config, arrays in the place of a data set."""
