"""The files of a run: task, result, log, lock, environment."""
