"""What a test costs in CPU time, and what it may cost, so that the sum of all stays small."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Collection

import psutil

REPORTED_S = {
    "slow": math.inf,
    "gpu": math.inf,
    "kill": 15.0,
    "ray": 15.0,
    "compiles": 30.0,
}  # by marker; these start processes
QUICK_S = 5.0  # of a test without any of those markers
FAILS_AT = 3.0  # times that, on a machine as fast as the one that `slowness` was measured on: a busy one takes more too
LOOP_S = 0.13  # what `slowness` takes there


class Meter:
    """The CPU seconds that this process and its children use from now on."""

    def __init__(self) -> None:
        self.began = time.time()
        self.before = sum(os.times()[:4])

    def read(self) -> float:
        """Those of this process, of children that have ended, and of younger ones that still run."""
        used = sum(os.times()[:4]) - self.before
        if used < QUICK_S and time.time() - self.began < QUICK_S:  # a look at all processes takes milliseconds
            return used
        for child in psutil.Process().children(recursive=True):
            try:
                if child.create_time() >= self.began:
                    used += sum(child.cpu_times()[:4])
            except psutil.Error:  # it has just ended
                continue
        return used


def limit_s(markers: Collection[str]) -> float:
    """How many CPU seconds a test with these markers may take before it is reported."""
    return max([REPORTED_S[name] for name in markers if name in REPORTED_S], default=QUICK_S)


@functools.cache
def slowness() -> float:
    """How many times longer this machine takes than the one on which the limits were set, at least 1."""
    took = []
    for _ in range(3):
        began = time.process_time()
        sum(i * i for i in range(2_000_000))
        took.append(time.process_time() - began)
    return max(1.0, min(took) / LOOP_S)


def verdict(used_s: float, markers: Collection[str], slowness: float) -> str:
    """`fine`, `reported` or `failed` for a test that used so many CPU seconds."""
    limit = limit_s(markers) * slowness
    return "fine" if used_s <= limit else "reported" if used_s <= FAILS_AT * limit else "failed"
