"""Settings that a short trial run finds: a learning rate and a batch size, before the training that counts."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from trivium import borrowed
from trivium.config.errors import Config, ConfigError
from trivium.learner import Learner, close
from trivium.run_folder.task import Task
from trivium.training import worker
from trivium.training.machine.device import device_of

SMOOTHING = 0.9  # of the losses: how much of the mean so far is kept
DIVERGED = 4.0  # times the smallest loss
ENOUGH = 0.9  # of the highest throughput: larger batches are not worth their memory
TIMED_S = 0.5  # of each batch size, at least


class Rate(NamedTuple):
    """An update at a learning rate: its loss, and the mean of the losses so far, smoothed."""

    lr: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class RateRange:
    """What a learning-rate range test found.

    Attributes:
        rates: one for each update, rising.
        suggestion: a tenth of the rate with the smallest smoothed loss; None if the loss never fell.
    """

    rates: list[Rate]
    suggestion: float | None


class Size(NamedTuple):
    """A batch size and what it comes to: samples per second, and the process's memory in bytes."""

    batch_size: int
    samples_per_s: float
    memory: int


@contextmanager
def built(config: Config) -> Iterator[Learner]:
    """The learner of a config, in a process that is as before afterwards."""
    with tempfile.TemporaryDirectory() as folder, borrowed.process(config, device_of(config)):
        run = worker.make_run(config, Path(folder))
        learner = worker.make_learner(Task(config, Path(folder)), run)
        try:
            yield learner
        finally:
            close(learner)


def _optimizers(learner: Learner) -> list[torch.optim.Optimizer]:
    found = [value for value in vars(learner).values() if isinstance(value, torch.optim.Optimizer)]
    if not found:
        raise ConfigError([f"{type(learner).__name__} has no optimizer of torch, whose rate could be varied"])
    return found


def _loss_of(logs: dict[str, torch.Tensor]) -> float:
    name = next((name for name in logs if name == "loss"), None) or next((n for n in logs if "loss" in n), None)
    if name is None:
        raise ConfigError([f"the learner logs no loss; it logs {', '.join(logs)}"])
    return float(logs[name])


def find_lr(config: Config, *, lowest: float, highest: float, updates: int) -> RateRange:
    """A range test (arXiv:1506.01186): train while the rate rises exponentially, until the loss has diverged.

    Args:
        config: of a learner with torch's optimizers; its schedule is not followed. Nothing is written.
        lowest, highest: rates, 0 < lowest < highest.
        updates: how many there are between them, at least 10.

    Raises:
        ConfigError: a number is out of range, or the learner has no such optimizer or no loss.
    """
    if not 0 < lowest < highest < math.inf or updates < 10:
        raise ConfigError([f"lowest={lowest:g} must be below highest={highest:g}, and updates={updates} at least 10"])
    rates: list[Rate] = []
    with built(config) as learner:
        lr = lowest

        def use_rate(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)

        for optimizer in _optimizers(learner):
            optimizer.register_step_pre_hook(use_rate)
        for i in range(updates):
            lr = lowest * (highest / lowest) ** (i / (updates - 1))
            loss = _loss_of(learner.step())
            if not math.isfinite(loss):
                break
            rates.append(Rate(lr, loss, smoothed([rate.loss for rate in rates] + [loss])))
            if rates[-1].smoothed > DIVERGED * min(rate.smoothed for rate in rates):
                break
    return RateRange(rates, suggested(rates))


def smoothed(losses: Sequence[float]) -> float:
    """The exponential mean of losses, without the bias to its beginning."""
    mean, weight = 0.0, 0.0
    for loss in losses:
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * loss, SMOOTHING * weight + (1 - SMOOTHING)
    return mean / weight


def suggested(rates: Sequence[Rate]) -> float | None:
    """A tenth of the rate with the smallest smoothed loss; None if no loss is smaller than the first."""
    if not rates:
        return None
    best = min(rates, key=lambda rate: rate.smoothed)
    return None if best is rates[0] else best.lr / 10


def find_batch_size(
    make: Callable[[int], Config], *, smallest: int, largest: int, say: Callable[[Size], None] = lambda size: None
) -> tuple[list[Size], int]:
    """Time updates with batches of doubling size until the memory or the data are too small for the next.

    Args:
        make: the config with a batch size.
        smallest, largest: sizes, 1 <= smallest <= largest.
        say: called with each.

    Returns:
        What was measured; and the smallest size with at least 90 % of the highest throughput.

    Raises:
        ConfigError: a number is out of range, or not even the smallest size can be trained with.
    """
    if not 1 <= smallest <= largest:
        raise ConfigError([f"smallest={smallest} must be at least 1 and at most largest={largest}"])
    sizes: list[Size] = []
    size = smallest
    while size <= largest:
        try:
            with built(make(size)) as learner:
                sizes.append(Size(size, _throughput(learner), _memory()))
        except ConfigError:
            if not sizes:
                raise
            break  # larger than the training set, most likely, or than the device's memory
        except (MemoryError, RuntimeError) as error:
            if not sizes or (isinstance(error, RuntimeError) and "memory" not in str(error)):
                raise
            break
        say(sizes[-1])
        if 2 * (sizes[-1].memory - sizes[0].memory) > _free_memory() / 2:  # a size further the machine might swap
            break
        size *= 2
    best = max(of.samples_per_s for of in sizes)
    return sizes, next(of.batch_size for of in sizes if of.samples_per_s >= ENOUGH * best)


def _throughput(learner: Learner) -> float:
    """Samples per second, after two updates that set things up."""
    for _ in range(2):
        learner.step()
    axis = next(iter(learner.counters()))
    before, begin = learner.counters()[axis], time.perf_counter()
    logs: dict[str, torch.Tensor] = {}
    while time.perf_counter() - begin < TIMED_S or learner.counters()[axis] == before:
        logs = learner.step()
        float(next(iter(logs.values())))  # waits for the device
    return (learner.counters()[axis] - before) / (time.perf_counter() - begin)


def _memory() -> int:
    """The bytes that this process holds; on a GPU the most that it has held there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    resident: int = psutil.Process().memory_info().rss
    return resident


def _free_memory() -> int:
    """Bytes that can still be had."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    free: int = psutil.virtual_memory().available
    return free


def rates_figure(found: RateRange, *, width: int = 800) -> np.ndarray:
    """Losses over learning rates, as they were and smoothed, with the suggestion: uint8 [H, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, width / 160), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lr = [rate.lr for rate in found.rates]
    axes.plot(lr, [rate.loss for rate in found.rates], color="#c3ccd4", linewidth=1, label="loss")
    axes.plot(lr, [rate.smoothed for rate in found.rates], color="#0b7285", linewidth=2, label="smoothed")
    if found.suggestion:
        axes.axvline(found.suggestion, color="#e8590c", linewidth=1, label=f"suggested: {found.suggestion:.1e}")
    least = min(rate.smoothed for rate in found.rates)
    axes.set_ylim(top=min(max(rate.loss for rate in found.rates), 3 * abs(found.rates[0].smoothed) + least) * 1.05)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss of an update")
    axes.legend(frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
