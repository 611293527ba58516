from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import tiny_envs  # noqa: F401  registers the ids
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # small networks: more threads cost more than they bring


@pytest.fixture
def saved() -> Callable[[Any], Any]:
    """A state as it comes back from disk: nothing but data, no memory shared."""

    def save_and_load(state: Any) -> Any:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    return save_and_load
