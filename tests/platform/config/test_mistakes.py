"""Every mistake in a config is reported, all at once, with exit code 2 and nothing left on the disk."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from trivium import cli
from trivium.cli import errors as errors_of_cli
from trivium.config.checks.devices import may_have_gpu
from trivium.config.errors import ConfigError
from trivium.config.problems import Problem

EXPERIMENT = "# @package _global_\n# Of my own.\ndefaults:\n"
SUPERVISED = EXPERIMENT + "  - override /learner: classifier\n  - override /model: mlp\n  - override /data: digits\n"

# What is typed, and each problem with its kind, key and nearest names; a text is a pattern for what a constructor or
# the disk says.
Told = Sequence[tuple[str, ...] | str]
TYPED: list[tuple[str, Told]] = [
    (
        "experiment=ppo_cartpol agent.gama=0.9 precison=bf16",
        [
            ("OPTION", "experiment", "ppo_cartpole"),
            ("KEY", "agent.gama", "agent.gamma"),
            ("KEY", "precison", "precision"),
        ],
    ),
    ("experiment=zzzzz sed=1", [("OPTION", "experiment"), ("KEY", "sed", "seed")]),
    ("learner=clasifier data=digits model=mlp budget.epochs=1", [("OPTION", "learner", "classifier")]),
    ("agent=pppo budget.env_steps=9", [("OPTION", "agent", "ppo")]),
    ("model=mpl", [("OPTION", "model", "mlp")]),
    ("data=cifar1000", [("OPTION", "data")]),
    ("data=minst", [("OPTION", "data", "mnist")]),  # whose files are not there: nobody asked for them
    ("data=minst data.pth=x", [("OPTION", "data", "mnist"), ("KEY", "data.pth", "data.path")]),
    ("learner=vea model=mlp data=digits budget.epochs=1", [("OPTION", "learner", "vae")]),
    ("launch=slurm", [("OPTION", "launch")]),
    ("experiment=mlp_digits,vae_digits", [("SEVERAL_VALUES", "experiment=mlp_digits,vae_digits")]),
    ("model.hidden=64,64", [("SEVERAL_VALUES", "model.hidden=64,64", "model.hidden=[64,64]")]),
    ("algorithm=SAC", [("ALGORITHM", "agent.algorithm", "agent=rllib algorithm=SAC")]),
    ("experiment=ppo_cartpole algorithm=SAC", [("ALGORITHM", "agent.algorithm", "agent=rllib algorithm=SAC")]),
    ("agent=sac budget.updates=1", [("OPTION", "agent", "agent=rllib algorithm=SAC")]),
    ("env=CartPole-v1", [("OPTION", "env", "env.id=CartPole-v1")]),
    ("env.id=CartPole-v1", [("NOTHING_CHOSEN", "env.id")]),
    ("seed 1", [("FORM", "seed 1", "seed=1")]),
    ("experiment=ppo_cartpole budget=100", [("VALUE", "budget", "budget.env_steps=100")]),
    ("monitor=eval/loss", [("VALUE", "monitor", "monitor.metric=eval/loss")]),
    ("learner.optimizer=SDG", [("OPTIMIZER", "learner.optimizer", "learner.optimizer=sgd")]),
    ("learner.optimizer.momentum=0.9", [("KEY", "learner.optimizer.momentum")]),
    ("learner.optimizer.lr=0.9", [("KEY", "learner.optimizer.lr", "learner.lr")]),
    ("learner.learning_rate=1", [("KEY", "learner.learning_rate", "learner.lr")]),
    ("learner.lr=1e-3,1e-4", [("SEVERAL_VALUES", "learner.lr=1e-3,1e-4")]),
    ("banana", [("FORM", "banana")]),
    ("=3", [("FORM", "=3")]),
    ("+=3", [("FORM", "+=3")]),
    ("--quiet seed==", [("VALUE", "seed")]),
    ("name=..", [("VALUE", "name")]),
    ("--dir /dev/null/run", [("BELOW_A_FILE", "--dir")]),
    ("seed=-1", [("VALUE", "seed")]),
    ("seed=1.5", [("VALUE", "seed")]),
    ("seed=true", [("VALUE", "seed")]),
    ("seed=", [("VALUE", "seed")]),
    ("seed={a:1}", [("KEY", "seed.a", "seed")]),
    ("budget=3", [("VALUE", "budget", "budget.epochs=3")]),
    ("budget={epoch:3}", [("KEY", "budget.epoch", "budget.epochs")]),
    ("epochs=3", [("KEY", "epochs", "budget.epochs")]),
    ("lr=3", [("KEY", "lr", "learner.lr")]),
    ("learner.lr=-1", [("VALUE", "learner.lr")]),
    ("learner.lr=fast", [("VALUE", "learner.lr")]),
    ("learner.lr=nan", [("VALUE", "learner.lr")]),
    ("learner.lr=null", [("VALUE", "learner.lr")]),
    ("learner.batch_size=0", [("VALUE", "learner.batch_size")]),
    ("learner.batch_size=100000", ["error: learner.batch_size=100000: the training set has 1,257 samples$"]),
    (
        "experiment=vae_digits learner.batch_size=1258",
        ["error: learner.batch_size=1258: the training set has 1,257 samples$"],
    ),
    ("learner.batch_size=[1,2]", [("VALUE", "learner.batch_size")]),
    ("learner.optimizer=3", [("VALUE", "learner.optimizer")]),
    ("learner.optimizer.weight_decay=-0.1", [("VALUE", "learner.optimizer.weight_decay")]),
    (
        "learner.optimizer.weigth_decay=0.1",
        [("KEY", "learner.optimizer.weigth_decay", "learner.optimizer.weight_decay")],
    ),
    ("learner.optimizer._target_=torch.optim.Adamm", [("NAME", "learner.optimizer._target_", "torch.optim.Adam")]),
    ("learner.optimizer._target_=Adam", [("NOT_A_NAME", "learner.optimizer._target_", "torch.optim.Adam")]),
    ("learner.optimizer._target_=3", [("VALUE", "learner.optimizer._target_")]),
    ("+learner.optimizer.momentum=0.9", [("KEYWORD", "learner.optimizer.momentum")]),
    ("+seeds=3", [("PLUS_OR_TILDE", "seeds")]),
    ("~seed", [("PLUS_OR_TILDE", "seed")]),
    ("~learner.optimizer.fusd", [("KEY", "learner.optimizer.fusd", "learner.optimizer.fused")]),
    ("model.hidden=64", [("VALUE", "model.hidden")]),
    ("model.hidden=[64,0]", [("VALUE", "model.hidden")]),
    ("model.hidden={a:1}", [("KEY", "model.hidden.a", "model.hidden")]),
    ("model.dropout=1", [("VALUE", "model.dropout")]),
    ("model.activation=3", [("VALUE", "model.activation")]),
    ("model.activation=rellu", [("VALUE", "model.activation", "relu")]),
    (
        "model._target_=trivium.supervised.models.mlp.MPL",
        [("NAME", "model._target_", "trivium.supervised.models.mlp.MLP")],
    ),
    (
        "model._target_=trivium.supervised.model.mlp.MLP",
        [("MODULE", "model._target_", "trivium.supervised.models.mlp")],
    ),
    ("model._target_=nowhere_at_all.Net", [("MODULE", "model._target_")]),
    ("learner._target_=os.system budget.epochs=1", [("NO_LEARNER", "learner._target_")]),
    ("model=null", [("NEEDS_PART", "learner.model")]),
    ("experiment=ppo_cartpole model=mlp", [("TAKES_NO", "agent.model")]),
    ("env=gymnasium", [("TAKES_NO", "learner.env")]),
    ("agent.gamma=0.9", [("NOTHING_CHOSEN", "agent.gamma")]),
    (
        "experiment=mlp_digits agent=ppo",
        [
            ("LEARNERS", "learner"),
            ("TAKES_NO", "agent.model"),
            ("TAKES_NO", "agent.data"),
            ("TAKES_NO", "agent.task"),
            ("NEEDS_PART", "agent.env"),
        ],
    ),
    ("launch=null", [("OPTION", "launch")]),
    ("learner=classifier model=mlp data=digits", [("NO_END", "budget")]),
    ("budget.epochs=0", [("VALUE", "budget.epochs")]),
    ("budget.epochs=inf", [("VALUE", "budget.epochs")]),
    ("budget.updates=2.5", [("VALUE", "budget.updates")]),
    ("budget.env_steps=5", [("UNIT", "budget.env_steps")]),
    ("experiment=ppo_cartpole budget.epochs=5", [("UNIT", "budget.epochs")]),
    ("budget.target=accuracy", [("VALUE", "budget.target")]),
    ("budget.target=eval/accuracy>=0.9 evaluation.every_updates=null", [("NO_EVALUATION", "evaluation")]),
    ("monitor.patience=3 monitor.metric=null", [("NO_METRIC_CHOSEN", "monitor.patience")]),
    ("monitor.mode=maximum", [("VALUE", "monitor.mode", "max")]),
    (
        "precision=bf17 compile=yes device=gpu",
        [("VALUE", "device", "cpu"), ("VALUE", "precision", "bf16"), ("VALUE", "compile")],
    ),
    ("threads=0", [("VALUE", "threads")]),
    ("threads=100000", [("VALUE", "threads")]),
    ("launch.workers=0 device=cuda:77", [("VALUE", "launch.workers"), ("NO_DEVICE", "device")]),
    ("launch.workers=2", [("INLINE", "launch.workers")]),
    ("launch=ray launch.workers=0", [("VALUE", "launch.workers")]),
    ("experiment=ppo_cartpole env.id=CartPol-v1", [("ENV", "env.id", "CartPole-v1")]),
    ("experiment=ppo_cartpole env.id=nowhere_at_all:X-v0", [("ENV_MODULE", "env.id")]),
    ("experiment=ppo_cartpole env.id=nowhere_at_all:", [("ENV_FORM", "env.id")]),
    ("experiment=ppo_cartpole env.id=:X-v0", [("ENV_FORM", "env.id")]),
    ("experiment=ppo_cartpole env.id=Pong-v5", [("ENV", "env.id", "ALE/Pong-v5")]),
    ("experiment=ppo_cartpole env.id=LunarLander-v9", [("ENV", "env.id", "LunarLander-v3")]),
    ("experiment=ppo_cartpole env.num_envs=0", [("VALUE", "env.num_envs")]),
    ("data=mnist data.path=mnits", [("VALUE", "data.path")]),
    ("data.val_fraction=0.9 data.test_fraction=0.9", ["val_fraction=0.9 and test_fraction=0.9"]),
    ("name=a/b", [("VALUE", "name")]),
    ("tracking.project=null", [("VALUE", "tracking.project")]),
    ("tracking.project=", [("VALUE", "tracking.project")]),
    ("tracking.project=team/project", [("VALUE", "tracking.project")]),
    ("learner.decay_epochs=${budget.epocs}", [("UNRESOLVED", "learner.decay_epochs")]),
    ("hydra.run.dir=x", [("KEY", "hydra.run.dir")]),
    ("--config-dir nowhere", [("FOLDER", "--config-dir")]),
    ("--dir /proc/nothing/here budget.updates=1", ["--dir /proc/nothing/here: /proc can't be written: "]),
]

# What constructors or workers check too, and is reported with the rest before torch is imported.
EARLY: list[tuple[str, Told]] = [
    ("storage=", [("VALUE", "storage")]),
    ("storage=zz://x sed=1", [("KEY", "sed", "seed"), ("VALUE", "storage")]),
    ("storage=s3://", [("VALUE", "storage")]),
    ("storage=/dev/null seed=-1", [("VALUE", "seed"), ("VALUE", "storage")]),
    ("storage=/dev/null/runs", [("VALUE", "storage")]),
    (
        "budget.target=eval/acuracy>=0.9 monitor.metric=eval/los sed=1",
        [
            ("KEY", "sed", "seed"),
            ("METRIC", "monitor.metric", "eval/loss"),
            ("METRIC", "budget.target", "eval/accuracy"),
        ],
    ),
    ("experiment=ppo_cartpole monitor.metric=eval/return", [("METRIC", "monitor.metric", "eval/return_min")]),
    ("experiment=rllib_ppo_cartpole monitor.metric=eval/elbo", [("METRIC", "monitor.metric")]),
    ("learner.accumulate=3 sed=1", [("KEY", "sed", "seed"), ("DIVISION", "learner.accumulate")]),
    (
        "experiment=ppo_cartpole agent.minibatch_size=999 agent.env_runners=5",
        [("DIVISION", "agent.minibatch_size"), ("DIVISION", "agent.env_runners")],
    ),
    ("experiment=ppo_cartpole agent.memory=gru agent.minibatch_size=16", [("DIVISION", "agent.num_steps")]),
    ("experiment=dqn_cartpole env.num_envs=7", [("DIVISION", "env.num_envs")]),
    (
        "launch=ray launch.workers=33 launch.gpus_per_worker=1 sed=1",
        [("KEY", "sed", "seed"), ("SHARE", "learner.batch_size"), ("FEW_GPUS", "launch.gpus_per_worker")],
    ),
    ("launch=ray device=cuda launch.gpus_per_worker=0", [("GPUS_OF_DEVICE", "launch.gpus_per_worker")]),
    ("launch=ray device=cpu launch.gpus_per_worker=1", [("GPUS_OF_DEVICE", "launch.gpus_per_worker")]),
    ("launch=ray device=cuda launch.workers=32", [("FEW_GPUS", "device")]),
    ("launch=ray device=mps", [("DEVICE_ON_RAY", "device")]),
    ("launch=ray device=cuda:1", [("DEVICE_ON_RAY", "device")]),
    (
        "experiment=ppo_cartpole launch=ray launch.workers=3",
        [("SHARE", "agent.minibatch_size"), ("SHARE", "env.num_envs")],
    ),
    ("launch=ray launch.workers=2 learner.accumulate=64", [("DIVISION", "learner.accumulate")]),
    ("experiment=ppo_cartpole env.id=os:X-v0 sed=1", [("KEY", "sed", "seed"), ("ENV", "env.id")]),
    ("experiment=ppo_cartpole env.id=gymnasium:CartPol-v1", [("ENV", "env.id", "gymnasium:CartPole-v1")]),
    ("experiment=ppo_cartpole env.id=json.nothing:X-v0", [("ENV_MODULE", "env.id")]),
    ("agent=rllib algorithm=XYZ budget.updates=1 sed=1", [("KEY", "sed", "seed"), ("VALUE", "agent.algorithm")]),
    ("agent=rllib algorithm=sack budget.updates=1", [("VALUE", "agent.algorithm", "SAC")]),
    ("learner.lr=3.5e38", [("VALUE", "learner.lr")]),
    ("experiment=ppo_cartpole env.num_envs=100000000", [("VALUE", "env.num_envs")]),
    ("learner.lr='${' sed=1", [("REFERENCE", "learner.lr"), ("KEY", "sed", "seed")]),
    ("model.hidden=[64,'${budget'] sed=1", [("REFERENCE", "model.hidden"), ("KEY", "sed", "seed")]),
    ("data.split_seed=-1", [("VALUE", "data.split_seed")]),
    ("learner.optimizer.weight_decay=-1", [("VALUE", "learner.optimizer.weight_decay")]),
    ("budget={epochs:0}", [("VALUE", "budget.epochs")]),
    ("experiment=ppo_cartpole +agent.lr=0.1 sed=1", [("THERE_ALREADY", "agent.lr"), ("KEY", "sed", "seed")]),
    ("experiment=ppo_cartpole ~agent.lr=5", [("OTHER_VALUE", "agent.lr")]),
    ("experiment=ppo_cartpole ~agent.gamma ~agent.gamma", [("KEY", "agent.gamma", "agent.gamma")]),
    (
        "experiment=ppo_cartpole agent.hidden=null ~agent.hidden.x",
        [("KEY", "agent.hidden.x", "agent.hidden"), ("VALUE", "agent.hidden")],
    ),
    ("budget.epochs@x=3", [("FORM", "budget.epochs@x=3")]),
    (
        "storage=/dev/null/" + "a" * 300,
        [("VALUE", "storage")],
    ),
]
TYPED += EARLY

# What the user's own folder holds, what is typed, and each problem with its kind, key, nearest name and file.
OWN: list[tuple[dict[str, str], str, Told]] = [
    ({"experiment/mine.yaml": SUPERVISED + "lerner:\n  lr: 1\nbudget:\n  epochs: 1\n"}, "experiment=mine",
     [("KEY", "lerner", "learner", "experiment/mine.yaml")]),
    ({"experiment/mine.yaml": SUPERVISED + "learner:\n  batchsize: 1\n  optimizer: {wd: 1}\nbudget:\n  epoch: 1\n"},
     "experiment=mine sed=1",
     [("KEY", "learner.batchsize", "learner.batch_size", "experiment/mine.yaml"),
      ("KEY", "learner.optimizer.wd", "learner.optimizer.weight_decay", "experiment/mine.yaml"),
      ("KEY", "budget.epoch", "budget.epochs", "experiment/mine.yaml"),
      ("KEY", "sed", "seed", "configs/config.yaml")]),
    ({"experiment/mine.yaml": SUPERVISED + "learner:\n  lr: -1\n  batch_size: many\nbudget:\n  epochs: 1\n"},
     "experiment=mine",
     [("VALUE", "learner.batch_size", "", "experiment/mine.yaml"),
      ("VALUE", "learner.lr", "", "experiment/mine.yaml")]),
    ({"experiment/mine.yaml": SUPERVISED + "budget: 5\n"}, "experiment=mine",
     [("VALUE", "budget", "budget.epochs=5", "experiment/mine.yaml")]),
    ({"experiment/mine.yaml": SUPERVISED.replace("classifier", "clasifier")}, "experiment=mine precison=3",
     [("OPTION", "learner", "classifier", "experiment/mine.yaml"),
      ("KEY", "precison", "precision", "configs/config.yaml")]),
    ({"experiment/mine.yaml": SUPERVISED.replace("/model", "/modle")}, "experiment=mine",
     [("GROUP", "override /modle", "model", "experiment/mine.yaml")]),
    ({"experiment/mine.yaml": SUPERVISED.replace("override /data", "data")}, "experiment=mine",
     [("OVERRIDE", "data", "", "experiment/mine.yaml")]),
    ({"experiment/mine.yaml": "# @package _global_\ndefaults:\n  - mpl_digits\n"}, "experiment=mine",
     [("OPTION", "experiment", "mlp_digits", "experiment/mine.yaml")]),
    ({"experiment/mine.yaml": "# Mine.\nseed: 3\n"}, "experiment=mine",
     [("PACKAGE", "experiment/mine.yaml", "", "")]),
    ({"experiment/mine.yaml": SUPERVISED + "budget: [1\nseed: 3\n"}, "experiment=mine sed=3",
     [("YAML", "experiment/mine.yaml:8", "", ""), ("KEY", "sed", "seed", "configs/config.yaml")]),
    ({"experiment/mine.yaml": "# @package _global_\n- 3\n"}, "experiment=mine",
     [("CONTENT", "experiment/mine.yaml", "", "")]),
    ({"experiment/mine.yaml": SUPERVISED + "seed: !!python/object/apply:os.system [touch gotcha]\n"}, "experiment=mine",
     [("YAML", "experiment/mine.yaml:7", "", "")]),
    ({"experiment/mine.yaml": SUPERVISED + "seed: 1\nseed: 2\nbudget: {epochs: 1}\n"}, "experiment=mine",
     [("YAML", "experiment/mine.yaml:8", "", "")]),
    ({"model/mynet.yaml": "# Mine.\n_target_: trivium.supervised.models.mlp.MLP\n_partial_: true\nhiden: [8]\n"},
     "model=mynet",
     [("KEYWORD", "model.hiden", "hidden", "model/mynet.yaml")]),
    ({"model/mynet.yaml": "# Mine.\n_target_: nowhere_at_all.Net\n_partial_: true\n"},
     "model=mynet",
     [("MODULE", "model._target_", "", "model/mynet.yaml")]),
    ({"model/mynet.yaml": "# Mine.\n_partial_: true\nhidden: [8]\n"}, "model=mynet",
     [("NO_TARGET", "model", "", "model/mynet.yaml")]),
    ({"model/mynet.yaml": "_target_: [\n"}, "model=mynet sed=1",
     [("YAML", "model/mynet.yaml:2", "", ""), ("KEY", "sed", "seed", "configs/config.yaml")]),
    ({"model/mynet.yaml": "# M.\n_target_: trivium.supervised.models.mlp.MLP\nhidden: ???\n_partial_: true\n"},
     "model=mynet",
     [("UNRESOLVED", "model.hidden", "", "")]),
    ({"model/mynet.yaml": "# M.\n_target_: trivium.supervised.models.mlp.MLP\n"}, "model=mynet",
     [("NEEDS_VALUE", "model.input_shape", "", "model/mynet.yaml"),
      ("NEEDS_VALUE", "model.num_outputs", "", "model/mynet.yaml")]),
    ({"model/mlp.yaml": "# Mine.\n_target_: trivium.supervised.models.mlp.MLP\n"}, "model=mlp",
     [("TWICE", "model", "", "")]),
    ({"modle/mynet.yaml": "# Mine.\n"}, "model=mynet",
     [("NO_GROUPS", "--config-dir", "", "")]),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The errors that commands end with."""
    errors: list[BaseException] = []
    report = errors_of_cli.report

    def keep(error: BaseException, *, trace: bool, as_json: bool) -> int:
        errors.append(error)
        return report(error, trace=trace, as_json=as_json)

    monkeypatch.setattr("trivium.cli.errors.report", keep)
    return errors


def check(arguments: list[str], told: Told, raised: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    """That `trivium train` refuses the arguments with these problems, each in one line.

    Args:
        told: kind, key and nearest names of each; of a problem that a file holds, kind, key, nearest names and file.
    """
    assert cli.main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    (error,) = raised
    lines = err.splitlines()
    assert out == ""
    assert all(line.startswith("trivium: error: ") for line in lines), err
    assert list(Path.cwd().iterdir()) == []
    assert len(lines) == len(told), err
    if isinstance(told[0], str):
        assert all(re.search(str(pattern), line) for pattern, line in zip(told, lines, strict=True)), err
        return
    assert isinstance(error, ConfigError)
    assert [f"trivium: error: {line}" for line in error.errors] == lines
    assert [as_told(problem, files="--config-dir" in arguments) for problem in error.problems] == told


def as_told(problem: Problem, *, files: bool) -> tuple[str, ...]:
    if not files:
        return (problem.kind.name, problem.key, *problem.nearest)
    key, file = (re.sub(r".*/(\w+/\w+\.yaml)", r"\1", text) for text in (problem.key, problem.file))
    return (problem.kind.name, key, "|".join(problem.nearest), file)


@pytest.mark.parametrize(("typed", "told"), TYPED, ids=[typed for typed, _ in TYPED])
def test_what_is_typed_wrong(
    raised: list[BaseException], capsys: pytest.CaptureFixture[str], typed: str, told: Told
) -> None:
    if typed.startswith("--config-dir"):
        told = [(*entry, "", "") for entry in told if not isinstance(entry, str)]
    check(typed.split(), told, raised, capsys)


@pytest.mark.parametrize(("files", "typed", "told"), OWN, ids=[str(i) for i in range(len(OWN))])
def test_what_is_wrong_in_a_folder_of_the_users(
    tmp_path_factory: pytest.TempPathFactory,
    raised: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    typed: str,
    told: Told,
) -> None:
    mine = tmp_path_factory.mktemp("it's mine")
    for name, text in files.items():
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text(text)
    check(["--config-dir", str(mine), *typed.split()], told, raised, capsys)


@pytest.mark.parametrize(
    ("holds", "typed", "told"),
    [
        ("config.yaml", "seed=-1", [("HOLDS_A_RUN", "--dir"), ("VALUE", "seed")]),
        ("notes.txt", "seed=-1", [("NOT_EMPTY", "--dir"), ("VALUE", "seed")]),
        (
            "notes.txt",
            "--config-dir nowhere model=mine",
            [("NOT_EMPTY", "--dir", "", ""), ("FOLDER", "--config-dir", "", "")],
        ),
    ],
)
def test_a_run_folder_that_is_taken(
    tmp_path_factory: pytest.TempPathFactory,
    raised: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    holds: str,
    typed: str,
    told: Told,
) -> None:
    taken = tmp_path_factory.mktemp("runs") / "taken"
    taken.mkdir()
    (taken / holds).touch()
    check(["--dir", str(taken), *typed.split()], told, raised, capsys)


WITHOUT_TORCH = """
import sys
from trivium import cli
from trivium.cli import errors as errors_of_cli
for typed in sys.argv[1:]:
    assert cli.main(["train", *typed.split()]) == 2, typed
    assert "torch" not in sys.modules, typed
    assert "ray" not in sys.modules, typed
"""


def test_a_mistake_is_reported_without_importing_torch() -> None:
    # Only what a constructor or the disk refuses needs torch; and there may be a GPU.
    needs_torch = ("batch_size=1", "val_fraction=0.9", "--dir /proc")
    every = [typed for typed, _ in TYPED[: -len(EARLY)] if not any(word in typed for word in needs_torch)]
    no_driver = not may_have_gpu()
    Path("taken").touch()
    early = [typed for typed, _ in EARLY if not typed.startswith("storage") and (no_driver or "gpus" not in typed)]
    typed = [*every[::15], *early, "--dir taken"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *typed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
