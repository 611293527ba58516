"""The error that holds everything that is wrong with a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trivium.config.problems import Found, Problem

Config = dict[str, Any]


class ConfigError(Exception):
    """What is wrong with a config: one line per error.

    Args:
        errors: problems, or complete sentences that name the key, the value and what is valid.

    Attributes:
        errors: the sentences.
        problems: those that were given as data.
    """

    def __init__(self, errors: Sequence[str | Problem]) -> None:
        self.errors = [str(error) for error in errors]
        self.problems = [error for error in errors if isinstance(error, Problem)]
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(self.errors)


def refuse(found: Found) -> None:
    """
    Raises:
        ConfigError: of all that was found, if anything was.
    """
    if len(found):
        raise ConfigError(list(found.problems.values()))
