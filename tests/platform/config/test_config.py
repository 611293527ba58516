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
from trivium.config.composing import apply_overrides, compose, read
from trivium.config.errors import ConfigError


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
    monkeypatch.setattr("trivium.config.checks.devices.may_have_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    typed = ["launch=ray", "launch.gpus_per_worker=1", "launch.workers=4"]
    assert_one_each(refused(capsys, typed), ["launch.gpus_per_worker=1: 4 workers need 4 GPUs, here are 2$"])
    assert compose([*typed[:2], "launch.workers=2"])
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    assert compose(typed), "the cluster may have them"


def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("trivium.config.checks.devices.may_have_gpu", lambda: True)
    assert compose(["device=cuda:1"])["device"] == "cuda:1"
    assert_one_each(
        refused(capsys, ["device=cuda:2"]), ["device=cuda:2: this machine has 2 CUDA devices; valid: auto, cpu"]
    )


def test_an_agent_is_not_trained_on_what_has_no_float64(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    told = ["device=mps: agents step envs and sum in float64, which MPS lacks; valid: auto, cpu"]
    assert_one_each(refused(capsys, ["experiment=ppo_cartpole", "device=mps"]), told)
    assert compose(["experiment=mlp_digits", "device=mps"])["device"] == "mps"


def test_without_a_driver_no_gpu_is_looked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.config.checks.devices.may_have_gpu", lambda: False)
    assert_one_each(
        refused(capsys, ["device=cuda"]), ["device=cuda: this machine has no CUDA device; valid: auto, cpu"]
    )


def test_mistakes_are_reported_together_and_nothing_is_written() -> None:
    arguments = [
        str(Path(sys.executable).parent / "trivium"),
        "train",
        "experiment=ppo_cartpol",
        "agent.gama=0.9",
        "precison=bf16",
    ]
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
