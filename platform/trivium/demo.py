"""`make demo`: one learner of each family, from nothing to a stated result, with a report for each."""

from __future__ import annotations

import os
import sys
import time

from trivium import launch
from trivium.config import composing

# experiment, what it is, the metric one would publish, the value it promises
PROMISES = [
    ("mlp_digits", "an MLP reads handwritten digits", "test/accuracy", 0.97),
    ("vae_digits", "a VAE learns to draw them", "test/elbo", -25.0),
    ("ppo_cartpole", "PPO balances a pole", "test/return_mean", 475.0),
]


def main() -> int:
    """Train all three; 0 if each kept its promise."""
    kept, lines = True, []
    for name, what, metric, promise in PROMISES:
        print(f"\n{name}: {what}", flush=True)
        began = time.monotonic()
        result = launch.train(composing.compose([f"experiment={name}"]))
        value = result.metrics[metric]
        kept &= value >= promise
        said = "promised" if value >= promise else "PROMISED"
        took = f"{time.monotonic() - began:.1f} s"
        lines.append(f"{name:<14}{metric:<18}{value:>8.4g}   {said} >= {promise:<6g} {took:>8}")
        lines.append(f"{'':<14}{os.path.relpath(result.dir / 'report.html')}")
    print("\n" + "\n".join([f"{'trained':<14}{'result':<37}{'':<9}{'time':>8}", *lines]))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
