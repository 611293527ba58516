"""Which device a run is on."""

from __future__ import annotations

import torch

from trivium.config.errors import Config


def usable_device(config: Config) -> str:
    """The device of a run, or `auto` where there is none such that serves."""
    name: str = config["device"]
    if name == "mps" and config.get("agent"):
        return "auto"
    try:
        torch.empty(0, device=name if name != "auto" else "cpu")
    except (RuntimeError, AssertionError):
        return "auto"
    return name


def device_of(config: Config) -> torch.device:
    """Of `auto` the best there is; for an agent not Apple's GPU, which has no float64 for envs and sums."""
    if config["device"] != "auto":
        return torch.device(config["device"])
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and not config.get("agent") else "cpu")
