"""What benchmarks/experiments_over_seeds.py runs and what it makes of the results."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import experiments_over_seeds as over_seeds
import pytest

from trivium import cli


def test_seeds_are_spans_and_numbers() -> None:
    assert over_seeds.seeds("100-102,7") == [100, 101, 102, 7]
    assert over_seeds.seeds("0") == [0]


@pytest.mark.parametrize("text", ["", "x", "5-3", "1,,2", "1-2-3"])
def test_what_is_no_span_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        over_seeds.main(["mlp_digits", "--seeds", text])
    assert f"--seeds: invalid seeds value: '{text}'" in capsys.readouterr().err


def test_mean_min_and_max_are_those_of_metrics_that_all_runs_have() -> None:
    of_seeds = {100: {"test/x": 1.0}, 101: {"test/x": 4.0, "test/y": 2.0}, 102: {"test/x": 2.5}}
    assert over_seeds.summary(of_seeds) == {"test/x": (2.5, 1.0, 4.0)}


IN_A_PROCESS = subprocess.run


def run_here(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, but `python -m trivium.cli` without the seconds that a new process takes to import torch."""
    if command[1:3] != ["-m", "trivium.cli"]:
        return IN_A_PROCESS(command, **options)
    out, err = io.StringIO(), io.StringIO()
    folder = contextlib.chdir(options["cwd"])
    with folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(command[3:])
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def test_the_seeds_differ_and_the_overrides_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.chdir(tmp_path)
    assert over_seeds.main(["mlp_digits", "budget.epochs=null", "--seeds", "3,4", "budget.updates=2"]) is None
    first, second, *rest = capsys.readouterr().out.splitlines()
    values = [re.fullmatch(r"seed +(\d+)  test/loss (\S+)  test/accuracy .*", line) for line in (first, second)]
    assert [match[1] for match in values if match] == ["3", "4"]
    low, high = sorted(float(match[2]) for match in values if match)
    assert low < high, "both runs had the same seed"
    assert low > 1, "two updates leave a loss near ln 10: the budget was not overridden"
    summary = re.search(r"test/loss +mean (\S+), min (\S+), max (\S+)", "\n".join(rest))
    assert summary
    assert [float(each) for each in summary.groups()] == pytest.approx([(low + high) / 2, low, high], rel=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_ends_it_with_what_the_run_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", run_here)
    with pytest.raises(SystemExit, match=r"mlp_digits, seed 100, ended with 2\n(.*\n)*.*sed: .*'seed'"):
        over_seeds.main(["mlp_digits", "sed=1"])
