"""Playing whole episodes: to measure an agent and to look at it."""
