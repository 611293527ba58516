"""What all tests share: no tracker that could reach a network, one thread, a working directory of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from costs import Meter, limit_s, slowness, verdict
from stand_ins import write_data

os.environ["WANDB_MODE"] = "offline"
# Ray reads its token once in a process: one for all that tests start.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "a" * 64


TOGETHER = (
    "test_launch.py",
    "test_learner.py",
    "test_play_command.py",
    "test_resume.py",
    "test_storage.py",
    "test_vae.py",
)
TRAINING = (
    "test_a2c.py",
    "test_agreement.py",
    "test_averaging.py",
    "test_borrowed.py",
    "test_compiled.py",
    "test_device.py",
    "test_dqn.py",
    "test_ending.py",
    "test_experiments_over_seeds.py",
    "test_finished.py",
    "test_identity.py",
    "test_image_models.py",
    "test_kept_files.py",
    "test_launch.py",
    "test_learners.py",
    "test_play.py",
    "test_play_command.py",
    "test_ppo.py",
    "test_ppo_memory.py",
    "test_reinforce.py",
    "test_shared_sum.py",
    "test_storage.py",
    "test_stranger.py",
    "test_threads.py",
    "test_tracking.py",
    "test_vae.py",
    "test_vector_envs.py",
    "test_worker.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, what needs a Ray runs on one worker, one Ray at a time, and so does each file that prepares much for
    all its tests; the rest goes to whoever is free. What trains for seconds is marked, for `make check`."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.path.name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
        if item.path.name in TRAINING:
            item.add_marker(pytest.mark.trains)
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)  # the longest group first


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that costs far too much, see `costs`; one that costs too much is reported at the end."""
    meter = Meter()
    yield
    used, markers = meter.read(), [mark.name for mark in item.iter_markers()]
    if used <= limit_s(markers):
        return
    judged = verdict(used, markers, slowness())
    if judged == "reported":
        item.user_properties.append(("cpu_s", used))
    elif judged == "failed":
        pytest.fail(f"it took {used:.1f} s of CPU time, more than {limit_s(markers)} s: make it cheaper or `slow`")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    costly = {
        report.nodeid: value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == "cpu_s"
    }
    for test, used in sorted(costly.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{used:5.1f} s of CPU time, which is too much for a quick test: {test}")


@pytest.fixture(autouse=True, scope="session")
def _data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stand-ins for the data that experiments name."""
    folder = tmp_path_factory.mktemp("datasets")
    write_data(folder)
    os.environ["TRIVIUM_DATASETS"] = str(folder)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[dict[str, str]]:
    """See `ray_head.head`."""
    from ray_head import head

    with head() as joining:
        yield joining


@pytest.fixture(scope="module")
def joined_ray(ray_head: dict[str, str]) -> Iterator[None]:
    """The tests of a module that build on Ray's actors in this process, on the one Ray of the session."""
    from ray_head import joined

    with joined(ray_head):
        yield


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
