"""Models that learn by deceiving a discriminator."""
