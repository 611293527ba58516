"""What Trivium costs beside a bare PyTorch loop: samples/s, peak memory, and whether the weights are the same bits.

    python benchmarks/loop_overhead.py [mlp_digits mlp lenet resnet18 lstm gpt ...] [--runs 5] [--lightning]

Both train the same model on the same batches, on one thread, in turn, each run in a process of its own; Trivium with
everything on that is on by default: config, logging, checkpoints, metrics.jsonl, W&B's files. With `--lightning`, a
Lightning Trainer with a DataLoader of the same tensors takes its turn too (pip install -e '.[peers]'). All but
mlp_digits need $TRIVIUM_DATASETS, the folder with `mnist` and `tinyshakespeare.txt`.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from trivium.data.source import Splits


class Case(NamedTuple):
    """Attributes:
    overrides: the names of the model and the data.
    model: keywords of the model.
    smoothing: of the labels.
    """

    overrides: str
    model: Mapping[str, Any]
    batch_size: int
    updates: int
    lr: float = 1e-3
    weight_decay: float = 0.01
    smoothing: float = 0.0


CASES = {
    "mlp_digits": Case(
        "model=mlp data=digits", {"hidden": [512], "dropout": 0.5}, 64, 4000, lr=3e-3, weight_decay=0.1, smoothing=0.1
    ),
    "mlp": Case("model=mlp data=mnist", {"hidden": [512, 512], "dropout": 0.2}, 128, 1500),
    "mlp_128": Case("model=mlp data=mnist", {"hidden": [128], "dropout": 0.0}, 128, 4000),
    "lenet": Case("model=lenet data=mnist", {}, 128, 800),
    "resnet18": Case("model=resnet data=mnist", {"depth": 18, "width": 64, "stem": "small"}, 32, 40),
    "lstm": Case("model=recurrent data=mnist", {"hidden_size": 128}, 128, 300),
    "gpt": Case("model=gpt data=text data.path=tinyshakespeare.txt", {}, 12, 300),
}


def bare(case: Case) -> dict[str, Any]:
    """A loop as one writes it by hand: tensors, an index a batch, nothing else."""
    import torch
    from torch.nn import functional as F

    from trivium.learner import Run

    data, model, optimizer = _made(case)
    n, size = len(data.train), case.batch_size
    epochs = case.updates * size // n + 2
    began = time.perf_counter()
    order = torch.cat([torch.randperm(n, generator=Run().generator("order", e)) for e in range(epochs)])
    for i in range(case.updates):
        batch = data.train.batch(order[i * size : (i + 1) * size])
        optimizer.zero_grad()
        output = model(batch["x"])
        y = batch["y"].flatten()
        loss = F.cross_entropy(output.view(len(y), -1), y, label_smoothing=case.smoothing)
        loss.backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - began, "weights": _digest(model)}


def through_trivium(case: Case) -> dict[str, Any]:
    """The same through `trivium.train`, less start-up and the evaluation that ends every run."""
    os.environ["WANDB_MODE"] = "offline"
    import trivium

    result = trivium.train(
        "learner=supervised",
        *case.overrides.split(),
        *(f"model.{key}={value}".replace(" ", "") for key, value in case.model.items()),
        f"learner.batch_size={case.batch_size}",
        f"learner.lr={case.lr}",
        f"learner.optimizer.weight_decay={case.weight_decay}",
        *(["task=classification", f"task.label_smoothing={case.smoothing}"] if case.smoothing else []),
        f"budget.updates={case.updates}",
        "evaluation.every_updates=null",
        "threads=1",
    )
    rows = [json.loads(line) for line in (result.dir / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "time/elapsed_s" in row][-1]  # taken before the closing evaluation
    return {"seconds": last["time/elapsed_s"], "weights": _digest(result.learner.model)}  # type: ignore[attr-defined]


def through_lightning(case: Case) -> dict[str, Any]:
    """A Lightning Trainer with its usual DataLoader, logger, progress bar and checkpoint; the order is its own."""
    import torch
    from lightning import LightningModule, Trainer
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    data, model, optimizer = _made(case)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.began = 0.0

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            x, y = batch
            y = y.flatten()
            loss = F.cross_entropy(self.model(x).view(len(y), -1), y, label_smoothing=case.smoothing)
            self.log("loss", loss)
            return loss

        def on_train_start(self) -> None:
            self.began = time.perf_counter()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    rows = data.train.batch(torch.arange(len(data.train)))
    loader = DataLoader(TensorDataset(rows["x"], rows["y"]), batch_size=case.batch_size, shuffle=True, drop_last=True)
    module = Module()
    Trainer(max_steps=case.updates, max_epochs=-1, accelerator="cpu", enable_model_summary=False).fit(module, loader)
    return {"seconds": time.perf_counter() - module.began, "weights": None}


def _made(case: Case) -> tuple[Splits, torch.nn.Module, torch.optim.Optimizer]:
    import torch
    from hydra.utils import instantiate

    from trivium import config

    torch.set_num_threads(1)
    torch.manual_seed(0)
    composed = config.compose(["learner=supervised", *case.overrides.split(), "budget.updates=1"])
    data = instantiate(composed["data"])
    offers = data.signature.offers
    known = ("input_shape", "num_outputs") if "input_shape" in offers else ("vocab_size", "context")
    model = instantiate(composed["model"])(**{name: offers[name] for name in known}, **case.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.lr, weight_decay=case.weight_decay, fused=True)
    return data, model, optimizer


def _digest(model: Any) -> str:
    import hashlib

    content = b"".join(v.numpy().tobytes() for v in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()[:16]


KINDS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "bare": bare,
    "trivium": through_trivium,
    "lightning": through_lightning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["mlp_digits"], metavar="CASE", help=" ".join(CASES))
    parser.add_argument("--runs", type=int, default=5, help="of each")
    parser.add_argument("--lightning", action="store_true")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        done = KINDS[options.only](CASES[options.cases[0]])
        print(json.dumps({**done, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))
        return
    for name in options.cases:
        compare(name, runs=options.runs, kinds=["bare", "trivium", *(["lightning"] if options.lightning else [])])


def compare(name: str, *, runs: int, kinds: list[str]) -> None:
    """Run each kind in turn; prints medians, the ratios of each turn and whether the weights are alike."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind in kinds:
            found[kind].append(_measure([name, "--only", kind]))
    case = CASES[name]
    print(f"{name}: {case.updates:,} updates of {case.batch_size}")
    for kind, results in found.items():
        rate = case.updates * case.batch_size / statistics.median(r["seconds"] for r in results)
        print(f"  {kind:10} {rate:>10,.0f} samples/s   peak {statistics.median(r['peak_mb'] for r in results):,.0f} MB")
    for peer in [kind for kind in kinds if kind != "trivium"]:
        ratios = [p["seconds"] / t["seconds"] for p, t in zip(found[peer], found["trivium"], strict=True)]
        print(f"  against {peer}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    same = {r["weights"] for kind in ("bare", "trivium") for r in found[kind]}
    print(f"  weights: {'the same bits' if len(same) == 1 else 'DIFFERENT'}", flush=True)


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
