"""RLlib's algorithms as Trivium learners."""
