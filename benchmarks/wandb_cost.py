"""What W&B's offline tracking costs a run: the same run with it and without, in turn, and microseconds per row.

python benchmarks/wandb_cost.py [--runs 7] [--updates 6000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LOG_EVERY = 50


def seconds(updates: int, *, wandb: bool) -> float:
    """Seconds of training of one run, as its last row has them."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["experiment=mlp_digits", "budget.epochs=null", f"budget.updates={updates}", "threads=1"]
        arguments += ["evaluation.every_updates=null", "monitor.metric=null", f"log.every_updates={LOG_EVERY}"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "trivium.cli",
                "train",
                *arguments,
                f"tracking.wandb={wandb}".lower(),
                "--dir",
                "run",
            ],
            cwd=folder,
            capture_output=True,
            check=True,
            env={**os.environ, "WANDB_MODE": "offline"},
        )
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return float([row for row in rows if "time/elapsed_s" in row][-1]["time/elapsed_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--updates", type=int, default=6000)
    options = parser.parse_args()
    pairs = [(seconds(options.updates, wandb=False), seconds(options.updates, wandb=True)) for _ in range(options.runs)]
    without, with_wandb = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [w / o for o, w in pairs]
    print(f"without {without:.2f} s, with {with_wandb:.2f} s for {options.updates} updates, {LOG_EVERY} a row")
    print(f"ratio of times {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})")
    print(f"{(with_wandb - without) / options.updates * 1e6:.1f} us a step, start-up of W&B's process included")


if __name__ == "__main__":
    main()
