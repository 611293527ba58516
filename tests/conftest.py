"""What all tests share: no tracker that could reach a network, one thread, a working directory of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_ins import write_data

os.environ["WANDB_MODE"] = "offline"
# Ray reads its token once in a process: one for all that tests start.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "a" * 64


TOGETHER = ("test_storage.py", "test_launch.py", "test_play_command.py", "test_vae.py", "test_learner.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, what needs a Ray runs on one worker, one Ray at a time, and so does each file that prepares much for
    all its tests; the rest goes to whoever is free."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.path.name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)  # the longest group first


@pytest.fixture(autouse=True, scope="session")
def _data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stand-ins for the data that experiments name."""
    folder = tmp_path_factory.mktemp("datasets")
    write_data(folder)
    os.environ["TRIVIUM_DATASETS"] = str(folder)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
