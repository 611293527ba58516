"""Training: new runs, runs that go on, and runs that are compared to choose settings."""
