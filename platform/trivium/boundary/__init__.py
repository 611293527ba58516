"""The edges of a process: data from strangers, JSON, secrets, standard output."""
