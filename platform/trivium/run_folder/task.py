"""What is trained, and what came of it: the input and the output of a worker."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from trivium.config.constructors import EVERYTHING
from trivium.config.errors import Config
from trivium.run_folder.place import checkpoints_of


@dataclass(frozen=True)
class Task:
    """A run to train; plain data, so that it can be sent to workers.

    Attributes:
        config: checked and resolved.
        dir: the run folder. Of a run in a bucket it is a local copy, else all nodes must see it.
        trusted: see `trivium.training.builder`.
        bucket: the run's own URL, if it is kept in a bucket. Not read from the config, see `trivium.run_folder.place`.
    """

    config: Config
    dir: Path
    trusted: Collection[str] = EVERYTHING
    bucket: str | None = None

    @property
    def checkpoints_place(self) -> str:
        return checkpoints_of(self.dir, self.bucket)


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        reason: what ended it, in words.
        metrics: the last value of every metric.
        counters: the learner's.
        updates: how many were made.
        elapsed_s: seconds of training, over all resumes.
        checkpoint: the name of the checkpoint that `test/...` was measured on.
        lost: what was deleted or changed by others while the run trained and could not be brought back, in sentences.
    """

    reason: str
    metrics: dict[str, float]
    counters: dict[str, float]
    updates: int
    elapsed_s: float
    checkpoint: str
    lost: list[str] = field(default_factory=list)
