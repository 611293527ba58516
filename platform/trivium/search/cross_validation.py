"""Cross-validation: one run for each fold of a data set, and what they come to together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivium import launch
from trivium.checkpoints.kept_files import write_whole
from trivium.config.composing import compose, read
from trivium.config.constructors import EVERYTHING
from trivium.config.errors import Config, ConfigError
from trivium.run_folder.folder import Result
from trivium.tracking.progress import Display
from trivium.training.loop import Interrupted

NAME = "cross_validation.json"
DECIDED = "compile"  # what a run's config says of it is what was decided when it began


def cross_validate(
    overrides: Sequence[str],
    *,
    folds: int,
    dir: Path,
    config_dir: Path | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Train and test once for each fold. Folds that have finished in the folder are taken as they are, one that was
    killed is continued: the same call goes on.

    Args:
        overrides: see `trivium.config.compose`; the data set must accept `folds` and `fold`.
        folds: how many, at least 2.
        dir: where the runs lie: `fold-0`, `fold-1`, ... and `cross_validation.json`.

    Returns:
        `folds`: of each its number, the run folder and its test metrics; `metrics`: by name the mean, the standard
        deviation between folds, the least and the greatest; `lost`: what could not be written, in sentences.

    Raises:
        ConfigError: the config is wrong, the data set has no folds, or the folder holds folds of other settings.
    """
    configs = _configs(overrides, folds, dir, config_dir)
    display = display or Display()
    done: list[dict[str, Any]] = []
    lost: list[str] = []
    for fold, config in enumerate(configs):
        display.say(f"fold {fold + 1} of {folds}")
        try:
            result = _result(config, dir / f"fold-{fold}", config_dir, display)
        except Interrupted as error:
            own = [] if config_dir is None else ["--config-dir", str(config_dir)]
            error.arguments = ["cross-validate", "--folds", str(folds), "--dir", str(dir), *own, *overrides]
            raise
        metrics = {name: value for name, value in result.metrics.items() if name.startswith("test/")}
        done.append({"fold": fold, "dir": str(result.dir), "metrics": metrics})
        lost.extend(result.lost)
    summary = {"folds": done, "metrics": together([of["metrics"] for of in done])}
    write_whole(dir / NAME, json.dumps(summary, indent=1).encode()).close()
    return {**summary, "lost": lost}


def together(of_folds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation (of a sample, n - 1), min and max of each metric that all folds have."""
    names = [name for name in of_folds[0] if all(name in metrics for metrics in of_folds)]
    values = {name: [metrics[name] for metrics in of_folds] for name in names}
    return {
        name: {"mean": statistics.fmean(of), "std": statistics.stdev(of), "min": min(of), "max": max(of)}
        for name, of in values.items()
    }


def _configs(overrides: Sequence[str], folds: int, dir: Path, config_dir: Path | None) -> list[Config]:
    if folds < 2:
        raise ConfigError([f"--folds {folds}: must be at least 2"])
    data = compose(overrides, config_dir).get("data") or {}
    if "folds" not in data or "fold" not in data:
        raise ConfigError([f"data: {data.get('_target_', 'the experiment has none and')} accepts no folds"])
    each = [compose([*overrides, f"data.folds={folds}", f"data.fold={fold}"], config_dir) for fold in range(folds)]
    for fold, config in enumerate(each):
        run = dir / f"fold-{fold}"
        if run.exists() and {**read(run), DECIDED: None} != {**config, DECIDED: None}:
            raise ConfigError([f"{run} was trained with other settings; choose another --dir"])
    return each


def _result(config: Config, run: Path, config_dir: Path | None, display: Display) -> Result:
    if run.exists():
        return launch.resume(run, trusted=EVERYTHING, config_dir=config_dir, display=display)
    return launch.train(config, dir=run, config_dir=config_dir, display=display)
