"""`trivium play` and `trivium evaluate` of agents, as they are typed, on the files that they leave."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_envs  # noqa: F401  registers the ids
import yaml
from PIL import Image

import trivium
from trivium import cli
from trivium.config.composing import compose
from trivium.tracking.wandb_identity import identity
from trivium.tracking.wandb_process import history, wandb_files

TRIVIUM = str(Path(sys.executable).parent / "trivium")
TINY = [
    "experiment=ppo_cartpole",
    "name=tiny",
    "env.id=tiny_envs:Drawn-v0",
    "agent.num_steps=8",
    "agent.minibatch_size=32",
    "agent.test_episodes=5",
    "budget.updates=2",
]


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dir = tmp_path_factory.mktemp("play") / "run"
    trivium.train(*TINY, dir=dir)
    return dir


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert cli.main([*arguments, "--json", "--trust", "tiny_envs"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1
    return json.loads(out[0], parse_constant=pytest.fail)


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said about it, in one line."""
    capsys.readouterr()
    assert cli.main([*arguments, "--trust", "tiny_envs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trivium: error: ")
    return line.removeprefix("trivium: error: ")


def frames(path: Path) -> tuple[int, tuple[int, int]]:
    with Image.open(path) as gif:
        return gif.n_frames, gif.size  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------- figures of a run


def test_the_report_and_wandb_show_the_video_and_the_returns(trained: Path) -> None:
    html = (trained / "report.html").read_text()
    for name, media in (("rollout.gif", "image/gif"), ("returns.png", "image/png")):
        content = (trained / "figures" / name).read_bytes()
        assert f"data:{media};base64,{base64.b64encode(content).decode()}" in html
    assert frames(trained / "figures" / "rollout.gif")[1] == (320, 240)
    (file,) = wandb_files(trained, identity(trained, name="").id)
    logged = {name: value for row in history(file) for name, value in row.items() if name.startswith("figures/")}
    assert logged["figures/rollout"]["_type"] == "video-file"
    assert logged["figures/returns"]["_type"] == "image-file"
    assert (file.parent / "files" / logged["figures/rollout"]["path"]).read_bytes()[:6] == b"GIF89a"


# ----------------------------------------------------------------------------------------------- play


def test_without_a_display_a_gif_is_left_in_the_run_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "play", str(run), "--episodes", "3")
    assert told["file"] == str(run / "figures" / "play.gif")
    assert [(e["length"], e["ended"]) for e in told["episodes"]] == 3 * [(4, "terminated")]
    assert told["return_mean"] == np.mean([e["return"] for e in told["episodes"]])
    assert frames(run / "figures" / "play.gif") == (15, (640, 480))


def test_a_person_is_told_each_episode_and_where_the_file_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--to", "a/b.gif", "--episodes", "2", "--max-steps", "3", "--size", "100", "--trust", "tiny_envs"]
    assert cli.main(["play", str(run), *arguments]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"episode (\d): return (\d), 3 steps, cut", out)[1][0] == "2"
    assert "mean return" in out
    assert str(Path("a/b.gif").absolute()) in out
    assert frames(Path("a/b.gif")) == (8, (96, 72))
    assert not (run / "figures" / "play.gif").exists()


def test_the_seed_and_the_way_to_act_decide_the_episodes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def play(*flags: str) -> tuple[list[float], bytes]:
        told = answer(capsys, "play", str(run), "--to", "a.gif", "--episodes", "6", "--size", "8", *flags)
        return [e["return"] for e in told["episodes"]], Path("a.gif").read_bytes()

    certain = play("--deterministic")
    assert play() == certain, "as the config says"
    assert play("--seed", "1")[1] != certain[1]
    chancy = play("--stochastic", "--seed", "3")
    assert play("--stochastic", "--seed", "3") == chancy
    assert play("--stochastic", "--seed", "4") != chancy
    assert not set(chancy[0]) <= {0.0, 4.0}, "sampled: not always the same action at one observation"
    assert set(certain[0]) <= {0.0, 4.0}


def test_mp4(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="the extra `video`")
    answer(capsys, "play", str(run), "--to", "a.mp4")
    assert Path("a.mp4").read_bytes()[4:8] == b"ftyp"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    said = mistake(capsys, "play", str(run), "--to", "b.mp4")
    assert said.endswith("pip install 'trivium[video]', or write a .gif")
    assert not Path("b.mp4").exists()


def test_what_can_not_be_played_is_said_in_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    said = mistake(capsys, "play", str(run), "--to", "file/a.gif")
    assert said.startswith(f"--to {Path('file/a.gif').absolute()} can't be written: ")

    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("Drawn-v0", "Match-v0"))
    said = mistake(capsys, "play", str(run), "--to", "a.gif")
    assert said == "env.id='tiny_envs:Match-v0' has no picture: its render_modes are [], 'rgb_array' is needed"
    assert not list(Path().glob("*.gif"))


def test_a_run_that_is_no_agents(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mlp").mkdir()
    Path("mlp/config.yaml").write_text(yaml.safe_dump(compose([])))
    assert "can't be played: mlp_digits is no agent" in mistake(capsys, "play", "mlp")
    for flag in ("--stochastic", "--deterministic"):
        said = mistake(capsys, "evaluate", "mlp", flag)
        assert said == "--deterministic and --stochastic: for agents, which play episodes; mlp_digits is none"
    said = mistake(capsys, "evaluate", "mlp", "--episodes", "3")
    assert said == "--episodes: for agents, which play episodes; mlp_digits is none"


# ----------------------------------------------------------------------------------------------- evaluate


def test_evaluate_plays_as_many_episodes_as_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = trivium.train(*TINY, "agent.test_episodes=3", "tracking.wandb=false", dir="few").metrics
    flags = ["--episodes", "3", "--deterministic", "--checkpoint", "last"]
    measured = answer(capsys, "evaluate", str(run), *flags)["metrics"]
    assert measured == answer(capsys, "evaluate", "few", "--checkpoint", "last")["metrics"]
    assert {k: few[k] for k in measured} == measured
    assert set(measured) == {f"test/{k}" for k in ("return_mean", "return_std_err", "return_min", "return_max")} | {
        "test/length_mean"
    }
    chancy = answer(capsys, "evaluate", str(run), "--episodes", "50", "--stochastic")["metrics"]
    assert chancy["test/return_min"] < chancy["test/return_mean"] < chancy["test/return_max"]


def test_an_agent_that_never_samples(capsys: pytest.CaptureFixture[str]) -> None:
    trivium.train("experiment=dqn_cartpole", "budget.updates=1", "tracking.wandb=false", dir="dqn")
    assert answer(capsys, "evaluate", "dqn", "--episodes", "2", "--deterministic")["metrics"]["test/return_mean"] > 0
    said = mistake(capsys, "evaluate", "dqn", "--stochastic")
    assert said == "--stochastic: DQN has no policy to sample from, it always does what it thinks best"
    assert mistake(capsys, "play", "dqn", "--stochastic") == said


def test_wandbs_own_link_to_its_log_is_no_stranger(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = run / "wandb" / "offline-run-20261120_142715-tiny-run" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "debug-core.log").symlink_to(run.parent / "elsewhere.log")
    assert answer(capsys, "evaluate", str(run))["checkpoint"]
    (logs / "other.log").symlink_to(run.parent / "elsewhere.log")
    assert "other.log is a link out of the run folder" in mistake(capsys, "evaluate", str(run))


# ----------------------------------------------------------------------------------------------- as a user types it


def test_cartpole_from_the_shell() -> None:
    pytest.importorskip("pygame", reason="the extra `video`")
    train = ["train", "experiment=ppo_cartpole", "budget.updates=2", "tracking.wandb=false", "agent.test_episodes=3"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SDL_", "PYGAME_"))}
    assert cli.main([*train, "--dir", "run", "--quiet"]) == 0
    play = [TRIVIUM, "play", "run", "--max-steps", "50", "--json"]
    done = subprocess.run(play, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1, "pygame's greeting would spoil it for a script"
    (episode,) = json.loads(done.stdout)["episodes"]
    assert 5 < episode["return"] == episode["length"] <= 50
    with Image.open("run/figures/play.gif") as gif:
        assert gif.size == (600, 400)
        shown = [(gif.seek(i), gif.info["duration"])[1] for i in range(gif.n_frames)]  # type: ignore[attr-defined]
    assert sum(shown) == 20 * (episode["length"] + 1), "50 a second, as the env's metadata say"
    assert frames(Path("run/figures/rollout.gif"))[1] == (300, 200)
