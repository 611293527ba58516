"""Trivium: supervised networks, generative models and reinforcement-learning agents, trained one way."""
