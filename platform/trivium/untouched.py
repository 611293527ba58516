"""What uses a module and leaves it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part has its own mode back (`train()` would wake a frozen BatchNorm)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """What a forward pass writes into the module's buffers, such as running statistics, is undone."""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])
