"""Pairs of sequences of tokens, whose vocabularies all begin with the same three."""

from __future__ import annotations

PAD, BEGIN, END = 0, 1, 2
SPECIAL = ("<pad>", "<begin>", "<end>")
