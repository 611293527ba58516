"""What several workers of a run share: averaged gradients, sums, decisions."""
