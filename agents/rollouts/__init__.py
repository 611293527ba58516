"""Acting in environments, in this process or on Ray actors."""
