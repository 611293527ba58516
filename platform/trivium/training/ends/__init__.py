"""How a run ends: what ended it, the trace that it leaves, and what lets it go on."""
