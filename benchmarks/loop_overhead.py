"""What Trivium costs beside a bare PyTorch loop: samples/s, peak memory, and whether the weights are the same bits.

Both train the MLP of `mlp_digits` (or with --mnist one of MNIST) on the same batches, in turn, each run in a process of
its own; Trivium with everything on that is on by default: config, logging, checkpoints, metrics.jsonl, W&B's files.

    python benchmarks/loop_overhead.py [--mnist DIR] [--runs 7] [--updates 4000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DIGITS = {"hidden": [512], "batch_size": 64, "dropout": 0.5, "lr": 3e-3, "label_smoothing": 0.1, "weight_decay": 0.1}
MNIST = {
    "hidden": [512, 512],
    "batch_size": 128,
    "dropout": 0.2,
    "lr": 1e-3,
    "label_smoothing": 0.0,
    "weight_decay": 0.01,
}


def bare(settings: dict[str, Any], updates: int, mnist: str | None) -> dict[str, Any]:
    """A loop as one writes it by hand: tensors, an index a batch, nothing else."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from trivium.data.digits import digits
    from trivium.data.mnist import mnist as load_mnist
    from trivium.learner import Run
    from trivium.supervised.models.mlp import MLP

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_mnist(path=mnist) if mnist else digits()
    model: nn.Module = MLP(
        input_shape=data.signature.offers["input_shape"],
        num_outputs=10,
        hidden=settings["hidden"],
        dropout=settings["dropout"],
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"], fused=True
    )
    x, y, n, size = *data.train.columns.values(), len(data.train), settings["batch_size"]
    epochs = updates * size // n + 2
    began = time.perf_counter()
    order = torch.cat([torch.randperm(n, generator=Run().generator("order", e)) for e in range(epochs)])
    for i in range(updates):
        index = order[i * size : (i + 1) * size]
        optimizer.zero_grad()
        logits = model(x.index_select(0, index))
        loss = F.cross_entropy(logits, y.index_select(0, index), label_smoothing=settings["label_smoothing"])
        loss.backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - began, "weights": _digest(model)}


def through_trivium(settings: dict[str, Any], updates: int, mnist: str | None) -> dict[str, Any]:
    """The same through `trivium.train`, less start-up and the evaluation that ends every run."""
    os.environ["WANDB_MODE"] = "offline"
    import trivium

    result = trivium.train(
        "experiment=mlp_digits",
        *(["data=mnist", f"data.path={mnist}"] if mnist else []),
        f"model.hidden={settings['hidden']}".replace(" ", ""),
        f"model.dropout={settings['dropout']}",
        f"learner.batch_size={settings['batch_size']}",
        f"learner.lr={settings['lr']}",
        f"task.label_smoothing={settings['label_smoothing']}",
        f"learner.optimizer.weight_decay={settings['weight_decay']}",
        "learner.decay_epochs=null",
        "monitor.metric=null",
        "evaluation.every_updates=null",
        "budget.epochs=null",
        f"budget.updates={updates}",
        "threads=1",
        "checkpoint.every_updates=null",  # every 60 s, as by default
    )
    rows = [json.loads(line) for line in (result.dir / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "time/elapsed_s" in row][-1]  # taken before the closing evaluation
    return {"seconds": last["time/elapsed_s"], "weights": _digest(result.learner.model)}  # type: ignore[attr-defined]


def _digest(model: Any) -> str:
    import hashlib

    content = b"".join(v.numpy().tobytes() for v in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", metavar="DIR", help="the folder with MNIST's IDX files; digits without it")
    parser.add_argument("--runs", type=int, default=7, help="pairs of runs")
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--only", choices=["bare", "trivium"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run = bare if options.only == "bare" else through_trivium
        done = run(MNIST if options.mnist else DIGITS, options.updates, options.mnist)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps({**done, "peak_mb": peak_mb}))
        return

    results: dict[str, list[dict[str, Any]]] = {"bare": [], "trivium": []}
    for _ in range(options.runs):
        for kind, found in results.items():
            found.append(_measure([*sys.argv[1:], "--only", kind]))
    size = (MNIST if options.mnist else DIGITS)["batch_size"]
    ratios = [b["seconds"] / t["seconds"] for b, t in zip(results["bare"], results["trivium"], strict=True)]
    for kind, found in results.items():
        rate = options.updates * size / statistics.median(r["seconds"] for r in found)
        print(f"{kind:8} {rate:>10,.0f} samples/s   peak {statistics.median(r['peak_mb'] for r in found):,.0f} MB")
    same = {r["weights"] for found in results.values() for r in found}
    print(f"ratio {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}, {len(ratios)} pairs)")
    print(f"weights: {'the same bits' if len(same) == 1 else 'DIFFERENT'}")


def _measure(arguments: list[str]) -> dict[str, Any]:
    script = str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, script, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
