"""Whether the devices are there that a config asks for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trivium.config.problems import Kind, Problem


def wrong_device(config: dict[str, Any]) -> Problem | None:
    """The problem with the device of a run in this process."""
    device = config["device"]
    kind, _, index = device.partition(":")
    if kind not in ("cuda", "mps"):
        return None
    if kind == "mps" and config.get("agent"):
        return Problem(Kind.FLOAT64, "device", device, ("auto", "cpu"))
    if kind == "mps":
        import torch

        count = int(torch.backends.mps.is_available())
    else:
        count = num_gpus()
    if int(index or 0) < count:
        return None
    have = f"{count or 'no'} {kind.upper()} device{'s' if count > 1 else ''}"
    return Problem(Kind.NO_DEVICE, "device", device, ("auto", "cpu"), details={"have": have})


def num_gpus() -> int:
    if not may_have_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def may_have_gpu() -> bool:
    """False only where torch could find no GPU, by the drivers' device files; spares an import of torch."""
    names = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")
    return sys.platform != "linux" or any(True for name in names for _ in Path("/dev").glob(name))
