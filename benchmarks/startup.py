"""Seconds from the command `trivium train` to the first step, inline and on Ray, and where they go.

python benchmarks/startup.py [--runs 5] [--ray]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

# Runs in the measured process. The clock starts before Python does: the parent hands over its time.
PROBE = """
import json, os, sys, time
marks = {"python": time.time()}
from trivium import config
composed = config.compose(sys.argv[1:])
marks["config"] = time.time()
import torch
marks["import torch"] = time.time()
from trivium import launch, loop, worker
marks["import trivium"] = time.time()
make = worker.make_learner
def timed(task, run):
    learner = make(task, run)
    marks["build the learner"] = time.time()
    return learner
worker.make_learner = timed
train = loop.Loop.train
def first(self):
    step = self.learner.step
    def once():
        marks["open the run"] = time.time()
        result = step()
        marks["the first step"] = time.time()
        print(json.dumps(marks), flush=True)
        os._exit(0)
    self.learner.step = once
    return train(self)
loop.Loop.train = first
launch.train(composed)
"""


def inline() -> dict[str, float]:
    """Seconds of each phase of one start."""
    with tempfile.TemporaryDirectory() as folder:
        import time

        began = time.time()
        done = subprocess.run(
            [sys.executable, "-c", PROBE, "experiment=mlp_digits"], cwd=folder, capture_output=True, text=True
        )
    if done.returncode:
        sys.exit(done.stderr)
    marks = json.loads(done.stdout.splitlines()[-1])
    phases, before = {}, began
    for name, at in marks.items():
        phases[name], before = at - before, at
    return phases


def on_ray() -> dict[str, float]:
    """Seconds of each phase of one start with two workers of a Ray started for the run, by what the run folder says."""
    import time
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        arguments = [
            "train",
            "experiment=mlp_digits",
            "launch=ray",
            "log.every_updates=1",
            "budget.updates=3",
            "--dir",
            "run",
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "trivium.cli", *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            marks = {}
            for name, path in {"the driver": "run/config.yaml", "Ray and its workers": "run/metrics.jsonl"}.items():
                while not (Path(folder) / path).exists():
                    time.sleep(0.01)
                    if process.poll() is not None:
                        sys.exit("the run failed")
                marks[name] = time.time() - began - sum(marks.values())
            process.wait()
            marks["training, the end and Ray's shutdown"] = time.time() - began - sum(marks.values())
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="on Ray instead of inline")
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    measured = [(on_ray if options.ray else inline)() for _ in range(options.runs)]
    for phase in measured[0]:
        print(f"{phase:40} {statistics.median(m[phase] for m in measured):6.2f} s")
    print(f"{'all':40} {statistics.median(sum(m.values()) for m in measured):6.2f} s (median of {options.runs})")


if __name__ == "__main__":
    main()
