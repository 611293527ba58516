"""Texts, cut into windows of tokens, of which a model predicts the next."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count
from trivium.data.source import Batch, Signature, Splits
from trivium.data.texts.vocabulary import encoded, fitted, size

Tokens = Literal["characters", "bytes", "bpe"]


class Windows:
    """Windows of a text: row i is the tokens from `i * stride` on.

    Args:
        tokens: int64 [n], the text.
        context: T, tokens of a window.
        stride: between the beginnings of two windows; `context` makes them disjoint.

    Raises:
        ValueError: the text is shorter than a window and the token after it.
    """

    def __init__(self, tokens: Tensor, *, context: int, stride: int) -> None:
        if len(tokens) <= context:
            raise ValueError(f"context={context} needs a text of more tokens; this one has {len(tokens):,}")
        self.tokens, self.context, self.stride = tokens, context, stride
        self._offsets = torch.arange(context + 1, device=tokens.device)

    def __len__(self) -> int:
        return (len(self.tokens) - self.context - 1) // self.stride + 1

    def batch(self, index_B: Tensor) -> Batch:
        """`x` and `y`, the tokens after those of x: int64 [B, T] each."""
        window_BT = self.tokens[index_B[:, None] * self.stride + self._offsets]
        return {"x": window_BT[:, :-1], "y": window_BT[:, 1:]}

    def to(self, device: torch.device) -> Windows:
        return Windows(self.tokens.to(device), context=self.context, stride=self.stride)


@checks_keywords
def text(
    *,
    path: str | None = None,
    context: Count = 64,
    tokens: Tokens = "characters",
    vocab_size: int = 1000,
    stride: Count | None = None,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne | None = None,
) -> Splits:
    """A text file, its beginning to learn from, its end to judge on.

    Args:
        path: the file, UTF-8, see `find_data`; None: the source of some modules of Python's standard library.
        context: tokens of a window.
        tokens: `characters`, those that occur in the file; `bytes`, always 256 of them; `bpe`, byte pairs, of which
            the training split decides, see `trivium.data.texts.vocabulary.fitted`.
        vocab_size: how many tokens there are with `bpe`, >= 256.
        stride: between the beginnings of two windows to learn from; None: `context`, disjoint ones. Windows that
            are judged on are disjoint and cover their whole split.
        val_fraction, test_fraction: of the text, the part before its end and its end; without a test part the
            validation part is judged on at the end too.

    Raises:
        ValueError: the file can't be read or is no UTF-8, or a part is shorter than a window; names the file.
    """
    at_end = test_fraction or 0.0
    if not (0 < val_fraction < 1 and 0 <= at_end < 1 and val_fraction + at_end < 1):
        raise ValueError(f"val_fraction={val_fraction} and test_fraction={test_fraction} must sum to less than 1")
    raw = standard_library() if path is None else _read(path)
    if tokens not in ("characters", "bytes", "bpe"):
        raise ValueError(f"tokens={tokens} must be one of characters, bytes, bpe")
    learnt = raw[: round(len(raw) * (1 - val_fraction - at_end))] if tokens == "bpe" else raw
    vocabulary = fitted([learnt], tokens, vocab_size=vocab_size if tokens == "bpe" else None)
    if tokens == "bytes":
        ids = np.frombuffer(raw.encode(), np.uint8).astype(np.int64)
    elif tokens == "characters":  # as `encoded` does, 30 times as fast
        codes = np.frombuffer(raw.encode("utf-32-le"), np.uint32)
        ids = np.searchsorted(np.array([ord(c) for c in vocabulary], np.uint32), codes).astype(np.int64)
    else:
        ids = np.array(encoded(raw, {"tokens": tokens, "vocabulary": vocabulary}), dtype=np.int64)

    ends = [round(len(ids) * (1 - val_fraction - at_end)), round(len(ids) * (1 - at_end))]
    train, val, test = (torch.from_numpy(part.copy()) for part in np.split(ids, ends))
    signature = Signature(
        task="language_modelling",
        offers={"vocab_size": size(tokens, vocabulary), "context": context},
        preparation={"kind": "text", "tokens": tokens, "vocabulary": vocabulary},
    )
    judged = [Windows(part, context=context, stride=context) for part in ([val, test] if at_end else [val])]
    return Splits(Windows(train, context=context, stride=stride or context), judged[0], judged[-1], signature)


def _read(path: str) -> str:
    try:
        return find_data(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path={path} can't be read as UTF-8 text: {error}") from error


def standard_library() -> str:
    """The source of some of its modules."""
    return "\n".join(standard_library_modules().values())


def standard_library_modules() -> dict[str, str]:
    import argparse
    import ast
    import inspect
    import statistics
    import textwrap
    import typing

    return {
        module.__name__: inspect.getsource(module) for module in (argparse, ast, inspect, statistics, textwrap, typing)
    }
