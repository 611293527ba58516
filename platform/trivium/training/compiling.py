"""Whether a run compiles: decided once, before it begins."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time

import torch

from trivium import borrowed
from trivium.learner import close
from trivium.run_folder import environment
from trivium.run_folder.task import Task
from trivium.training.budget import Budget
from trivium.training.machine import threads
from trivium.training.machine.device import device_of
from trivium.training.worker import make_learner, make_run

log = logging.getLogger("trivium")

COMPILE_FROM_S = 120  # a run that takes longer eagerly earns the compilation back: 5 to 60 s
SHORT = {"minutes": 2, "updates": 2_000, "samples": 1_000_000, "env_steps": 200_000, "epochs": 20}


def decide_compile(task: Task) -> bool:
    """What `compile` comes to, once and for all for a run: what is compiled computes other bits.

    `auto` compiles when the run would take longer than `COMPILE_FROM_S` without: some steps of a learner that is thrown
    away tell, unless the budget is so small that it can't. It does not on Ray, where the learner is built elsewhere,
    nor on Apple's GPU, for which torch's compiler is a prototype.
    """
    asked, config = task.config["compile"], task.config
    if asked is False:
        return False
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        log.warning("compile=%s: there is no C++ compiler here, so nothing is compiled", str(asked).lower())
        return False
    if asked is True or config["launch"]["engine"] == "ray" or device_of(config).type == "mps":
        return bool(asked is True)
    limits = {name: value for name, value in config["budget"].items() if name in SHORT and value is not None}
    if any(value <= SHORT[name] for name, value in limits.items()):
        return False
    return _eager_s(task) > COMPILE_FROM_S


def _eager_s(task: Task) -> float:
    """How long the run would take without compilation, s."""
    config = {**task.config, "compile": False}
    with borrowed.process(config, device_of(config)), contextlib.ExitStack() as held:
        learner = make_learner(Task(config, task.dir, task.trusted), make_run(config, None))
        held.callback(close, learner)
        with threads.counted(compile=False) as work:
            learner.step()  # warms up, and may collect more than the others
        if config["threads"] == "auto":
            torch.set_num_threads(threads.worth(work.typical_flop, environment.cores()))
        budget, began, updates = Budget(config["budget"], learner.counters()), time.monotonic(), 0
        before = budget.fraction(learner.counters(), updates, 0.0)
        passed = 0.0
        while updates < 20 and passed < 0.5:
            learner.step()
            updates += 1
            passed = time.monotonic() - began
        done = budget.fraction(learner.counters(), updates, passed) - before
    return passed / done if done > 0 else math.inf
