"""Reinforcement-learning agents: a file each; what they share (envs, returns, networks) stands beside them."""
