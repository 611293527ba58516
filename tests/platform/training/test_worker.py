"""What is decided before a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import trivium
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.run_folder.task import Task
from trivium.tracking.tracker import read_rows
from trivium.training import compiling, worker
from trivium.training.compiling import decide_compile
from trivium.training.machine.device import usable_device

PPO = ["agent=ppo", "agent.num_steps=32", "threads=1"]


def decided(*overrides: str) -> bool:
    return decide_compile(Task(compose([*PPO, *overrides]), Path("nowhere")))


def test_auto_compiles_what_would_take_long() -> None:
    assert decided("compile=auto", "budget.env_steps=1_000_000_000")
    assert not decided("compile=auto", "budget.env_steps=201_000")


def test_a_small_budget_is_known_to_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(task: Task) -> float:
        raise AssertionError("it was tried out")

    monkeypatch.setattr(compiling, "_eager_s", never)
    assert not decided("compile=auto", "budget.env_steps=200_000")
    assert not decided("compile=auto", "budget.env_steps=1_000_000_000", "budget.updates=2000")
    assert not decided("compile=auto", "budget.env_steps=1_000_000_000", "launch=ray")
    assert decided("compile=true", "budget.env_steps=100")
    assert not decided("compile=false", "budget.env_steps=1_000_000_000")


def test_without_a_compiler_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    for choice in ("auto", "true"):
        assert not decided(f"compile={choice}", "budget.env_steps=1_000_000_000")
    nothing = "there is no C++ compiler here, so nothing is compiled"
    assert caplog.messages == [f"compile=auto: {nothing}", f"compile=true: {nothing}"]
    assert not decided("compile=false", "budget.env_steps=1_000_000_000")


def test_trying_out_leaves_no_trace_and_what_was_chosen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "SHORT", {"env_steps": 100})
    small = [*PPO, "budget.env_steps=1024", "tracking.wandb=false", "agent.test_episodes=2", "agent.eval_episodes=2"]
    tried = trivium.train(*small, "compile=auto", dir=tmp_path / "tried")
    plain = trivium.train(*small, dir=tmp_path / "plain")
    assert yaml.safe_load((tried.dir / "config.yaml").read_text())["compile"] is False
    assert tried.metrics["train/loss"] == plain.metrics["train/loss"]
    assert tried.metrics["test/return_mean"] == plain.metrics["test/return_mean"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=mlp_digits", "budget.epochs=1"],
        ["experiment=vae_digits", "budget.epochs=1"],
        *(
            ["env=gymnasium", f"agent={agent}", "agent.eval_episodes=2", "budget.updates=1"]
            for agent in ("ppo", "a2c", "dqn", "reinforce")
        ),
    ],
)
def test_learners_say_which_metrics_they_evaluate(overrides: list[str], tmp_path: Path) -> None:
    task = Task(compose([*overrides, "threads=1"]), tmp_path / "run")
    learner = worker.make_learner(task, worker.make_run(task.config, task.dir))
    assert set(learner.evaluate()) == set(learner.evaluates)  # type: ignore[attr-defined]


def test_a_metric_is_told_of_a_learner_whose_source_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.supervised.learner.Supervised.evaluates", ("score",))
    with pytest.raises(ConfigError) as error:
        trivium.train("monitor.metric=eval/loss", dir=tmp_path / "a" / "run")
    assert error.value.errors == ["monitor.metric: this learner reports no eval/loss; valid: eval/score"]
    assert not list(tmp_path.iterdir())


def test_a_learner_whose_source_does_not_tell_says_what_is_better_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.config.constructors.stated", lambda *_: None)
    typed = ["experiment=mlp_digits", "budget.epochs=1", "evaluation.every_updates=1", "tracking.wandb=false"]
    result = trivium.train(*typed, "monitor.metric=eval/accuracy", dir=tmp_path / "known")
    evaluated = {r["step"]: r["eval/accuracy"] for r in read_rows(result.dir / "metrics.jsonl") if "eval/accuracy" in r}
    best = max(evaluated.values())
    assert evaluated[int(result.checkpoint.rpartition("-")[2])] == best > min(evaluated.values())

    monkeypatch.setattr("trivium.supervised.learner.Supervised.evaluates", ("loss", "accuracy"))
    with pytest.raises(ConfigError) as error:
        trivium.train(*typed, "monitor.metric=eval/accuracy", dir=tmp_path / "unknown")
    assert [line.partition(":")[0] for line in error.value.errors] == ["monitor.mode"]
    assert not (tmp_path / "unknown").exists()


def test_a_metric_that_is_not_evaluated_is_told_before_the_run_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        trivium.train("budget.target=eval/acuracy>=0.9", "monitor.metric=eval/los", dir=tmp_path / "a" / "run")
    assert error.value.errors == [
        "monitor.metric: this learner reports no eval/los; did you mean 'eval/loss'? valid: eval/accuracy, eval/loss",
        "budget.target: this learner reports no eval/acuracy; did you mean 'eval/accuracy'? "
        "valid: eval/accuracy, eval/loss",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cuda", "mps", "experiment", "device"),
    [
        (False, False, "mlp_digits", "cpu"),
        (True, False, "mlp_digits", "cuda"),
        (True, False, "ppo_cartpole", "cuda"),
        (False, True, "mlp_digits", "mps"),
        (False, True, "ppo_cartpole", "cpu"),
    ],
)
def test_auto_is_the_best_device_that_serves(
    cuda: bool, mps: bool, experiment: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose([f"experiment={experiment}"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert worker.make_run(config, None).device.type == device


def test_on_apples_gpu_auto_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr(compiling, "_eager_s", lambda task: 1e9)
    long = ["experiment=mlp_digits", "compile=auto", "budget.epochs=100000"]
    assert not decide_compile(Task(compose(long), Path("nowhere")))
    assert decide_compile(Task(compose([*long, "device=cpu"]), Path("nowhere")))


def test_a_device_that_does_not_serve_is_another_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_device(compose([])) == "auto"
    assert usable_device({**compose([]), "device": "cpu"}) == "cpu"
    assert usable_device({**compose(["experiment=ppo_cartpole"]), "device": "mps"}) == "auto"
