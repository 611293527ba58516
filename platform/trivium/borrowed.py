"""What a run borrows of its process, and gives back: random generators, threads and determinism exist once in it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from trivium.config.errors import Config

log = logging.getLogger("trivium")

_lock = threading.RLock()  # a run may evaluate another one, in the thread that it trains in


@contextlib.contextmanager
def alone_in_process() -> Iterator[None]:
    """Only one thread at a time is in here: two runs at once would draw from each other's generators, and each would
    come to a result that it does not have alone. Another thread waits, and the user is told why."""
    if not _lock.acquire(blocking=False):
        log.warning("another run of this process is under way; this one begins when it has ended")
        _lock.acquire()
    try:
        yield
    finally:
        _lock.release()


@contextlib.contextmanager
def process(config: Config, device: torch.device) -> Iterator[None]:
    """The process as a run wants it; afterwards, in whatever way the run has ended, as the caller had it.

    Args:
        config: for `threads`, of which there is one as long as it is `auto`, and `deterministic`.
        device: the run's, whose generator it seeds.
    """
    with alone_in_process(), contextlib.ExitStack() as given_back:
        given_back.enter_context(generators_kept(device))
        _keep_what_is_compiled()
        given_back.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1 if config["threads"] == "auto" else int(config["threads"]))
        if config["deterministic"]:  # setting it imports torch's compiler, which takes a second
            given_back.callback(
                torch.use_deterministic_algorithms,
                torch.are_deterministic_algorithms_enabled(),
                warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            )
            given_back.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        yield


def _keep_what_is_compiled() -> None:
    """Between runs, where the user's cache can be written; torch's own place for it goes with the machine's next start.
    torch makes the folder as soon as an optimizer is built, and fails where it can't."""
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folder = named or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "trivium", "compiled"
    )
    with contextlib.suppress(OSError):
        if named or os.path.isabs(folder):  # no home is known where ~ stays ~
            os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
                return
    if named:
        log.warning("TORCHINDUCTOR_CACHE_DIR=%s can't be written: what is compiled is kept elsewhere", named)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]


@contextlib.contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """What is drawn or seeded within is undone: python's, numpy's and torch's global generators."""
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    of_devices: list[tuple[Any, Any]] = []
    if device.type == "cuda" or torch.cuda.is_initialized():  # asking would initialise it, which forked processes lack
        of_devices.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if device.type == "mps":
        of_devices.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        for give_back, state in of_devices:
            give_back(state)


def seed(number: int, device: torch.device) -> None:
    """Seed the global generators that `generators_kept` gives back.

    Args:
        number: in [0, 2^63).
        device: the run's.
    """
    random.seed(number)
    np.random.seed(number % 2**32)
    if device.type == "cpu":  # manual_seed would seed the generators of GPUs that the caller has yet to use
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
