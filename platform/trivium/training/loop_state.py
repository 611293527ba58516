"""What the loop's part of a checkpoint must look like before it is taken for one, since the file may be a stranger's,
and what of the machine decides a result's bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trivium.boundary.untrusted import by_name, count, finite, optional, text
from trivium.learner import Learner, Run
from trivium.parallel.averaging import modules_of

log = logging.getLogger("trivium")

MOST_THREADS = 4096


def _number(value: Any) -> bool:
    """a number"""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(value: Any) -> bool:
    """a number >= 0"""
    return finite(value) and value >= 0


def _flag(value: Any) -> bool:
    """true or false"""
    return isinstance(value, bool)


def _threads(value: Any) -> bool:
    """a whole number in [1, 4096]"""
    return count(value) and 1 <= value <= MOST_THREADS


def _update(value: Any) -> bool:
    """a whole number >= -1"""
    return value == -1 or count(value)


def _texts(value: Any) -> bool:
    """a list of texts"""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _table(value: Any) -> bool:
    """a tensor of two dimensions"""
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()


def _row(value: Any) -> bool:
    """a row with step and updates, or null"""
    if value is None:
        return True
    numbers = by_name(optional(_number))(value)
    return numbers and count(value.get("step")) and count(value.get("updates"))


SHAPE = {
    "computed_by": {"torch": text, "device": text, "processor": text, "threads": _threads, "compile": _flag},
    "learner": dict,
    "rng": dict,
    "tracker": dict,
    "loop": {
        "updates": count,
        "elapsed_s": _seconds,
        "window": {"names": _texts, "values": _table},
        "metrics": by_name(_number),
        "evaluated_at": _update,
        "pending": _row,
        "best": optional(_number),
        "best_step": optional(count),
        "without_improvement": count,
        "target_met": _flag,
        "judged_by": {"monitor": list, "target": optional(text)},
    },
}


def counters_problem(counters: dict[str, float]) -> str | None:
    """What is wrong with the counters of a learner that has taken a state over."""
    wrong = {name: value for name, value in counters.items() if not (math.isfinite(value) and value >= 0)}
    return f"the learner's counters are {wrong}, which are not >= 0" if wrong else None


def weights_finite(learner: Learner) -> bool:
    """Whether no parameter of a learner's modules that is trained holds a NaN or Inf."""
    parameters = [p for module in modules_of(learner) for p in module.parameters() if p.requires_grad]
    of_devices: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        if not isinstance(parameter, nn.UninitializedParameter):
            of_devices.setdefault(parameter.device, []).append(parameter.isfinite().all())
    return all(bool(torch.stack(finite).all()) for finite in of_devices.values())


def computed_by(run: Run) -> dict[str, Any]:
    """What, besides the state, decides the bits of a result."""
    return {
        "torch": str(torch.__version__),
        "device": run.device.type,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "compile": run.compile,
    }


def compute_as(before: Mapping[str, Any], run: Run, *, any_threads: bool) -> None:
    """Sums depend on how many threads share them: take as many as before, and say what else is not the same.

    Args:
        before: what `computed_by` was.
        any_threads: whether the config leaves their number to us.
    """
    if any_threads:
        torch.set_num_threads(before["threads"])
    now = computed_by(run)
    different = [f"{what} {before[what]}, now {now[what]}" for what in now if now[what] != before[what]]
    if different and run.rank == 0:
        log.warning("the run goes on, but not to the same bits: it began on %s", "; ".join(different))
