"""Networks that generative learners are made of."""
