"""What a search costs beside its trainings: trivial trials against plain Ray Tune, and trials of mlp_digits against
their trainings alone.

    python benchmarks/search_cost.py [trivial] [mlp] [--trials 100]

`trivial`: trials of one update. Tune's own are function trainables, each in a process of its own, as a first script has
them: they import Trivium and train. Trivium's are those of `trivium tune`, whose workers are used again.
`mlp`: 16 trials of mlp_digits on two cores against half the sum of the same trainings, one after the other in a process
that has everything imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIVIAL = ["experiment=mlp_digits", "budget.epochs=null", "budget.updates=1", "tracking.wandb=false", "threads=1"]
MLP = ["experiment=mlp_digits", "tracking.wandb=false", "threads=1"]

PLAIN = """
import json, os, sys
from ray import tune

def train(config):
    import trivium
    result = trivium.train(*json.loads(os.environ["TYPED"]), f"learner.lr={config['lr']}", quiet=True)
    tune.report({"score": result.metrics["test/loss"]})

tune.Tuner(
    tune.with_resources(train, {"cpu": 1}),
    param_space={"lr": tune.loguniform(1e-4, 1e-1)},
    tune_config=tune.TuneConfig(metric="score", mode="min", num_samples=int(sys.argv[1])),
    run_config=tune.RunConfig(storage_path=os.getcwd(), verbose=0),
).fit()
"""

ALONE = """
import json, os, sys, time
import trivium
typed = json.loads(os.environ["TYPED"])
trivium.train(*typed, "budget.epochs=null", "budget.updates=1", quiet=True)
began = time.perf_counter()
for i in range(int(sys.argv[1])):
    trivium.train(*typed, f"learner.lr={10 ** (-4 + 3 * i / 16)}", quiet=True)
print(time.perf_counter() - began)
"""


def seconds(arguments: list[str], typed: list[str]) -> tuple[float, str]:
    """The time of a command, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run(
            arguments, cwd=folder, capture_output=True, text=True, env={**os.environ, "TYPED": json.dumps(typed)}
        )
        took = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    return took, done.stdout


def tune(typed: list[str], trials: int) -> float:
    command = [str(Path(sys.executable).parent / "trivium"), "tune", *typed, "learner.lr=loguniform(1e-4,1e-1)"]
    return seconds([*command, f"search.num_trials={trials}", "--dir", "search", "--quiet"], typed)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["trivial", "mlp"], metavar="PART", help="trivial mlp")
    parser.add_argument("--trials", type=int, default=100, help="trivial ones")
    options = parser.parse_args()
    if "trivial" in options.parts:
        ours = tune(TRIVIAL, options.trials)
        plain, _ = seconds([sys.executable, "-c", PLAIN, str(options.trials)], TRIVIAL)
        print(f"{options.trials} trials: {ours:.1f} s against {plain:.1f} s of plain Tune: {ours / plain:.3f}")
    if "mlp" in options.parts:
        ours = tune(MLP, 16)
        alone = float(seconds([sys.executable, "-c", ALONE, "16"], MLP)[1].splitlines()[-1])
        print(
            f"16 trials of mlp_digits: {ours:.1f} s against {alone / 2:.1f} s, half their sum: {ours / (alone / 2):.3f}"
        )


if __name__ == "__main__":
    main()
