"""The YAML files that a config is composed of: Trivium's own and those of the user's `--config-dir`."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from trivium.boundary import untrusted
from trivium.config.problems import Kind, Problem

PARTS = ("model", "data", "task", "env")  # groups that are built and handed to the learner
LEARNERS = ("learner", "agent")  # two names of one group: exactly one is chosen
BUILT = (*LEARNERS, *PARTS)  # what constructors decide
GROUPS = (*BUILT, "launch", "experiment")


@dataclass(frozen=True)
class Library:
    """The options of each group, a file each.

    Args:
        config_dir: the user's folder, with a folder for each group that has options of theirs; None for none.
    """

    config_dir: Path | None = None
    own: Path = field(default_factory=lambda: Path(str(files("trivium.configs"))))

    def folder_problem(self) -> Problem | None:
        """What is wrong with `config_dir` itself."""
        if self.config_dir is None:
            return None
        above = next((p for p in self.config_dir.parents if any((p / group).is_dir() for group in GROUPS)), None)
        inside = above is not None and self.config_dir.relative_to(above).parts[0] in GROUPS
        near = (shlex.quote(str(above)),) if inside else ()
        if not self.config_dir.is_dir():
            return Problem(Kind.FOLDER, "--config-dir", self.config_dir, nearest=near)
        if not any((self.config_dir / group).is_dir() for group in GROUPS):
            details = {"groups": ", ".join(GROUPS)}
            return Problem(Kind.NO_GROUPS, "--config-dir", self.config_dir, nearest=near, details=details)
        return None

    def find(self, group: str, option: str) -> Path | None:
        """The file of an option, None if there is none."""
        try:
            untrusted.inside(option)  # also of a command that a run folder holds
        except untrusted.Refused:
            return None
        paths = (folder / group / f"{option}.yaml" for folder in self._folders())
        return next((path for path in paths if path.is_file()), None)

    def defaults(self) -> dict[str, str]:
        """The options of groups that are chosen unless others are."""
        entries = [entry for entry in self._whole()["defaults"] if isinstance(entry, dict)]
        return {group: option for entry in entries for group, option in entry.items() if option is not None}

    def base(self) -> dict[str, Any]:
        """What every config has, with the values of Trivium's own YAML."""
        body = {key: value for key, value in self._whole().items() if key != "defaults"}
        for group, option in self.defaults().items():
            text = (self.own / group / f"{option}.yaml").read_text(encoding="utf-8")
            body[group] = yaml.safe_load(text)
        return body

    def _whole(self) -> dict[str, Any]:
        read: dict[str, Any] = yaml.safe_load((self.own / "config.yaml").read_text(encoding="utf-8"))
        return read

    def names_twice(self, group: str, option: str) -> bool:
        """Whether the user's folder holds an option that Trivium has too, so that its name is ambiguous."""
        return sum((folder / group / f"{option}.yaml").is_file() for folder in self._folders()) > 1

    def options(self, group: str) -> dict[str, str]:
        """The group's options, sorted, each with the first comment in its file: what it is."""
        return {name: next(iter(comments), "") for name, comments in self._comments(group).items()}

    def results(self, group: str) -> dict[str, str]:
        """The measured results of the group's options, from the text after `Result:` in the first comment of a file."""
        texts = {name: " ".join(comments).partition("Result: ")[2] for name, comments in self._comments(group).items()}
        return {name: text for name, text in texts.items() if text}

    def _comments(self, group: str) -> dict[str, list[str]]:
        """The lines of the comment that each option's file begins with, without the package."""
        found: dict[str, list[str]] = {}
        for folder in self._folders():
            for path in sorted((folder / group).glob("*.yaml")):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                comments = [line.lstrip("# ").rstrip() for line in itertools.takewhile(_is_comment, lines)]
                found.setdefault(path.stem, [c for c in comments if c and not c.startswith("@package")])
        return dict(sorted(found.items()))

    def named(self, path: Path) -> str:
        """How messages name a file: Trivium's own relative to the repository's root."""
        return f"configs/{path.relative_to(self.own)}" if path.is_relative_to(self.own) else str(path)

    def _folders(self) -> list[Path]:
        return [self.own, self.config_dir] if self.config_dir else [self.own]


def _is_comment(line: str) -> bool:
    return line.startswith("#") or not line.strip()


@functools.cache
def listed_targets() -> frozenset[str]:
    """Every `_target_` in Trivium's own YAML: the names of its own that a config read from a run folder may build."""
    texts = (path.read_text(encoding="utf-8") for path in Library().own.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_:\s*([\w.]+)", text))
