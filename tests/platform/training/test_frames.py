"""How far it is from the command to a learner's step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import trivium
from trivium.cli.entry import main

HERE = Path(__file__).parent
OURS = str(Path(trivium.__file__).parent)
MOST = 7


class Looking:
    """A learner that notes, at each step, the frames of Trivium's that it was called through."""

    state: ClassVar = ("steps",)
    seen: ClassVar[list[list[str]]] = []

    def __init__(self, *, run: Any) -> None:
        self.steps = 0

    def step(self) -> dict[str, Tensor]:
        self.steps += 1
        frames, frame = ["step"], sys._getframe().f_back
        while frame is not None:
            if frame.f_code.co_filename.startswith(OURS):
                frames.append(frame.f_code.co_qualname)
            frame = frame.f_back
        self.seen.append(frames)
        return {"loss": torch.zeros(())}

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        return {"loss": 0.0}

    def counters(self) -> dict[str, float]:
        return {"samples": self.steps}


@pytest.mark.parametrize("threads", ["1", "auto"])
def test_few_frames_lie_between_the_command_and_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    (tmp_path / "mine" / "learner").mkdir(parents=True)
    (tmp_path / "mine" / "learner" / "looking.yaml").write_text("_target_: test_frames.Looking\n")
    monkeypatch.syspath_prepend(HERE)
    words = ["learner=looking", "budget.updates=3", "tracking.wandb=false", f"threads={threads}", "--quiet"]
    import test_frames  # as the run imports it

    seen = test_frames.Looking.seen
    seen.clear()
    assert main(["train", "--config-dir", str(tmp_path / "mine"), *words, "--dir", str(tmp_path / "run")]) == 0
    command = [*seen[-1]]
    assert len(seen) == 3
    assert {len(frames) for frames in seen} == {len(command)}, "the first update is no exception"
    # `python -m trivium` adds the frame of its module.
    assert len(command) + 1 <= MOST, command
    assert trivium.resume(tmp_path / "run", "budget.updates=4", trusted=["test_frames"]).updates == 4
    assert len(seen[-1]) <= MOST, seen[-1]
