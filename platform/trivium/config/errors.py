"""What is wrong with a config: collected, then raised all at once, one line per error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Config = dict[str, Any]


class ConfigError(Exception):
    """What is wrong with a config: one line per error.

    Args:
        errors: complete sentences that name the key, the value and what is valid.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__(errors)
        self.errors = list(errors)

    def __str__(self) -> str:
        return "\n".join(self.errors)


class Found:
    """The errors, in the order in which they were found; of several about one key the first."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    def add(self, key: str, line: str) -> None:
        self.lines.setdefault(key, line)

    def forget(self, keys: Iterable[str]) -> None:
        """Take back what was found of these keys."""
        for key in keys:
            self.lines.pop(key, None)

    def none_in(self, *groups: str) -> bool:
        """Whether none of the errors is about these groups."""
        return not any(key.partition(".")[0] in groups for key in self.lines)


def not_yaml(error: Exception, file: str) -> str:
    """The line for a file that can't be parsed."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{file}{f':{mark.line + 1}' if mark else ''}: is not valid YAML: {what}"


def refuse(found: Found) -> None:
    """
    Raises:
        ConfigError: of all that was found, if anything was.
    """
    if found.lines:
        raise ConfigError(list(found.lines.values()))
