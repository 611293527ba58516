"""The commands, as they are typed."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml

import trivium
from trivium import cli
from trivium.cli import commands, errors, parsing
from trivium.config import constructors
from trivium.config.composing import compose
from trivium.config.library import GROUPS, LEARNERS, PARTS, Library
from trivium.learner import UserCodeError

TRIVIUM = str(Path(sys.executable).parent / "trivium")
SHORT = ["budget.updates=2", "budget.epochs=null", "tracking.wandb=false", "checkpoint.every_s=null"]
OPTIONS = [(group, option) for group in GROUPS for option in Library().options(group)]


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command says with --json: the last line of stdout, which is strict JSON."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)


# ----------------------------------------------------------------------------------------------- help and usage


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    code = (
        "import sys\nfrom trivium import cli\n"
        f"try: cli.main(['{option}'])\nexcept SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'ray', 'wandb', 'hydra', 'omegaconf', 'numpy', 'gymnasium', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_is_quick_and_names_every_command() -> None:
    took = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([TRIVIUM, "--help"], capture_output=True, text=True)
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert done.returncode == 0
    assert min(took) < 0.3, took
    files = {path.stem.replace("_", "-") for path in Path(commands.__path__[0]).rglob("[a-z]*.py")}
    assert {"train", "resume", "evaluate", "play", "status", "list", "show", "doctor"} <= files
    assert set(re.findall(r"^    ([\w-]+)\s+\w", done.stdout, re.MULTILINE)) == files


COUNT_WORDS = """
HELP = "count words"
def add_arguments(parser):
    parser.add_argument("words", nargs="+")
def run(options):
    return len(options.words)
"""


def test_a_command_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    (tmp_path / "count_words.py").write_text(COUNT_WORDS)
    assert answer(capsys, "count-words", "a", "b") == 2
    assert cli.main([]) == 0
    assert re.search(r"^    count-words\s+count words$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["count-wrods", "a"]) == 2
    assert "did you mean 'count-words'?" in capsys.readouterr().err
    del sys.modules[f"{commands.__name__}.count_words"]


def test_without_a_word_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    bare = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert capsys.readouterr().out == bare


def test_the_module_is_the_command() -> None:
    code = "import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('trivium', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("trivium ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert capsys.readouterr().out == f"trivium {pyproject['project']['version']}\n"


@pytest.mark.parametrize("command", parsing.find())
def test_every_command_has_help_and_takes_json(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("trian", "trian: there is no such command; did you mean 'train'?"),
        ("xyz", f"xyz: there is no such command; valid: {', '.join(parsing.find())}"),
        ("resume", "resume: the following arguments are required: RUN, a run folder"),
        ("help", "did you mean 'trivium --help'?"),
        ("--json", "no command; valid: anomaly, cross-validate, data, doctor, "),
        ("experiment=mlp_digits", "did you mean 'trivium train experiment=mlp_digits'?"),
        ("mlp_digits", "did you mean 'trivium train experiment=mlp_digits'?"),
        ("evaluate experiment=mlp_digits", "a run folder comes first: trivium evaluate RUN"),
        ("resume budget.epochs=5", "a run folder comes first: trivium resume RUN budget.epochs=5"),
        ("train --seed 1", "--seed: there is no such option; did you mean 'seed=1'?"),
        ("train --seed=1", "did you mean 'seed=1'?"),
        ("train experiment=ppo_cartpole --agent.gamma 0.9", "did you mean 'agent.gamma=0.9'?"),
        ("show --learning-rate 1e-3", "did you mean 'learner.lr=1e-3'?"),
        ("train --config_dir mine", "did you mean '--config-dir'?"),
        ("train --resume here", "did you mean 'trivium resume here'?"),
        ("resume here --budget.epochs 5", "did you mean 'budget.epochs=5'?"),
        (
            "resume here --seed 1",
            "--seed: there is no such option; seed can't change when a run is resumed; valid: budget",
        ),
        (
            "evaluate here --seed 1",
            "--seed: there is no such option; it is one of trivium judge, play, sample; valid here: --help, ",
        ),
        ("train dir=here", "dir=here: is an option; did you mean '--dir here'?"),
        ("train config_dir=mine", "did you mean '--config-dir mine'?"),
        ("train quiet=true", "did you mean '--quiet'?"),
        ("play here seed=3", "did you mean '--seed 3'?"),
        ("train mlp_digits", "mlp_digits: is not of the form key=value; did you mean 'experiment=mlp_digits'?"),
        ("list agents", "agents: there is no such kind; did you mean 'learners'?"),
        ("list ppo", "did you mean 'trivium show agent=ppo'?"),
        ("evaluate", "evaluate: the following arguments are required: RUN"),
        ("evaluate x --episodes 0", "evaluate: argument --episodes: 0 is not a whole number >= 1"),
        ("evaluate x --deterministic --stochastic", "not allowed with argument --deterministic"),
        ("play", "play: the following arguments are required: RUN"),
        ("play nowhere --to x.gif", "nowhere is not a run folder: there is no such folder"),
        ("play nowhere --to x.avi", "play: --to x.avi: valid are window, FILE.gif, FILE.mp4"),
        ("play nowhere --to window", "play: --to window: there is no display here; --to FILE.gif writes a file"),
        ("play nowhere --episodes few", "play: argument --episodes: few is not a whole number >= 1"),
        ("list expermnts", "list: expermnts: there is no such kind; did you mean 'experiments'?"),
        ("list models data", "data: one argument too many"),
        ("train --jsn", "--jsn: there is no such option; did you mean '--json'?"),
        ("train --js", "--js: there is no such option; did you mean '--json'?"),
        ("train --dir", "train: argument --dir: expected one argument"),
        ("list --config-dir nowhere", "nowhere is not a folder"),
        ("resume nowhere", "nowhere is not a run folder: there is no such folder"),
        ("evaluate nowhere", "nowhere is not a run folder: there is no such folder"),
        ("show experiment=mlp_digit", "experiment=mlp_digit: there is no such experiment; did you mean 'mlp_digits'?"),
    ],
)
def test_usage_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["trivium"])
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert cli.main(typed.split() or None) == 2
    out, err = capsys.readouterr()
    assert out == "" or "--json" in typed
    assert len(err.splitlines()) == 1
    assert err.startswith("trivium: error: ")
    assert said in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "kind", "code"),
    [
        ("trian", "UsageError", 2),
        ("train --sed 1 --jsn", "UsageError", 2),
        ("train sed=1 learner.lr=-1", "ConfigError", 2),
        ("resume nowhere", "ConfigError", 2),
        ("evaluate nowhere", "ConfigError", 2),
        ("play nowhere --to x.avi", "UsageError", 2),
        ("list xyz", "UsageError", 2),
        ("show sed=1", "ConfigError", 2),
        ("doctor --banana", "UsageError", 2),
    ],
)
def test_json_has_the_error_too(capsys: pytest.CaptureFixture[str], typed: str, kind: str, code: int) -> None:
    command, *rest = typed.split()
    assert cli.main([command, "--json", *rest]) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert [f"trivium: error: {line}" for line in error["lines"]] == err.splitlines()
    assert error["lines"]


@pytest.mark.parametrize(
    ("raised", "code", "lines"),
    [
        (KeyboardInterrupt(), 130, []),
        (RuntimeError("a fault\nof ours"), 1, ["RuntimeError: a fault of ours"]),
        (OSError(28, "No space left on device", "/there"), 1, ["/there: No space left on device"]),
    ],
)
def test_json_has_what_ends_a_command_in_any_way(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    lines: list[str],
) -> None:
    def fail(options: Any) -> None:
        raise raised

    monkeypatch.setattr(parsing.find()["doctor"], "run", fail)
    assert cli.main(["doctor", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"kind": type(raised).__name__, "lines": lines, "exit_code": code}}
    assert ("Traceback" in err) == isinstance(raised, RuntimeError)


def test_a_reader_that_has_enough_is_no_error() -> None:
    done = subprocess.run(f"{TRIVIUM} list envs | head -n 1", shell=True, capture_output=True, text=True)
    assert done.stdout == "envs:\n"
    assert done.stderr == ""


# ----------------------------------------------------------------------------------------------- a run's life


def test_train_resume_and_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    # Options may stand anywhere among the overrides.
    result = answer(capsys, "train", *SHORT[:2], "--dir", "here", "--quiet", *SHORT[2:])
    assert result["updates"] == 2
    assert result["reason"] == "2 updates"
    assert Path(result["dir"]) == Path("here").absolute()
    assert 0 <= result["metrics"]["test/accuracy"] <= 1

    longer = answer(capsys, "resume", "here", "budget.updates=3", "--quiet")
    assert longer["updates"] == 3

    measured = answer(capsys, "evaluate", "here", "--checkpoint", "last")
    assert measured["metrics"]["test/accuracy"] == longer["metrics"]["test/accuracy"]

    assert answer(capsys, "show", "here")["budget"]["updates"] == 3

    name = measured["checkpoint"]
    assert answer(capsys, "evaluate", "here", "--checkpoint", name)["checkpoint"] == name
    assert cli.main(["evaluate", "here", "--checkpoint", "foo"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"trivium: error: --checkpoint foo: {Path('here').absolute()} has no such checkpoint; valid: "
    )
    assert said.endswith(f", {name}\n")
    assert "best, last, step-" in said
    assert said.count("\n") == 1

    capsys.readouterr()
    assert cli.main(["train", *SHORT, "--dir", "here"]) == 2
    assert "holds a run already; trivium resume" in capsys.readouterr().err


def test_without_json_a_person_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *SHORT, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "test/accuracy" in out
    run = next(Path("runs/mlp_digits").iterdir())
    assert str(run) in out
    assert cli.main(["evaluate", str(run)]) == 0
    assert "test/accuracy" in capsys.readouterr().out


def test_the_same_from_python() -> None:
    run = trivium.train(*SHORT, dir="there")
    assert run.updates == 2
    assert run.dir == Path("there").absolute()
    assert trivium.evaluate("there")["metrics"]["test/accuracy"] == run.metrics["test/accuracy"]
    assert trivium.resume("there", "budget.updates=4").updates == 4


MY_NET = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, *, input_shape, num_outputs, width):
        super().__init__()
        size = input_shape[0] * input_shape[1] * input_shape[2]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, num_outputs))

    def forward(self, x):
        return self.layers(x)
"""


def test_a_model_of_the_users_own_needs_no_change_in_trivium(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mypackage").mkdir()
    Path("mypackage/__init__.py").touch()
    Path("mypackage/nets.py").write_text(MY_NET)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/mynet.yaml").write_text("# My own.\n_target_: mypackage.nets.MyNet\n_partial_: true\nwidth: 8\n")
    train = [
        "train",
        "--config-dir",
        "mine",
        "model=mynet",
        "model.width=16",
        *SHORT,
        "--dir",
        "run",
        "--json",
    ]
    done = forked.run("import sys; from trivium import cli; sys.exit(cli.main())", *train, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["updates"] == 2
    saved = yaml.safe_load(Path("run/config.yaml").read_text())["model"]
    assert saved == {"_target_": "mypackage.nets.MyNet", "_partial_": True, "width": 16}

    # In a run folder the same name may be a stranger's: it is not even looked for.
    capsys.readouterr()
    assert cli.main(["evaluate", "run"]) == 2
    assert "--trust mypackage.nets" in capsys.readouterr().err
    assert not any(name.startswith("mypackage") for name in sys.modules)
    assert str(Path.cwd()) not in sys.path
    assert answer(capsys, "evaluate", "run", "--trust", "mypackage")["checkpoint"]
    for name in [name for name in sys.modules if name.startswith("mypackage")]:
        del sys.modules[name]


# ----------------------------------------------------------------------------------------------- list, show, doctor


def test_list_describes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "list")
    assert list(listed) == ["experiments", "learners", "models", "data", "tasks", "envs"]
    assert "experiment=mlp_digits" in listed["experiments"]
    assert {"learner=classifier", "agent=ppo"} <= set(listed["learners"])
    for rows in listed.values():
        assert rows
        assert all(text.strip() for text in rows.values())


def test_list_has_what_experiments_have_reached(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "list", "experiments")["experiments"]
    what, result = listed["experiment=ppo_cartpole"].split("\n")
    assert what == "PPO balances CartPole-v1 from its four numbers."
    assert result.startswith("Result: mean return 500 ")
    assert cli.main(["list", "experiments"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "experiments:"
    at = next(i for i, row in enumerate(rows) if row.startswith("  experiment=ppo_cartpole "))
    assert rows[at].split(maxsplit=1)[1] == what
    assert rows[at + 1].strip() == result
    for name, text in listed.items():
        assert "\nResult: " in text, f"{name}: an experiment says in its YAML what it has reached"


def test_list_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(answer(capsys, "list", "models")) == ["models"]
    assert "env.id=CartPole-v1" in answer(capsys, "list", "envs")["envs"]


def test_list_has_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/mynet.yaml").write_text("# What I made.\n_target_: x.Y\n")
    assert answer(capsys, "list", "models", "--config-dir", "mine")["models"]["model=mynet"] == "What I made."


def test_show_prints_the_resolved_config(capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(capsys, "show", "experiment=ppo_cartpole", "seed=7")
    assert shown == compose(["experiment=ppo_cartpole", "seed=7"])
    assert (
        answer(capsys, "show", "experiment=ppo_cartpole", "agent.max_grad_norm=.inf")["agent"]["max_grad_norm"]
        == ".inf"
    )
    assert cli.main(["show", "experiment=ppo_cartpole", "seed=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == shown


def test_doctor_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "doctor")
    assert {"python", "torch", "ray", "cores", "memory", "devices", "threads", "wandb", "problems"} <= set(told)
    assert all(problem.strip() for problem in told["problems"])
    assert type(told["cores"]) is int
    assert type(told["memory"]["total_gb"]) is float
    assert told["devices"][0] == "cpu"
    assert type(told["threads"]["auto"]) is int
    assert type(told["wandb runs"]["logged_in"]) is bool
    assert cli.main(["doctor"]) == 0
    table = capsys.readouterr().out
    assert f"  cores       {told['cores']}\n" in table
    assert re.search(r"  memory      [\d.]+ GB, [\d.]+ GB free\n", table)
    assert re.search(r"  devices     cpu", table)


# ----------------------------------------------------------------------------------------------- the YAML that ships


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_yaml_begins_by_saying_what_it_is(group: str, option: str) -> None:
    path = Library().find(group, option)
    assert path is not None
    first = next(line for line in path.read_text().splitlines() if line != "# @package _global_")
    assert first.startswith("# ")
    assert len(Library().options(group)[option]) > 10
    assert Library().options(group)[option].endswith("."), "`trivium list` shows one line of it: a whole sentence"


# What Trivium gives a constructor beside its YAML.
OFFERED_BY_DATA = {
    "input_shape", "num_outputs", "class_names", "class_counts", "target_names", "target_mean", "target_std",
    "vocab_size", "context", "max_length", "cardinalities", "latent_dim", "encoded_dim", "code_dim", "num_classes",
    "scale", "other_shape",
}  # fmt: skip
GIVEN: dict[str, set[str]] = {
    "env": {"run", "stream", "make_env", "part", "episodes"},
    "model": OFFERED_BY_DATA, "task": OFFERED_BY_DATA, "data": set(),
}  # fmt: skip


@pytest.mark.parametrize("experiment", Library().options("experiment"))
def test_experiments_state_their_command_and_what_they_reach_on_seeds_they_were_not_tuned_on(experiment: str) -> None:
    path = Library().find("experiment", experiment)
    assert path is not None
    lines = path.read_text().splitlines()
    assert f"# trivium train experiment={experiment}" in lines
    result = Library().results("experiment")[experiment]
    measured = re.search(r" over the seeds 100(-10\d| and 101) \((\S+) to (\S+)\)|, seed 100\b", result)
    assert measured or result.startswith("not measured yet"), result


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, o in OPTIONS if g in (*LEARNERS, *PARTS) and o != "from_python"]
)
def test_groups_mirror_constructors(group: str, option: str) -> None:
    path = Library().find(group, option)
    assert path is not None
    node = yaml.safe_load(path.read_text())
    module, _, name = node["_target_"].rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values()), "constructors take keywords only"
    given = GIVEN.get(group, {"run", *PARTS})
    assert set(node) - {"_target_", "_partial_"} == set(parameters) - given
    if given & set(parameters) and group in PARTS:
        assert node["_partial_"] is True


# RLlib needs a Ray, and it and gymnasium warn of things that concern no one here.
ON_RAY = (pytest.mark.ray, pytest.mark.filterwarnings("ignore"))


@pytest.mark.trains
@pytest.mark.parametrize(
    "experiment",
    [pytest.param(e, marks=ON_RAY if e.startswith("rllib") else ()) for e in Library().options("experiment")],
)
def test_every_experiment_takes_a_step(
    experiment: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trivium.training import worker
    from trivium.training.builder import build_learner, check_learner

    smaller = ["learner.batch_size=4"] if experiment.endswith("_gpu") else []
    config = compose([f"experiment={experiment}", "compile=false", *smaller])
    path = Library().find("experiment", experiment)
    assert path is not None
    assert f"# trivium train experiment={experiment}\n" in path.read_text()
    assert config["name"] == experiment
    assert constructors.problems(config, trusted=()) == []
    check_learner(config, trusted=())  # it names only what a run folder may build
    monkeypatch.setenv("HOME", str(tmp_path))  # RLlib makes a folder there
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("joined_ray")
    learner = build_learner(config, worker.make_run(config, None))
    request.addfinalizer(getattr(learner, "close", lambda: None))
    logs = learner.step()
    assert logs
    assert all(value.ndim == 0 and not value.requires_grad for value in logs.values())
    assert next(iter(learner.counters().values())) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="links only there")
def test_torch_is_linked_and_not_imported_while_the_config_is_composed() -> None:
    code = """
import sys
from trivium.cli.importing import importing_torch
with importing_torch():
    pass
assert "torch" not in sys.modules
print("libtorch_cpu.so" in open("/proc/self/maps").read())
import torch
print(torch.ones(2).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "2.0"]


def test_what_the_user_s_own_code_did_is_told_without_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """With a trace if it is asked for, and a hint that it can be."""
    error = UserCodeError("env.id='Mine-v0': at step 3 its step() raised KeyError: 'x'")
    for cause, trace in ((None, False), (KeyError("x"), False), (KeyError("x"), True)):
        error.__cause__ = cause
        assert errors.report(error, trace=trace, as_json=False) == 1
        told = capsys.readouterr().err
        assert str(error) in told.splitlines()[-1]
        assert ("direct cause" in told) == trace
        assert ("--trace" in told) == (cause is not None and not trace)
