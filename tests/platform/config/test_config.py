"""Every mistake in a config is told in one line, all at once, with exit code 2 and nothing left on the disk."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import trivium
from trivium import cli, configs
from trivium.config.checking import may_have_gpu
from trivium.config.composing import apply_overrides, compose, read
from trivium.config.errors import ConfigError

EXPERIMENT = "# @package _global_\n# Of my own.\ndefaults:\n"
SUPERVISED = EXPERIMENT + "  - override /learner: classifier\n  - override /model: mlp\n  - override /data: digits\n"

# What is typed, and a pattern for each line of the answer.
TYPED = [
    (
        "experiment=ppo_cartpol agent.gama=0.9 precison=bf16",
        [
            r"experiment=ppo_cartpol: .*'ppo_cartpole'\? \(configs/experiment/\)",
            r"agent.gama: .*'agent.gamma'\? \(configs/agent/ppo.yaml\)",
            r"precison: .*'precision'\? \(configs/config.yaml\)",
        ],
    ),
    ("experiment=zzzzz sed=1", ["experiment=zzzzz: .*valid: .*mlp_digits", "sed: .*'seed'"]),
    ("learner=clasifier data=digits model=mlp budget.epochs=1", ["learner=clasifier: .*'classifier'"]),
    ("agent=pppo budget.env_steps=9", ["agent=pppo: .*'ppo'"]),
    ("model=mpl", [r"model=mpl: .*'mlp'\? \(configs/model/\)"]),
    ("data=cifar1000", ["data=cifar1000: there is no such data; (valid|did)"]),
    ("data=minst", [r"data=minst: .*'mnist'\? \(configs/data/\)"]),  # whose files are not there: nobody asked for them
    ("data=minst data.pth=x", ["data=minst: .*'mnist'", "data.pth: .*'data.path'"]),
    ("learner=vea model=mlp data=digits budget.epochs=1", ["learner=vea: .*'vae'"]),
    ("launch=slurm", ["launch=slurm: .*valid: inline, ray"]),
    ("experiment=mlp_digits,vae_digits", ["error: experiment=mlp_digits,vae_digits: one value at a time$"]),
    ("model.hidden=64,64", [r"model.hidden=64,64: one value at a time; did you mean 'model.hidden=\[64,64\]'"]),
    ("algorithm=SAC", ["agent.algorithm: .* 'agent=rllib algorithm=SAC'"]),
    ("experiment=ppo_cartpole algorithm=SAC", ["agent.algorithm: .* 'agent=rllib algorithm=SAC'"]),
    ("agent=sac budget.updates=1", ["agent=sac: there is no such agent; did you mean 'agent=rllib algorithm=SAC'"]),
    ("env=CartPole-v1", ["env=CartPole-v1: there is no such env; did you mean 'env.id=CartPole-v1'"]),
    ("env.id=CartPole-v1", ["env.id: no env is chosen; valid: agent=<a2c, dqn, ppo, .*>, which brings one"]),
    ("seed 1", ["seed 1: is not of the form key=value; did you mean 'seed=1'"]),
    ("experiment=ppo_cartpole budget=100", ["budget=100: must be a group .*; did you mean 'budget.env_steps=100'"]),
    ("monitor=eval/loss", ["monitor=eval/loss: must be a group .*; did you mean 'monitor.metric=eval/loss'"]),
    ("learner.optimizer=SDG", ["no such optimizer; did you mean 'learner.optimizer=sgd'"]),
    ("learner.optimizer.momentum=0.9", ["momentum: there is no such key; valid: weight_decay, fused, betas, eps, "]),
    ("learner.optimizer.lr=0.9", ["learner.optimizer.lr: .*did you mean 'learner.lr'"]),
    ("learner.learning_rate=1", ["learner.learning_rate: .*did you mean 'learner.lr'"]),
    ("learner.lr=1e-3,1e-4", ["one value at a time"]),
    ("banana", ["banana: is not of the form key=value"]),
    ("=3", ["error: =3: is not of the form key=value"]),
    ("+=3", [r"error: \+=3: is not of the form key=value"]),
    ("--quiet seed==", ["seed==: must be an integer"]),
    ("name=..", [r"name=\.\.: must be a name of letters"]),
    ("--dir /dev/null/run", [r"--dir: /dev/null/run can't be made, for /dev/null is a file"]),
    ("seed=-1", [r"seed=-1: must be an integer >= 0"]),
    ("seed=1.5", ["seed=1.5: must be an integer"]),
    ("seed=true", ["seed=true: must be an integer"]),
    ("seed=", ["seed=: must be an integer"]),
    ("seed={a:1}", ["seed.a: there is no such key"]),
    ("budget=3", ["budget=3: must be a group with the keys epochs"]),
    ("budget={epoch:3}", ["budget.epoch: .*'budget.epochs'"]),
    ("epochs=3", ["epochs: .*'budget.epochs'"]),
    ("lr=3", ["lr: .*'learner.lr'"]),
    ("learner.lr=-1", ["learner.lr=-1: must be a number > 0 and <= 1,000,000$"]),
    ("learner.lr=fast", ["learner.lr=fast: must be a number > 0"]),
    ("learner.lr=nan", ["learner.lr=nan: must be a number > 0"]),
    ("learner.lr=null", ["learner.lr=null: must be a number > 0"]),
    ("learner.batch_size=0", ["learner.batch_size=0: must be an integer >= 1"]),
    ("learner.batch_size=100000", [r"error: learner.batch_size=100000: the training set has 1,257 samples$"]),
    (
        "experiment=vae_digits learner.batch_size=1258",
        [r"error: learner.batch_size=1258: the training set has 1,257 samples$"],
    ),
    ("learner.batch_size=[1,2]", ["learner.batch_size=.1, 2.: must be an integer >= 1"]),
    ("learner.optimizer=3", ["learner.optimizer=3: must be a group with the keys"]),
    ("learner.optimizer.weight_decay=-0.1", ["weight_decay=-0.1: must be a number >= 0"]),
    ("learner.optimizer.weigth_decay=0.1", ["weigth_decay: .*'learner.optimizer.weight_decay'"]),
    ("learner.optimizer._target_=torch.optim.Adamm", ["there is no torch.optim.Adamm; did you mean 'torch.optim.Adam"]),
    ("learner.optimizer._target_=Adam", ["Adam is not of the form package.module.Name"]),
    ("learner.optimizer._target_=3", ["_target_=3: must be a text"]),
    ("+learner.optimizer.momentum=0.9", ["momentum: torch.optim.AdamW takes no such keyword; valid: params, lr"]),
    ("+seeds=3", [r"\+seeds=3: \+ and ~ are for keys of learner"]),
    ("~seed", ["~seed: "]),
    ("~learner.optimizer.fusd", ["learner.optimizer.fusd: .*'learner.optimizer.fused'"]),
    ("model.hidden=64", [r"model.hidden=64: must be a list of integers >= 1, such as \[64,64\]"]),
    ("model.hidden=[64,0]", ["must be a list of integers >= 1"]),
    ("model.hidden={a:1}", ["model.hidden.a: there is no such key"]),
    ("model.dropout=1", ["model.dropout=1: must be a number >= 0 and < 1"]),
    ("model.activation=3", ["model.activation=3: must be one of relu"]),
    ("model.activation=rellu", ["activation=rellu: must be one of relu, gelu, silu, tanh"]),
    ("model._target_=trivium.supervised.models.mlp.MPL", ["did you mean 'trivium.supervised.models.mlp.MLP'"]),
    ("model._target_=trivium.supervised.model.mlp.MLP", ["no module .*did you mean 'trivium.supervised.models.mlp'"]),
    ("model._target_=nowhere_at_all.Net", ["there is no module nowhere_at_all"]),
    (
        "learner._target_=os.system budget.epochs=1",
        ["learner._target_: os.system is no learner: it takes no `run`$"],
    ),
    ("model=null", ["learner.model: trivium.supervised.learner.Supervised needs one; choose model=<.*mlp"]),
    ("experiment=ppo_cartpole model=mlp", ["agent.model: trivium.agents.ppo.PPO takes no model; choose model=null"]),
    ("env=gymnasium", ["learner.env: trivium.supervised.learner.Supervised takes no env; choose env=null"]),
    ("agent.gamma=0.9", ["agent.gamma: no agent is chosen; valid: agent=<.*ppo"]),
    (
        "experiment=mlp_digits agent=ppo",
        [
            "learner and agent chosen: exactly one",
            "takes no model",
            "takes no data",
            "takes no task",
            "agent.env: .* needs one",
        ],
    ),
    ("launch=null", ["launch=None: there is no such launch; valid: inline, ray"]),
    ("learner=classifier model=mlp data=digits", ["budget: nothing ends this run; set at least one of epochs"]),
    ("budget.epochs=0", ["budget.epochs=0: must be a number > 0"]),
    ("budget.epochs=inf", ["budget.epochs=inf: must be a number > 0"]),
    ("budget.updates=2.5", ["budget.updates=2.5: must be an integer >= 1"]),
    ("budget.env_steps=5", ["budget.env_steps: the learner counts samples"]),
    ("experiment=ppo_cartpole budget.epochs=5", ["budget.epochs: the agent counts env_steps"]),
    ("budget.target=accuracy", ["budget.target=accuracy: must be a comparison such as eval/accuracy>=0.97"]),
    ("budget.target=eval/accuracy>=0.9 evaluation.every_updates=null", ["evaluation: a target or patience needs"]),
    ("monitor.patience=3 monitor.metric=null", ["monitor.patience: early stopping needs monitor.metric"]),
    ("monitor.mode=maximum", ["monitor.mode=maximum: must be one of min, max"]),
    (
        "precision=bf17 compile=yes device=gpu",
        ["precision=bf17: .*bf16", "compile=yes|compile=true", "device=gpu: .*cuda:<n>"],
    ),
    ("threads=0", ["threads=0: must be one of auto, an integer >= 1 and <= 999$"]),
    ("threads=100000", ["threads=100000: must be one of auto"]),
    ("launch.workers=0 device=cuda:77", ["launch.workers=0: ", "device=cuda:77: "]),
    ("launch.workers=2", ["launch.workers=2: one process runs inline; several need launch=ray"]),
    ("launch=ray launch.workers=0", ["launch.workers=0: must be an integer >= 1"]),
    ("experiment=ppo_cartpole env.id=CartPol-v1", ["env.id=CartPol-v1: gymnasium knows no such id; .*'CartPole-v1'"]),
    ("experiment=ppo_cartpole env.id=nowhere_at_all:X-v0", ["env.id=nowhere_at_all:X-v0: there is no module"]),
    ("experiment=ppo_cartpole env.id=nowhere_at_all:", ["env.id='nowhere_at_all:': must be .* module:id"]),
    ("experiment=ppo_cartpole env.id=:X-v0", ["env.id=':X-v0': must be .* module:id"]),
    ("experiment=ppo_cartpole env.id=Pong-v5", ["env.id=Pong-v5: gymnasium knows no such id; .*'ALE/Pong-v5'"]),
    ("experiment=ppo_cartpole env.id=LunarLander-v9", ["LunarLander-v9: .*'LunarLander-v3'"]),
    ("experiment=ppo_cartpole env.num_envs=0", ["env.num_envs=0: must be an integer >= 1"]),
    (
        "data=mnist data.path=mnits",
        ["data.path=mnits: must be a file or folder that exists, here or in the folder"],
    ),
    ("data.val_fraction=0.9 data.test_fraction=0.9", ["val_fraction=0.9 and test_fraction=0.9"]),
    ("name=a/b", ["name=a/b: must be a name of letters"]),
    ("tracking.project=null", ["tracking.project=null: must be the name of a W&B project"]),
    ("tracking.project=", ["tracking.project=: must be the name of a W&B project"]),
    (
        "tracking.project=team/project",
        ["tracking.project=team/project: must be the name of a W&B project.*WANDB_ENTITY"],
    ),
    ("learner.decay_epochs=${budget.epocs}", ["learner.decay_epochs: .*budget.epocs"]),
    ("hydra.run.dir=x", ["hydra"]),
    ("--config-dir nowhere", ["--config-dir: .*nowhere is not a folder"]),
    ("--dir /proc/nothing/here budget.updates=1", ["--dir /proc/nothing/here: /proc can't be written: "]),
]

# What constructors or workers say too, and is said with the rest before torch is imported.
EARLY = [
    ("storage=", ["error: storage=: must be a folder, or the URL of a bucket, which begins with s3://, "]),
    ("storage=zz://x sed=1", ["storage=zz://x: must be a folder, or the URL of a bucket", "sed: .*'seed'"]),
    ("storage=s3://", ["storage=s3://: must be a folder, or the URL of a bucket"]),
    ("storage=/dev/null seed=-1", ["storage=/dev/null: must be a folder, and /dev/null is a file$", "seed=-1"]),
    ("storage=/dev/null/runs", ["storage=/dev/null/runs: must be a folder, and /dev/null is a file$"]),
    (
        "budget.target=eval/acuracy>=0.9 monitor.metric=eval/los sed=1",
        [
            "monitor.metric: .* no eval/los; did you mean 'eval/loss'. valid: eval/accuracy, eval/loss$",
            "budget.target: .* no eval/acuracy; did you mean 'eval/accuracy'. valid: eval/accuracy, eval/loss$",
            "sed: .*'seed'",
        ],
    ),
    ("experiment=ppo_cartpole monitor.metric=eval/return", ["monitor.metric: .*did you mean 'eval/return_m.*'"]),
    ("experiment=rllib_ppo_cartpole monitor.metric=eval/elbo", ["monitor.metric: .*valid: eval/length_mean, "]),
    ("learner.accumulate=3 sed=1", ["learner.accumulate=3 must divide learner.batch_size = 64$", "sed: .*'seed'"]),
    (
        "experiment=ppo_cartpole agent.minibatch_size=999 agent.env_runners=5",
        [
            r"agent.minibatch_size=999 must divide agent.num_steps \* env.num_envs = 1024$",
            "agent.env_runners=5 must divide env.num_envs = 32$",
        ],
    ),
    (
        "experiment=ppo_cartpole agent.memory=gru agent.minibatch_size=16",
        ["agent.num_steps=32 must divide agent.minibatch_size = 16, for agent.memory=gru$"],
    ),
    ("experiment=dqn_cartpole env.num_envs=7", ["env.num_envs=7 must divide agent.train_every_env_steps = 64$"]),
    (
        "launch=ray launch.workers=33 launch.gpus_per_worker=1 sed=1",
        [
            "learner.batch_size=64 must be a positive multiple of the 33 workers$",
            r"launch.gpus_per_worker=1: 33 workers need 33 GPUs, here are \d$",
            "sed: .*'seed'",
        ],
    ),
    ("launch=ray device=cuda launch.gpus_per_worker=0", ["launch.gpus_per_worker=0: device=cuda; valid: auto, 1$"]),
    ("launch=ray device=cpu launch.gpus_per_worker=1", ["launch.gpus_per_worker=1: device=cpu; valid: auto, 0$"]),
    ("launch=ray device=cuda launch.workers=32", [r"device=cuda: 32 workers need 32 GPUs, here are \d+$"]),
    ("launch=ray device=mps", ["device=mps: workers on Ray .*; valid: auto, cpu, cuda$"]),
    ("launch=ray device=cuda:1", ["device=cuda:1: .* CUDA devices that Ray gives them; valid: auto, cpu, cuda$"]),
    (
        "experiment=ppo_cartpole launch=ray launch.workers=3",
        ["agent.minibatch_size=256 must be a .* multiple of the 3 workers", "env.num_envs=32 must be a .* multiple"],
    ),
    (
        "launch=ray launch.workers=2 learner.accumulate=64",
        ["learner.accumulate=64 must divide learner.batch_size / launch.workers = 32$"],
    ),
    ("experiment=ppo_cartpole env.id=os:X-v0 sed=1", ["env.id=os:X-v0: os registers no such id; see", "sed: .*'seed'"]),
    ("experiment=ppo_cartpole env.id=gymnasium:CartPol-v1", [".*did you mean 'gymnasium:CartPole-v1'"]),
    ("experiment=ppo_cartpole env.id=json.nothing:X-v0", ["env.id=json.nothing:X-v0: there is no module json.noth"]),
    (
        "agent=rllib algorithm=XYZ budget.updates=1 sed=1",
        ["agent.algorithm=XYZ: must be one of APPO, DQN, DreamerV3, IMPALA, PPO, SAC$", "sed: .*'seed'"],
    ),
    ("agent=rllib algorithm=sack budget.updates=1", ["agent.algorithm=sack: .*; did you mean 'SAC'"]),
    ("learner.lr=3.5e38", [r"learner.lr=3.5e\+38: must be a number > 0 and <= 1,000,000$"]),
    ("experiment=ppo_cartpole env.num_envs=100000000", ["env.num_envs=100000000: must be an .* <= 1,000,000$"]),
    ("learner.lr='${' sed=1", [r"learner.lr=\$\{: \$\{ begins a reference to another key, such as", "sed: .*'seed'"]),
    ("model.hidden=[64,'${budget'] sed=1", [r"model.hidden=\$\{budget: \$\{ begins a reference", "sed: .*'seed'"]),
    ("data.split_seed=-1", ["data.split_seed=-1: must be an integer >= 0 and <= 4,294,967,295$"]),
    ("learner.optimizer.weight_decay=-1", ["learner.optimizer.weight_decay=-1: must be a number >= 0$"]),
    ("budget={epochs:0}", ["budget.epochs=0: must be a number > 0 or null$"]),
]
EARLY += [
    (
        "experiment=ppo_cartpole +agent.lr=0.1 sed=1",
        [r"\+agent.lr=0.1: agent.lr is there already; agent.lr=0.1 changes it", "sed: "],
    ),
    ("experiment=ppo_cartpole ~agent.lr=5", ["~agent.lr=5: agent.lr is .*; ~agent.lr leaves it out"]),
    ("experiment=ppo_cartpole ~agent.gamma ~agent.gamma", ["agent.gamma: there is no such key"]),
    (
        "experiment=ppo_cartpole agent.hidden=null ~agent.hidden.x",
        ["agent.hidden.x: there", "agent.hidden=null: must be a list"],
    ),
    ("budget.epochs@x=3", ["budget.epochs@x=3: is not of the form key=value"]),
    ("storage=/dev/null/" + "a" * 300, ["storage=/dev/null/a+: must be a folder, and /dev/null is a file"]),
]
TYPED += EARLY

# What the user's own folder holds, what is typed, and a pattern for each line of the answer.
OWN = [
    ({"experiment/mine.yaml": SUPERVISED + "lerner:\n  lr: 1\nbudget:\n  epochs: 1\n"}, "experiment=mine",
     [r"lerner: .*'learner'\? \(.*/experiment/mine.yaml\)"]),
    ({"experiment/mine.yaml": SUPERVISED + "learner:\n  batchsize: 1\n  optimizer: {wd: 1}\nbudget:\n  epoch: 1\n"},
     "experiment=mine sed=1",
     [r"learner.batchsize: .*'learner.batch_size'\? \(.*mine.yaml\)", r"learner.optimizer.wd: .*\(.*mine.yaml\)",
      r"budget.epoch: .*'budget.epochs'\? \(.*mine.yaml\)", r"sed: .*'seed'"]),
    ({"experiment/mine.yaml": SUPERVISED + "learner:\n  lr: -1\n  batch_size: many\nbudget:\n  epochs: 1\n"},
     "experiment=mine",
     [r"learner.lr=-1: must be a .* \(.*mine.yaml\)", r"learner.batch_size=many: must be .* \(.*mine.yaml\)"]),
    ({"experiment/mine.yaml": SUPERVISED + "budget: 5\n"}, "experiment=mine", ["budget"]),
    ({"experiment/mine.yaml": SUPERVISED.replace("classifier", "clasifier")}, "experiment=mine precison=3",
     [r"learner=clasifier: .*'classifier'\? \(.*mine.yaml\)", "precison"]),
    ({"experiment/mine.yaml": SUPERVISED.replace("/model", "/modle")}, "experiment=mine",
     [r"defaults: override /modle: there is no such group; did you mean 'model'\? \(.*mine.yaml\)"]),
    ({"experiment/mine.yaml": SUPERVISED.replace("override /data", "data")}, "experiment=mine",
     [r"must be written 'override /data: digits' \(.*mine.yaml\)"]),
    ({"experiment/mine.yaml": "# @package _global_\ndefaults:\n  - mpl_digits\n"}, "experiment=mine",
     [r"experiment=mpl_digits: .*'mlp_digits'\? \(.*mine.yaml\)"]),
    ({"experiment/mine.yaml": "# Mine.\nseed: 3\n"}, "experiment=mine",
     ["must begin with the line '# @package _global_'"]),
    ({"experiment/mine.yaml": SUPERVISED + "budget: [1\nseed: 3\n"}, "experiment=mine sed=3",
     [r"mine.yaml:\d+: is not valid YAML: ", "sed: .*'seed'"]),
    ({"experiment/mine.yaml": "# @package _global_\n- 3\n"}, "experiment=mine",
     ["mine.yaml: must hold keys and values"]),
    ({"experiment/mine.yaml": SUPERVISED + "seed: !!python/object/apply:os.system [touch gotcha]\n"}, "experiment=mine",
     ["mine.yaml:.*not valid YAML: .*python/object"]),
    ({"experiment/mine.yaml": SUPERVISED + "seed: 1\nseed: 2\nbudget: {epochs: 1}\n"}, "experiment=mine", ["seed"]),
    ({"model/mynet.yaml": "# Mine.\n_target_: trivium.supervised.models.mlp.MLP\n_partial_: true\nhiden: [8]\n"},
     "model=mynet", [r"model.hiden: .*MLP takes no such keyword; did you mean 'hidden'\? \(.*model/mynet.yaml\)"]),
    ({"model/mynet.yaml": "# Mine.\n_target_: nowhere_at_all.Net\n_partial_: true\n"},
     "model=mynet", [r"model._target_: there is no module nowhere_at_all; looked in .* \(.*model/mynet.yaml\)"]),
    ({"model/mynet.yaml": "# Mine.\n_partial_: true\nhidden: [8]\n"}, "model=mynet",
     [r"model: has no _target_.*mynet.yaml"]),
    ({"model/mynet.yaml": "_target_: [\n"}, "model=mynet sed=1", [r"mynet.yaml:\d+: is not valid YAML", "sed"]),
    ({"model/mynet.yaml": "# M.\n_target_: trivium.supervised.models.mlp.MLP\nhidden: ???\n_partial_: true\n"},
     "model=mynet", ["model.hidden: Missing mandatory value"]),
    ({"model/mynet.yaml": "# M.\n_target_: trivium.supervised.models.mlp.MLP\n"}, "model=mynet",
     ["model.input_shape: .*needs a value for it; `_partial_: true` leaves it to the learner", "num_outputs"]),
    ({"model/mlp.yaml": "# Mine.\n_target_: trivium.supervised.models.mlp.MLP\n"}, "model=mlp",
     ["model=mlp: Trivium has one of this name too; rename .*/model/mlp.yaml"]),
    ({"modle/mynet.yaml": "# Mine.\n"}, "model=mynet", ["--config-dir: .* has no folder named for a group"]),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[str]:
    """The lines of a refusal, after the checks that hold for all."""
    assert cli.main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines
    assert all(line.startswith("trivium: error: ") for line in lines), err
    assert list(Path.cwd().iterdir()) == []
    return lines


def assert_one_each(lines: list[str], patterns: list[str]) -> None:
    assert len(lines) == len(patterns), "\n".join(lines)
    for pattern in patterns:
        assert any(re.search(pattern, line) for line in lines), f"{pattern} is in none of:\n" + "\n".join(lines)


@pytest.mark.parametrize(("typed", "patterns"), TYPED, ids=[typed for typed, _ in TYPED])
def test_what_is_typed_wrong(capsys: pytest.CaptureFixture[str], typed: str, patterns: list[str]) -> None:
    assert_one_each(refused(capsys, typed.split()), patterns)


@pytest.mark.parametrize(("files", "typed", "patterns"), OWN, ids=[str(i) for i in range(len(OWN))])
def test_what_is_wrong_in_a_folder_of_the_users(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    typed: str,
    patterns: list[str],
) -> None:
    mine = tmp_path_factory.mktemp("it's mine")
    for name, text in files.items():
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text(text)
    assert_one_each(refused(capsys, ["--config-dir", str(mine), *typed.split()]), patterns)


@pytest.mark.parametrize(
    ("holds", "typed", "patterns"),
    [
        ("config.yaml", "seed=-1", ["--dir: .*taken holds a run already; trivium resume", "seed=-1"]),
        ("notes.txt", "seed=-1", ["--dir: .*taken exists and is not an empty folder", "seed=-1"]),
        ("notes.txt", "--config-dir nowhere model=mine", ["--dir: .*not an empty folder", "--config-dir: .*nowhere"]),
    ],
)
def test_a_run_folder_that_is_taken(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    holds: str,
    typed: str,
    patterns: list[str],
) -> None:
    taken = tmp_path_factory.mktemp("runs") / "taken"
    taken.mkdir()
    (taken / holds).touch()
    assert_one_each(refused(capsys, ["--dir", str(taken), *typed.split()]), patterns)


def test_an_empty_name_is_no_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_each(
        refused(capsys, ["--dir", "", "sed=1"]), ["error: --dir '': must be the path of a folder$", "sed: .*'seed'"]
    )
    with pytest.raises(ConfigError, match="--dir '': must be the path of a folder"):
        trivium.train(dir="")


def test_a_file_where_runs_are_to_be(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path_factory.mktemp("runs") / "notes"
    file.touch()
    assert_one_each(refused(capsys, [f"storage={file}"]), [f"storage={file}: must be a folder, and {file} is a file$"])
    assert compose([f"storage={file}"], dir="run"), "nothing is written there"


def test_the_module_of_an_env_is_the_users_own(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = tmp_path_factory.mktemp("mine")
    sys.path.append(str(mine))
    (mine / "envs_of_mine.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', entry_point='envs_of_mine:Y')\n"
    )
    (mine / "envs_that_fail.py").write_text("def f(:\n")
    typed = ["experiment=ppo_cartpole", "env.id=envs_of_mine:Mine-v0"]
    assert compose(typed)["env"]["id"] == "envs_of_mine:Mine-v0"
    typed[1] = "env.id=envs_of_mine:Mine"
    assert compose(typed), "gymnasium takes the newest version"
    typed[1] = "env.id=envs_of_mine:Mime-v0"
    assert_one_each(refused(capsys, typed), ["envs_of_mine registers no such id; did you mean 'envs_of_mine:Mine-v0'"])
    typed[1] = "env.id=envs_that_fail:X-v0"
    assert_one_each(refused(capsys, typed), ["env.id=envs_that_fail:X-v0: envs_that_fail can't be imported: SyntaxErr"])


LEARNER_OF_MINE = """
class Mine:
    evaluates = {"score": "max", "size": None}
    def __init__(self, *, run, batch_size, accumulate): ...
"""


def test_a_users_learner_is_taken_at_its_word(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = tmp_path_factory.mktemp("mine")
    sys.path.append(str(mine))
    (mine / "learner_of_mine.py").write_text(LEARNER_OF_MINE)
    (mine / "learner").mkdir()
    (mine / "learner/own.yaml").write_text("# M.\n_target_: learner_of_mine.Mine\nbatch_size: 64\naccumulate: 3\n")
    typed = ["learner=own", "budget.updates=1"]
    assert compose([*typed, "monitor.metric=eval/score"], mine)["learner"]["accumulate"] == 3
    lines = refused(capsys, [*typed, "monitor.metric=eval/scor", "--config-dir", str(mine)])
    assert_one_each(lines, ["monitor.metric: .* no eval/scor; did you mean 'eval/score'"])
    lines = refused(capsys, [*typed, "monitor.metric=eval/size", "--config-dir", str(mine)])
    assert_one_each(lines, ["monitor.mode: .*eval/size are better; valid: monitor.mode=min, monitor.mode=max"])
    assert "learner_of_mine" not in sys.modules


@pytest.mark.parametrize(
    ("typed", "mode"),
    [
        ("agent=ppo budget.updates=1 monitor.metric=eval/return_mean", "max"),
        ("agent=dqn budget.updates=1 monitor.metric=eval/return_min", "max"),
        ("agent=rllib budget.updates=1 monitor.metric=eval/return_mean", "max"),
        ("experiment=mlp_digits monitor.metric=eval/accuracy", "max"),
        ("experiment=mlp_digits monitor.metric=eval/loss", "min"),
        ("experiment=mlp_digits monitor.metric=eval/loss monitor.mode=max", "max"),
        ("experiment=vae_digits monitor.metric=eval/reconstruction", "min"),
        ("experiment=ppo_cartpole monitor.metric=eval/length_mean monitor.mode=min", "min"),
        ("experiment=mlp_digits monitor.metric=null", None),
    ],
)
def test_the_learner_says_which_values_of_a_metric_are_better(typed: str, mode: str | None) -> None:
    assert compose(typed.split())["monitor"]["mode"] == mode


def test_a_metric_of_unknown_direction_asks_for_the_mode(capsys: pytest.CaptureFixture[str]) -> None:
    asked = refused(capsys, ["experiment=ppo_cartpole", "monitor.metric=eval/length_mean", "sed=1"])
    assert_one_each(asked, ["monitor.mode: .*eval/length_mean.*valid: monitor.mode=min, ", ": sed: "])


def test_a_resumed_run_that_follows_another_metric_has_its_direction() -> None:
    config = compose(["experiment=mlp_digits"])
    assert apply_overrides(config, ["monitor.metric=eval/accuracy"])["monitor"]["mode"] == "max"
    assert apply_overrides(config, ["monitor.metric=eval/accuracy", "monitor.mode=min"])["monitor"]["mode"] == "min"
    assert apply_overrides(config, ["monitor.patience=3"])["monitor"]["mode"] == "min"
    ppo = compose(["experiment=ppo_cartpole"])
    with pytest.raises(ConfigError, match=r"monitor\.mode: "):
        apply_overrides(ppo, ["monitor.metric=eval/length_mean"])


def test_no_experiment_says_what_its_learner_states() -> None:
    for path in sorted(Path(configs.__path__[0]).glob("experiment/*.yaml")):
        assert "mode" not in (yaml.safe_load(path.read_text()).get("monitor") or {}), path.name


def test_gpus_are_counted_for_the_workers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.config.checking.may_have_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    typed = ["launch=ray", "launch.gpus_per_worker=1", "launch.workers=4"]
    assert_one_each(refused(capsys, typed), ["launch.gpus_per_worker=1: 4 workers need 4 GPUs, here are 2$"])
    assert compose([*typed[:2], "launch.workers=2"])
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    assert compose(typed), "the cluster may have them"


def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("trivium.config.checking.may_have_gpu", lambda: True)
    assert compose(["device=cuda:1"])["device"] == "cuda:1"
    assert_one_each(
        refused(capsys, ["device=cuda:2"]), ["device=cuda:2: this machine has 2 CUDA devices; valid: auto, cpu"]
    )


def test_an_agent_is_not_trained_on_what_has_no_float64(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    told = ["device=mps: agents step envs and sum in float64, which MPS has not; valid: auto, cpu"]
    assert_one_each(refused(capsys, ["experiment=ppo_cartpole", "device=mps"]), told)
    assert compose(["experiment=mlp_digits", "device=mps"])["device"] == "mps"


def test_without_a_driver_no_gpu_is_looked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.config.checking.may_have_gpu", lambda: False)
    assert_one_each(
        refused(capsys, ["device=cuda"]), ["device=cuda: this machine has no CUDA device; valid: auto, cpu"]
    )


WITHOUT_TORCH = """
import sys
from trivium import cli
for typed in sys.argv[1:]:
    assert cli.main(["train", *typed.split()]) == 2, typed
    assert "torch" not in sys.modules, typed
    assert "ray" not in sys.modules, typed
"""


def test_a_mistake_is_told_without_importing_torch() -> None:
    # Only a constructor's own objection and the disk's need it; and there may be a GPU.
    needs_torch = ("batch_size=1", "val_fraction=0.9", "--dir /proc")
    every = [typed for typed, _ in TYPED[: -len(EARLY)] if not any(word in typed for word in needs_torch)]
    no_driver = not may_have_gpu()
    Path("taken").touch()
    typed = [*every[::6], *(typed for typed, _ in EARLY if no_driver or "gpus" not in typed), "--dir taken"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *typed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes_are_reported_together_and_nothing_is_written() -> None:
    arguments = [str(Path(sys.executable).parent / "trivium"), "train", *TYPED[0][0].split()]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("trivium: error: ") == 3 == len(done.stderr.splitlines())
    assert done.stdout == ""
    assert list(Path.cwd().iterdir()) == []


def test_trace_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "seed=-1", "--trace"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.splitlines()[-1].startswith("trivium: error: seed=-1")


# ----------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (["learner=classifier", "model=mlp", "data=digits", "budget.updates=1"], "classifier_digits"),
        (["agent=ppo", "env.id=Acrobot-v1", "budget.updates=1"], "ppo_Acrobot-v1"),
        (["agent=ppo", "budget.updates=1", "name=mine"], "mine"),
        (["experiment=ppo_cartpole"], "ppo_cartpole"),
    ],
)
def test_a_run_without_an_experiment_is_named_for_what_on_what(typed: list[str], name: str) -> None:
    assert compose(typed)["name"] == name


def test_without_arguments_the_default_experiment_is_trained() -> None:
    assert compose() == compose(["experiment=mlp_digits"])


def test_interpolations_are_resolved_and_the_result_is_plain_data() -> None:
    config = compose(["experiment=ppo_cartpole", "budget.env_steps=4096"])
    assert config["agent"]["lr_anneal_env_steps"] == 4096
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    assert "hydra" not in config


def test_a_whole_number_may_be_typed_as_1e6() -> None:
    config = compose(["experiment=ppo_cartpole", "budget.env_steps=1e6"])
    assert config["budget"]["env_steps"] == 1_000_000
    assert type(config["agent"]["lr_anneal_env_steps"]) is int


def test_a_target_needs_no_quotes() -> None:
    assert compose(["budget.target=eval/accuracy>=0.97"])["budget"]["target"] == "eval/accuracy>=0.97"


def test_keys_of_a_constructor_may_be_added_and_left_out() -> None:
    config = compose(["+learner.optimizer.amsgrad=true", "~learner.optimizer.fused"])
    assert config["learner"]["optimizer"]["amsgrad"] is True
    assert "fused" not in config["learner"]["optimizer"]


def test_an_agent_without_an_env_gets_gymnasiums() -> None:
    assert compose(["agent=ppo", "budget.env_steps=8"])["env"]["_target_"] == "trivium.agents.envs.environment.make"


def test_what_a_users_own_keywords_mean_is_not_for_trivium_to_say(tmp_path_factory: pytest.TempPathFactory) -> None:
    mine = tmp_path_factory.mktemp("mine")
    (mine / "model").mkdir()
    (mine / "model/net.yaml").write_text("# M.\n_target_: torch.nn.LazyLinear\n_partial_: true\nout_features: 10\n")
    (mine / "net_of_mine.py").write_text("def net(*, hidden, beta, **other): ...\n")
    (mine / "model/own.yaml").write_text("# M.\n_target_: net_of_mine.net\n_partial_: true\nhidden: 64\nbeta: -1\n")
    sys.path.append(str(mine))
    assert compose(["model=own"], mine)["model"]["hidden"] == 64
    assert compose(["model=own", "model.hidden=[3]"], mine)["model"]["hidden"] == [3]
    with pytest.raises(ConfigError, match=r"model\.hidden=wide: must be an integer"):
        compose(["model=own", "model.hidden=wide"], mine)
    assert compose(["model=net"], mine)["model"]["out_features"] == 10


def test_hydra_of_the_caller_is_left_alone() -> None:
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    compose()
    assert GlobalHydra.instance().hydra is before


def test_nothing_changes_a_config_after_it_is_composed() -> None:
    from trivium import launch
    from trivium.tracking.progress import Display

    config = compose(["budget.updates=2", "tracking.wandb=false"])
    before = copy.deepcopy(config)
    result = launch.train(config, dir=Path("run"), display=Display(quiet=True))
    assert config == before
    assert yaml.safe_load((result.dir / "config.yaml").read_text()) == before


# ----------------------------------------------------------------------------------------------- run folders


def test_a_resumed_run_may_have_another_budget_and_nothing_else() -> None:
    config = compose()
    before = copy.deepcopy(config)
    changed = apply_overrides(config, ["budget.epochs=3", "budget.samples=1e6"])
    assert changed["budget"]["epochs"] == 3
    assert changed["budget"]["samples"] == 1_000_000
    assert config == before
    with pytest.raises(ConfigError) as refusal:
        apply_overrides(
            config,
            [
                "learner.lr=1",
                "bugdet.epochs=3",
                "epochs=3",
                "zzz=1",
                "budget.epoch=3",
                "log.every_updates=0",
                "~budget.samples",
                "budget=3",
            ],
        )
    assert_one_each(
        refusal.value.errors,
        [
            "learner.lr: can't change when a run is resumed; valid: budget",
            r"bugdet.epochs: there is no such key; did you mean 'budget.epochs'\? \(config.yaml\)",
            "^epochs: there is no such key; did you mean 'budget.epochs'",
            "zzz: there is no such key; valid: budget, log, evaluation, checkpoint, monitor, tracking",
            "budget.epoch: .*'budget.epochs'",
            "log.every_updates=0: must be an integer >= 1",
            "~budget.samples: only key=value",
            "budget=3: must be a group",
        ],
    )


def test_what_was_written_as_the_budget_follows_a_resumed_runs_budget() -> None:
    ppo = compose(["experiment=ppo_cartpole", "agent.clip_anneal_env_steps=1000"])
    assert ppo["tied_to_budget"] == {"env_steps": ["agent.lr_anneal_env_steps"]}
    longer = apply_overrides(ppo, ["budget.env_steps=1e5"])
    assert longer["agent"]["lr_anneal_env_steps"] == 100_000
    assert longer["agent"]["clip_anneal_env_steps"] == 1000
    assert apply_overrides(ppo, ["budget.updates=9"])["agent"] == ppo["agent"]
    mlp = compose(["budget.epochs=7"])
    assert mlp["learner"]["decay_epochs"] == 7
    assert apply_overrides(mlp, ["budget.epochs=null", "budget.minutes=1"])["learner"]["decay_epochs"] is None
    assert "tied_to_budget" not in compose(["learner.decay_epochs=3"])


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (None, "has no config.yaml"),
        ("", "is not the config of a run"),
        ("[1, 2]", "is not the config of a run"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['touch gotcha']", "is not valid YAML: .*python/object"),
        ("a: !!python/name:os.system", "is not valid YAML: .*python/name"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        ({"threads": "many"}, "threads=many: must be one of auto"),
        ({"budget": 3}, "budget=3: must be a group|budget.epochs: is missing"),
        ({"checkpoint": {"every_updates": 1}}, "checkpoint.every_s: is missing"),
        ({"tied_to_budget": ["learner.lr"]}, "tied_to_budget: must be lists of keys by unit"),
        ({"tied_to_budget": {"epochs": ["learner.nothing"]}}, "tied_to_budget: must be lists of keys by unit"),
        ({"tied_to_budget": {"years": ["learner.lr"]}}, "tied_to_budget: has a unit that"),
    ],
)
def test_a_config_that_is_none_is_refused(text: Any, pattern: str) -> None:
    folder = Path("run")
    folder.mkdir()
    if isinstance(text, dict):
        text = yaml.safe_dump({**compose(), **text})
    if text is not None:
        (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=pattern) as refusal:
        read(folder)
    assert all("\n" not in line for line in refusal.value.errors)
    assert not Path("gotcha").exists()


def test_the_config_of_a_run_is_read_back() -> None:
    for experiment in ("mlp_digits", "ppo_cartpole"):
        config = compose([f"experiment={experiment}"])
        Path("config.yaml").write_text(yaml.safe_dump(config))
        assert read(Path()) == config


def test_the_error_can_be_caught_from_python() -> None:
    with pytest.raises(trivium.ConfigError, match="sed: there is no such key"):
        trivium.train("sed=1")
