"""Trivium: supervised networks, generative models and reinforcement-learning agents, trained one way.

import trivium
run = trivium.train("experiment=ppo_cartpole", "seed=1")
run.metrics["test/return_mean"], run.dir, run.learner
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.callbacks import Callback
    from trivium.loaded import Trained
    from trivium.run_folder.folder import Result

__all__ = ["Callback", "ConfigError", "evaluate", "judge", "load", "resume", "train"]


def train(
    *overrides: str | Mapping[str, Any],
    dir: Path | str | None = None,
    config_dir: Path | str | None = None,
    model: Any = None,
    data: Any = None,
    env: Callable[..., Any] | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Result:
    """Train; the same as `trivium train OVERRIDES`, and with objects where the command has names.

    Args:
        overrides: `group=option` and `dotted.key=value`, e.g. `"experiment=ppo_cartpole", "agent.lr=1e-3"`, or dicts of
            them, e.g. `{"agent.lr": 1e-3}`.
        dir: the run folder; by default a new one under `storage`.
        config_dir: a folder with YAML of your own; modules are found beside it and in it too.
        model: in the place of the config's: a class or function, which is called with what it takes of what the data
            offers (`input_shape`, `num_outputs`, ...), or a module, which is copied.
        data: in the place of the config's: arrays (x, y) and more, see `trivium.python.arrays.as_splits`.
        env: in the place of the config's `env.id`: a class, or a function, that makes a gymnasium env.
        callbacks: see `trivium.callbacks.Callback`.
        quiet: show no progress.

    Returns:
        The metrics, the run folder and the learner.

    Raises:
        ConfigError: everything that is wrong with the config; nothing was made on the disk.
    """
    from trivium import launch
    from trivium.config import composing
    from trivium.python import objects
    from trivium.python.values import as_texts
    from trivium.tracking.progress import Display

    dir, config_dir = (None if path is None else os.path.expanduser(path) for path in (dir, config_dir))
    handed = {"model": model, "data": data, "env": env}
    in_config, lines = objects.as_overrides(handed)
    with objects.handed_over(handed):
        composed = composing.compose([*in_config, *as_texts(overrides)], config_dir, dir)
        objects.require(composed)
        display = Display(quiet=quiet)
        for line in lines:
            display.say(line)
        return launch.train(
            composed,
            config_dir=config_dir,
            dir=None if dir is None else Path(dir),
            display=display,
            callbacks=callbacks,
        )


def resume(
    dir: Path | str,
    *overrides: str | Mapping[str, Any],
    trusted: Collection[str] = (),
    model: Any = None,
    data: Any = None,
    env: Callable[..., Any] | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Result:
    """Continue a run from its newest sound checkpoint; see `trivium.launch.resume`, and for the objects `train`: what a
    run was given and its folder does not hold is handed over again."""
    from trivium import launch
    from trivium.python import objects
    from trivium.python.values import as_texts
    from trivium.tracking.progress import Display

    handed = {"model": model, "data": data, "env": env}
    with objects.handed_over(handed):
        return launch.resume(
            dir,
            as_texts(overrides),
            trusted=[*trusted, *objects.modules_of(handed)],
            display=Display(quiet=quiet),
            callbacks=callbacks,
        )


def evaluate(
    dir: Path | str,
    *,
    checkpoint: str = "best",
    episodes: int | None = None,
    deterministic: bool | None = None,
    trusted: Collection[str] = (),
    model: Any = None,
    data: Any = None,
    env: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Measure `test/...` of a run's checkpoint; see `trivium.trained.evaluate`, and for the objects `resume`."""
    from trivium import trained
    from trivium.python import objects

    handed = {"model": model, "data": data, "env": env}
    with objects.handed_over(handed):
        return trained.evaluate(
            dir,
            checkpoint=checkpoint,
            episodes=episodes,
            deterministic=deterministic,
            trusted=[*trusted, *objects.modules_of(handed)],
        )


def judge(
    dir: Path | str,
    *,
    classifier: Path | str,
    num: int | None = None,
    seed: int = 0,
    checkpoint: str = "best",
    trusted: Collection[str] = (),
    **how: float,
) -> dict[str, Any]:
    """Measure how good the samples of a run are by the features of a classifier's run; see `trivium.judging.judge`."""
    from trivium.judging.judge import judge as judged

    return judged(dir, classifier=classifier, num=num, seed=seed, checkpoint=checkpoint, trusted=trusted, **how)


def load(dir: Path | str, *, checkpoint: str = "best", trusted: Collection[str] = (), model: Any = None) -> Trained:
    """The trained model of a run, to predict, sample or act with; needs neither its data nor its envs.

    Args:
        dir: the run folder, or its URL in a bucket.
        checkpoint: best, last, or a name.
        trusted: modules of your own whose names the run's config may build.
        model: the model's class, of a run that was given it from Python.

    Raises:
        ConfigError: there is no run or no such checkpoint, or the run does not say what its data were.
    """
    from trivium.loaded import load
    from trivium.python import objects

    handed = {"model": model}
    with objects.handed_over(handed):
        return load(dir, checkpoint=checkpoint, trusted=[*trusted, *objects.modules_of(handed)])


def __getattr__(name: str) -> Any:
    if name == "ConfigError":
        from trivium.config.errors import ConfigError

        return ConfigError
    if name == "Callback":
        from trivium.callbacks import Callback

        return Callback
    raise AttributeError(f"module 'trivium' has no attribute {name!r}")
