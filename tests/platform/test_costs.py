"""The limit on what a test costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from costs import Meter, limit_s, slowness, verdict


@pytest.mark.parametrize(
    ("used_s", "markers", "slowness", "expected"),
    [
        (4.9, [], 1.0, "fine"),
        (5.1, ["parametrize"], 1.0, "reported"),
        (15.1, [], 1.0, "failed"),
        (10.1, [], 2.1, "fine"),
        (10.1, ["ray"], 1.0, "fine"),
        (29.0, ["kill", "ray"], 1.0, "reported"),
        (46.0, ["kill"], 1.0, "failed"),
        (1e6, ["kill", "slow"], 1.0, "fine"),
    ],
)
def test_what_a_test_may_cost(used_s: float, markers: list[str], slowness: float, expected: str) -> None:
    assert verdict(used_s, markers, slowness) == expected


def test_children_count_whether_they_have_ended_or_not() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    meter = Meter()
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        meter.began -= limit_s([])  # as if the test had taken so long that living children are looked for
        assert meter.read() >= 0.25  # the clock's ticks are 0.01 s
        child.communicate(b"\n")
    assert meter.read() >= 0.25
    assert slowness() >= 1
