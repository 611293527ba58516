"""Overrides as a Python caller writes them, as the texts that a command has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trivium.config.errors import ConfigError

BARE = re.compile(r"[A-Za-z_][\w./-]*")
NO_TEXTS = ("true", "false", "null", "nan", "inf")  # without quotes


def as_texts(overrides: Iterable[str | Mapping[str, Any]]) -> list[str]:
    """Texts as they are, and of each dict its items.

    Raises:
        ConfigError: a value can't stand in a config.

    Example:
        ["seed=1", {"learner.lr": 1e-3, "model.hidden": [8, 8]}] -> ["seed=1", "learner.lr=0.001", "model.hidden=[8,8]"]
    """
    texts = []
    for override in overrides:
        items = override.items() if isinstance(override, Mapping) else ()
        texts += [override] if isinstance(override, str) else [f"{key}={_text(key, value)}" for key, value in items]
    return texts


def _text(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        if BARE.fullmatch(value) and value.lower() not in NO_TEXTS:
            return value
        escaped = value.replace("\\", "\\\\") if value.endswith("\\") else value
        return "'" + escaped.replace("'", "\\'") + "'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(key, item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(key, str(name))}: {_text(key, item)}" for name, item in value.items()) + "}"
    raise ConfigError([f"{key}: a {type(value).__name__} can't stand in a config; numbers, texts, lists and dicts can"])
