"""Modules of the user's own are found where they are, and else it is said where they were looked for."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trivium import cli
from trivium.cli import parsing
from trivium.config import constructors, import_places
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.run_folder.place import resume_arguments
from trivium.training import worker
from trivium.training.loop import Interrupted

NET = """
from torch import nn
def {name}(*, input_shape, num_outputs, width=4):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_outputs))
"""
SHORT = ["budget.updates=2", "budget.epochs=null", "tracking.wandb=false"]


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of YAML with a module beside it and one in it, and not where the process works."""
    folder = tmp_path_factory.mktemp("it's a project")
    (folder / "mine/model").mkdir(parents=True)
    for name, path in {"net_beside": folder, "net_within": folder / "mine"}.items():
        (path / f"{name}.py").write_text(NET.format(name=name))
        (folder / f"mine/model/{name}.yaml").write_text(f"# M.\n_target_: {name}.{name}\n_partial_: true\n")
    return folder


def test_folders_are_looked_in_last_and_once(tmp_path: Path) -> None:
    before = [*sys.path]
    import_places.look_in(tmp_path, str(tmp_path), tmp_path / "x")
    assert sys.path == [*before, str(tmp_path), str(tmp_path / "x")]
    assert import_places.added()[-2:] == [str(tmp_path), str(tmp_path / "x")]
    assert str(tmp_path) in import_places.of_the_user()
    assert str(tmp_path / "x") not in import_places.of_the_user(), "it is not there"
    assert not any("site-packages" in place or place.endswith(".zip") for place in import_places.of_the_user())


@pytest.mark.parametrize("name", ["net_beside", "net_within"])
def test_modules_are_found_beside_the_yaml_and_in_it(project: Path, name: str) -> None:
    config = compose([f"model={name}", "model.width=8"], project / "mine")
    assert config["model"]["width"] == 8
    assert callable(constructors.resolve(f"{name}.{name}"))


def test_a_module_that_is_nowhere_is_told_with_where_it_was_looked_for(project: Path) -> None:
    (project / "net_beside.py").unlink()
    with pytest.raises(ConfigError) as refusal:
        compose(["model=net_beside"], project / "mine")
    (line,) = refusal.value.errors
    assert line.startswith("model._target_: there is no module net_beside; looked in ")
    assert f"{project}, {project}/mine and the installed packages" in line


def test_the_modules_that_a_run_needs_are_known_without_importing_any() -> None:
    config = compose(["experiment=ppo_cartpole"])
    assert constructors.to_trust(config) == []
    config["env"] |= {"id": "my_envs:Pole-v1", "wrappers": [{"_target_": "a.b.Wrapper"}]}
    config["agent"]["_target_"] = "my.agents.PPO"
    assert constructors.to_trust(config) == ["a.b", "my.agents", "my_envs"]
    assert resume_arguments(config, "x", ["my", "a"]) == ["resume", "x", "--trust", "a.b", "--trust", "my.agents"]


# ----------------------------------------------------------------------------------------------- the command to go on


def stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *typed: str) -> list[str]:
    """What a command that is stopped says to type, as a shell would read it; the run is stopped before it begins."""

    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted(2, "step-000000000064")

    with monkeypatch.context() as patched:
        patched.setattr(worker, "work", stop)
        assert cli.main([*typed, "--json"]) == 130
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert line.startswith("trivium: stopped by signal 2; to continue from step-000000000064: trivium resume ")
    error = json.loads(out.splitlines()[-1])["error"]
    assert (error["kind"], error["exit_code"]) == ("Interrupted", 130)
    assert line == f"trivium: {error['lines'][0]}"
    words = shlex.split(line.partition("step-000000000064: ")[2])
    parsing.parse(words[1:])
    return words[1:]


def test_whoever_stops_a_run_is_given_the_whole_command_to_go_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("my runs/it's $HOME").absolute()
    train = ["train", "model=net_beside", "--config-dir", str(project / "mine"), "--dir", str(folder), *SHORT]
    command = stopped(monkeypatch, capsys, *train)
    trusting = ["--trust", "net_beside", "--config-dir", str(project / "mine")]
    assert command == ["resume", str(folder), *trusting]
    # A new process knows nothing of where the modules are.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(project))])
    for name in ("net_beside",):
        sys.modules.pop(name, None)
    assert stopped(monkeypatch, capsys, *command, "log.every_updates=1") == [*command, "log.every_updates=1"]
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["updates"] == 2


def test_a_run_of_triviums_own_parts_needs_no_more_than_its_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped(monkeypatch, capsys, "train", "--dir", "run", *SHORT) == ["resume", str(Path("run").absolute())]


def test_python_m_does_not_import_from_the_working_directory_first() -> None:
    Path("argparse.py").write_text("raise SystemExit('a file of that name was run')\n")
    done = subprocess.run([sys.executable, "-m", "trivium", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir() == ["argparse.py"]
