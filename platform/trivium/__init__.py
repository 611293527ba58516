"""Trivium: supervised networks, generative models and reinforcement-learning agents, trained one way.

import trivium
run = trivium.train("experiment=ppo_cartpole", "seed=1")
run.metrics["test/return_mean"], run.dir, run.learner
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.run_folder.folder import Result

__all__ = ["ConfigError", "evaluate", "resume", "train"]


def train(*overrides: str, dir: Path | str | None = None, config_dir: Path | str | None = None) -> Result:
    """Train; the same as `trivium train OVERRIDES`.

    Args:
        overrides: `group=option` and `dotted.key=value`, e.g. `"experiment=ppo_cartpole", "agent.lr=1e-3"`.
        dir: the run folder; by default a new one under `storage`.
        config_dir: a folder with YAML of your own; modules are found beside it and in it too.

    Returns:
        The metrics, the run folder and the learner.

    Raises:
        ConfigError: everything that is wrong with the config; nothing was made on the disk.
    """
    from trivium import launch
    from trivium.config import composing

    dir, config_dir = (None if path is None else os.path.expanduser(path) for path in (dir, config_dir))
    composed = composing.compose(overrides, config_dir, dir)
    return launch.train(composed, config_dir=config_dir, dir=None if dir is None else Path(dir))


def resume(dir: Path | str, *overrides: str, trusted: Collection[str] = ()) -> Result:
    """Continue a run from its newest sound checkpoint; see `trivium.launch.resume`."""
    from trivium import launch

    return launch.resume(dir, overrides, trusted=trusted)


def evaluate(
    dir: Path | str,
    *,
    checkpoint: str = "best",
    episodes: int | None = None,
    deterministic: bool | None = None,
    trusted: Collection[str] = (),
) -> dict[str, Any]:
    """Measure `test/...` of a run's checkpoint; see `trivium.trained.evaluate`."""
    from trivium import trained

    return trained.evaluate(dir, checkpoint=checkpoint, episodes=episodes, deterministic=deterministic, trusted=trusted)


def __getattr__(name: str) -> Any:
    if name == "ConfigError":
        from trivium.config.errors import ConfigError

        return ConfigError
    raise AttributeError(f"module 'trivium' has no attribute {name!r}")
