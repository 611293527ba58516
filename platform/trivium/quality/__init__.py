"""How good generated samples are, as pure functions of their features or of a classifier's answers."""
