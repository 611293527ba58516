"""The test results of an experiment over seeds that it was not tuned on: one line a seed, then mean, min and max.

python benchmarks/experiments_over_seeds.py dqn_cartpole [--seeds 100-109] [KEY=VALUE ...]

Runs one after another, each in a process of its own on one thread, in a folder that is removed. What experiments state
in their first lines comes from here. They were tuned on other seeds, mostly 0 to 9.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence


def seeds(text: str) -> list[int]:
    """`100-102,7` as [100, 101, 102, 7].

    Raises:
        ValueError: a part is neither a number nor a span of numbers, the lower first.
    """
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span:
            raise ValueError(f"{part}: the lower number must come first")
        numbers.extend(span)
    return numbers


def results(experiment: str, seed: int, overrides: Iterable[str]) -> dict[str, float]:
    """The `test/...` metrics of one run.

    Raises:
        RuntimeError: the run failed; the message ends with what it said.
    """
    arguments = [f"experiment={experiment}", "threads=1", "tracking.wandb=false", *overrides, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "trivium.cli", "train", *arguments, "--quiet", "--json", "--dir", "run"],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "WANDB_MODE": "disabled"},
        )
    if done.returncode:
        raise RuntimeError(f"{experiment}, seed {seed}, ended with {done.returncode}\n{done.stdout}{done.stderr}")
    metrics = json.loads(done.stdout.splitlines()[-1])["metrics"]
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def summary(of_seeds: Mapping[int, Mapping[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Mean, min and max of each metric over the seeds; a metric that a run lacks is left out.

    Example:
        {100: {"test/x": 1.0}, 101: {"test/x": 4.0, "test/y": 2.0}} -> {"test/x": (2.5, 1.0, 4.0)}
    """
    common = [name for name in next(iter(of_seeds.values())) if all(name in each for each in of_seeds.values())]
    columns = {name: [each[name] for each in of_seeds.values()] for name in common}
    return {name: (statistics.fmean(column), min(column), max(column)) for name, column in columns.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", help="one of those that `trivium list` shows")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for `trivium train`")
    parser.add_argument("--seeds", type=seeds, default=seeds("100-109"), help="e.g. 100-104 or 3,5,8 (100-109)")
    options = parser.parse_intermixed_args(arguments)  # overrides may follow --seeds
    of_seeds: dict[int, dict[str, float]] = {}
    for seed in options.seeds:
        try:
            of_seeds[seed] = results(options.experiment, seed, options.overrides)
        except RuntimeError as error:
            sys.exit(str(error))
        print(
            f"seed {seed:4}", *(f"{name} {value:.6g}" for name, value in of_seeds[seed].items()), sep="  ", flush=True
        )
    print(f"{options.experiment}, {len(of_seeds)} seeds:")
    for name, (mean, low, high) in summary(of_seeds).items():
        print(f"  {name:24} mean {mean:.6g}, min {low:.6g}, max {high:.6g}")


if __name__ == "__main__":
    main()
