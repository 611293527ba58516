"""A file for each command of `trivium`: `HELP`, `add_arguments(parser)` and `run(options)`; see docs/house.md."""
