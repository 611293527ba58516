"""RLlib's algorithms under Trivium's loop, on a real Ray."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import check_yaml, train
from killing import finish, rows

from trivium.agents.envs.environment import make
from trivium.agents.rllib.learner import RLlib, metric_name, scalars
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.learner import Abandoned, Learner, Run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    # RLlib's, gymnasium's and torch's own: they concern no one here, and a new version brings others
    pytest.mark.filterwarnings("ignore"),
]

SMALL: dict[str, dict[str, Any]] = {
    "PPO": {"batch_size": 128, "settings": {"training": {"minibatch_size": 64, "num_epochs": 1}}},
    "DQN": {"settings": {"training": {"num_steps_sampled_before_learning_starts": 100}}},
    "SAC": {"batch_size": 16, "settings": {"training": {"num_steps_sampled_before_learning_starts": 100}}},
    "APPO": {"batch_size": 128},
    "IMPALA": {"batch_size": 128},
}
ENVS = {"SAC": "Pendulum-v1"}


def build(
    algorithm: str = "PPO", *, id: str | None = None, num_envs: int = 4, wrappers: Any = (), **keywords: Any
) -> RLlib:
    small = {"hidden": [16], "iteration_env_steps": 64, "eval_episodes": 3, "max_eval_steps": 50}
    env = partial(make, id=id or ENVS.get(algorithm, "CartPole-v1"), num_envs=num_envs, wrappers=wrappers)
    run = keywords.pop("run", Run())
    return RLlib(run=run, env=env, algorithm=algorithm, **(small | SMALL[algorithm] | keywords))


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """RLlib makes a folder in the home directory; and what Ray is told in the environment is not for other tests."""
    before = dict(os.environ)
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.pop("RAY_ADDRESS", None)
    yield
    os.environ.clear()
    os.environ.update(before)


# ----------------------------------------------------------------------------------------------- without a Ray


def test_the_yaml_mirrors_the_constructor() -> None:
    check_yaml("agent/rllib", RLlib)


def test_metrics_have_the_names_of_trivium_s_own_agents() -> None:
    learner = {
        "total_loss": 1.0,
        "vf_loss": torch.tensor(2.0),
        "num_module_steps_trained": 5,
        "weights_seq_no": 3.0,
        "nested": {"a": 1},
        "words": "none",
        "default_optimizer_learning_rate": 0.1,
    }
    assert scalars(learner) == {"loss": 1.0, "value_loss": 2.0, "lr": 0.1}
    assert metric_name("qf_twin_learning_rate") == "qf_twin_lr"
    assert metric_name("gradients_qf_global_norm") == "qf_grad_norm"
    assert metric_name("gradients_default_optimizer_global_norm") == "grad_norm"


def test_algorithm_can_be_typed_without_its_group_and_settings_are_free() -> None:
    config = compose(["agent=rllib", "algorithm=SAC", "env.id=Pendulum-v1", "budget.env_steps=10"])
    assert (config["agent"]["algorithm"], config["name"]) == ("SAC", "rllib_Pendulum-v1")
    typed = ["agent.settings.training.clip_param=0.1", "agent.settings.training.lr=[[0,0.1],[9,0.01]]"]
    config = compose(["experiment=rllib_ppo_cartpole", *typed])
    assert (
        config["agent"]["settings"]["training"] | {"clip_param": 0.1, "lr": [[0, 0.1], [9, 0.01]]}
        == (config["agent"]["settings"]["training"])
    )
    with pytest.raises(ConfigError, match=r"agent.setings.training.vf: .* did you mean 'agent.settings'"):
        compose(["agent=rllib", "agent.setings.training.vf=1", "budget.env_steps=10"])


def test_rllib_is_imported_only_when_used() -> None:
    code = "import sys, trivium.agents.rllib; print(any(m == 'ray' or m.startswith('ray.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"algorithm": "PP0"}, r"algorithm=PP0: must be one of .*; did you mean 'PPO'"),
        ({"algorithm": "sac"}, "did you mean 'SAC'"),
        ({"algorithm": "BC"}, "algorithm=BC: must be one of APPO, DQN"),
        ({"settings": {"trainnig": {}}}, "agent.settings.trainnig: RLlib takes no such setting; .* 'training'"),
        ({"settings": {"training": {"clip_parm": 1}}}, "agent.settings.training.clip_parm: .* 'clip_param'"),
        ({"settings": {"training": 3}}, "agent.settings.training=3: must be a group"),
        ({"settings": {"rl_module": {"model_config": {"fcnet_hidden": [1]}}}}, "model_config.fcnet_hidden: .*hiddens'"),
        ({"settings": {"training": {"lr": "fast"}}}, "agent.*fast"),
        ({"settings": {"environment": {"env": "os.system"}}}, "agent.settings.environment: .*no such setting"),
        ({"batch_size": 32, "settings": {"training": {"minibatch_size": 64}}}, "agent.algorithm=PPO: .*minibatch"),
        ({"env_runners": 3}, "agent.env_runners=3 must divide env.num_envs = 4"),
        ({"env_runners": -1}, "env_runners=-1: must be an integer >= 0"),
        ({"run": Run(rank=0, world_size=2)}, "launch.workers=2 must be 1"),
        ({"planned_env_steps": 0}, "planned_env_steps=0: must be an integer >= 1"),
        ({"wrappers": ["NormalizeObservation"]}, "env.wrappers: NormalizeObservation would keep running statistics"),
        ({"algorithm": "DQN", "id": "Pendulum-v1"}, "agent.algorithm=DQN can't serve the action space Box"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(keywords: dict[str, Any], message: str) -> None:
    SMALL.setdefault(keywords.get("algorithm", "PPO"), {})
    with pytest.raises(ValueError, match=message) as caught:
        build(**{"algorithm": "PPO"} | keywords)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"training": {"replay_buffer_config": {"type": "subprocess.Popen", "args": ["touch", "run"]}}},
        {"training": {"replay_buffer_config": {"type": "{type: subprocess.Popen, args: [touch, run]}"}}},
        {"training": {"replay_buffer_config": {"type": "/tmp/other.yaml"}}},
        {"training": {"replay_buffer_config": {"type": b"x"}}},
        {"learners": {"learner_class": "os.system"}},
    ],
    ids=str,
)
def test_no_string_in_the_settings_names_a_class(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="RLlib might import and run it"):
        build("DQN", settings=settings)


def test_what_is_not_set_takes_a_tenth_of_what_is_planned() -> None:
    planned: dict[str, Any] = {"planned_env_steps": 1600, "iteration_env_steps": 1000, "num_envs": 4}

    def config(algorithm: str = "PPO", **keywords: Any) -> Any:
        return build(algorithm, **{"batch_size": None, "settings": {}, **planned, **keywords}).config

    ppo = config()
    assert (ppo.total_train_batch_size, ppo.minibatch_size) == (160, 128)
    assert ppo.min_sample_timesteps_per_iteration == 160
    assert config(learners=2).train_batch_size_per_learner == 80
    assert config(planned_env_steps=10).train_batch_size_per_learner == 4, "a step of each env"
    large = config(planned_env_steps=10**6)
    assert (large.total_train_batch_size, large.min_sample_timesteps_per_iteration) == (4000, 1000)
    assert config(planned_env_steps=None).total_train_batch_size == 4000
    assert config(batch_size=1024).total_train_batch_size == 1024, "what is set stays"
    assert config(settings={"training": {"minibatch_size": 200}}).total_train_batch_size == 4000
    assert config("DQN").num_steps_sampled_before_learning_starts == 160
    assert config("DQN").total_train_batch_size == 32, "of old transitions"
    chosen = {"training": {"num_steps_sampled_before_learning_starts": 500}}
    assert config("DQN", settings=chosen).num_steps_sampled_before_learning_starts == 500


def test_the_budget_is_what_is_planned() -> None:
    assert compose(["agent=rllib", "budget.env_steps=1600"])["agent"]["planned_env_steps"] == 1600
    assert compose(["agent=rllib", "budget.updates=3"])["agent"]["planned_env_steps"] is None


def test_a_class_of_the_user_s_own_is_named_as_everywhere() -> None:
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner

    learner = build(settings={"learners": {}, "training": {"learner_class": partial(PPOTorchLearner)}})
    assert learner.config.learner_class is PPOTorchLearner


# ----------------------------------------------------------------------------------------------- each algorithm

RESUME = """
import json, sys
import torch
from test_rllib import build, train
from trivium.on_ray import cluster

torch.set_num_threads(1)
cluster.prepare()
with cluster.joined(4, import_from_here=True):
    for file in sys.argv[1:]:
        state = torch.load(file, weights_only=True)
        learner = build(state["algorithm"])
        learner.load_state_dict(state["learner"])
        result = {"evaluation": learner.evaluate(), "counters": learner.counters()}
        buffer = learner.algorithm.local_replay_buffer
        result["replay"] = buffer and buffer.get_num_timesteps()
        result["metrics"] = train(learner, 1)[0]
        result["after"] = learner.counters()
        print(json.dumps(result), flush=True)
        learner.close()
"""


@pytest.fixture(scope="module")
def trained(joined_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of each algorithm what it said, and the file of its state."""
    found = {}
    for algorithm in ("PPO", "DQN", "SAC", "APPO", "IMPALA"):
        learner = build(algorithm)
        assert isinstance(learner, Learner)
        metrics = train(learner, 3)
        said: dict[str, Any] = {"metrics": metrics, "evaluation": learner.evaluate(), "counters": learner.counters()}
        said["again"] = learner.evaluate()
        buffer = learner.algorithm.local_replay_buffer
        said["replay"] = buffer and buffer.get_num_timesteps()
        said["file"] = tmp_path_factory.mktemp("states") / f"{algorithm}.pt"
        torch.save({"algorithm": algorithm, "learner": learner.state_dict()}, said["file"])
        train(learner, 1)
        said["later"] = learner.evaluate()
        learner.close()
        said["closed"] = learner.evaluate()
        learner.load_weights(torch.load(said["file"], weights_only=True)["learner"])
        said["loaded"] = learner.evaluate()
        found[algorithm] = said
    return found


@pytest.fixture(scope="module")
def resumed(trained: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a new process finds in these files, and what it does next."""
    command = [sys.executable, "-c", RESUME, *(str(said["file"]) for said in trained.values())]
    path = os.pathsep.join(str(Path(__file__).parents[2] / name) for name in ("agents", "platform"))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": ""}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(trained, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "APPO", "IMPALA"])
def test_it_takes_steps_and_evaluates(algorithm: str, trained: dict[str, dict[str, Any]]) -> None:
    said = trained[algorithm]
    names = [set(metrics) for metrics in said["metrics"]]
    assert names[0] == names[1] == names[2]
    assert {"loss", "episode_return", "episode_length"} <= names[0]
    assert all(math.isfinite(m[name]) for m in said["metrics"] for name in m if "loss" in name)
    assert said["counters"]["env_steps"] >= 3 * 64
    assert set(said["evaluation"]) == {"return_mean", "return_std_err", "return_min", "return_max", "length_mean"}
    assert said["again"] == said["evaluation"], "between two steps nothing changes, also where learning goes on"
    assert said["closed"] == said["later"]
    assert said["loaded"] == said["evaluation"]
    if algorithm == "SAC":
        assert said["later"] != said["evaluation"], "continuous actions: any other weights have other returns"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "APPO", "IMPALA"])
def test_it_resumes_in_a_new_process(
    algorithm: str, trained: dict[str, dict[str, Any]], resumed: dict[str, dict[str, Any]]
) -> None:
    before, after = trained[algorithm], resumed[algorithm]
    assert after["evaluation"] == before["evaluation"]
    assert after["counters"] == before["counters"]
    assert after["replay"] == before["replay"]
    assert (after["replay"] is not None) == (algorithm in ("DQN", "SAC"))
    assert after["metrics"].keys() == before["metrics"][0].keys()
    assert before["counters"]["env_steps"] < after["after"]["env_steps"] < before["counters"]["env_steps"] + 1000


def test_an_iteration_is_seen_and_ends_when_a_signal_asks_for_it(
    joined_ray: None, saved: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.agents.rllib.learner.SHOW_S", 0.01)
    learner = build(batch_size=None, settings={"training": {"num_epochs": 5}}, planned_env_steps=3000)
    said: list[str] = []
    learner.run.doing.show = said.append
    train(learner, 1)
    assert 300 <= learner.counters()["env_steps"] < 310
    assert said[0].endswith("begins")
    assert re.search(r"3\d\d env steps, \d+ gradients", said[-1])

    asked: list[int] = []
    for moment in ("env steps", "gradients"):
        asked.clear()
        learner.run.doing.show = lambda text, moment=moment: asked.extend([15] * (f" {moment}" in text))  # type: ignore[misc]
        learner.run.doing.stop_requested = lambda: asked[0] if asked else None
        with pytest.raises(Abandoned):
            learner.step()
    state = saved(learner.state_dict())
    learner.run.doing.show, learner.run.doing.stop_requested = None, lambda: None
    assert learner.counters()["env_steps"] < 310, "what was counted is whole iterations"
    train(learner, 1)
    assert learner.counters()["env_steps"] > 600
    learner.close()
    resumed = build(batch_size=None, settings={"training": {"num_epochs": 5}}, planned_env_steps=3000)
    resumed.load_state_dict(state)
    assert resumed.counters()["env_steps"] < 310
    train(resumed, 1)
    resumed.close()


def test_the_envs_are_wrapped_as_the_config_says(joined_ray: None) -> None:
    learner = build(wrappers=[{"TimeLimit": {"max_episode_steps": 3}}])
    assert train(learner, 1)[0]["episode_length"] == 3
    learner.close()


def test_what_rllib_leaves_out_of_its_state_is_kept(joined_ray: None, saved: Callable[[Any], Any]) -> None:
    def alpha(learner: Any) -> float:
        return float(learner.curr_log_alpha["default_policy"].exp())

    first = build("SAC")
    train(first, 3)
    second = build("SAC")
    second.load_state_dict(saved(first.state_dict()))
    assert second._on_learner(alpha) == first._on_learner(alpha) != 1.0
    first.close()
    second.close()


# ----------------------------------------------------------------------------------------------- more than one process


@pytest.mark.slow
def test_env_runners_are_actors_and_the_rest_is_the_same(joined_ray: None, saved: Callable[[Any], Any]) -> None:
    learner = build("IMPALA", env_runners=2, num_envs=4)
    assert learner.algorithm.env_runner_group is not None
    assert learner.algorithm.env_runner_group.num_healthy_remote_workers() == 2
    train(learner, 2)
    result, state = learner.evaluate(), saved(learner.state_dict())
    learner.close()
    learner.load_state_dict(state)
    assert learner.evaluate() == result
    steps = learner.counters()["env_steps"]
    train(learner, 1)
    assert learner.counters()["env_steps"] > steps
    learner.close()


def test_spaces_that_do_not_begin_at_0(joined_ray: None) -> None:
    learner = build(id="tiny_envs:Identity-v0")  # observes 3 to 6, acts by -2 to 1
    train(learner, 1)
    assert 0 <= learner.evaluate()["return_mean"] <= 20
    learner.close()


def test_a_recurrent_policy_remembers_in_evaluation(joined_ray: None) -> None:
    model = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5}
    learner = build(settings={"training": {"minibatch_size": 64}, "rl_module": {"model_config": model}})
    train(learner, 1)
    assert learner.evaluate() == learner.evaluate()
    assert "state_out" in learner.actor.extra[0]
    learner.close()


# ----------------------------------------------------------------------------------------------- what it learns


def test_ppo_learns_what_depends_on_the_observation(joined_ray: None) -> None:
    learner = build(
        id="tiny_envs:Match-v0",
        num_envs=8,
        lr=1e-2,
        batch_size=256,
        settings={"training": {"minibatch_size": 64, "num_epochs": 4}},
        eval_episodes=20,
    )
    train(learner, 12)
    assert learner.evaluate()["return_mean"] == 1.0
    learner.close()


@pytest.mark.slow
def test_ppo_learns_a_continuous_action(joined_ray: None) -> None:
    # the action should be half the observation, +-0.5, within +-0.6; no action at all gives -0.25
    learner = build(
        id="tiny_envs:Reach-v0",
        num_envs=8,
        lr=1e-2,
        batch_size=256,
        settings={"training": {"minibatch_size": 64, "num_epochs": 4}},
        eval_episodes=20,
    )
    train(learner, 15)
    assert learner.evaluate()["return_mean"] > -0.05
    learner.close()


# ----------------------------------------------------------------------------------------------- the command

COMMAND = [
    *("agent=rllib", "algorithm=DQN", "agent.iteration_env_steps=64", "agent.hidden=[16]", "threads=1"),
    *("agent.settings.training.num_steps_sampled_before_learning_starts=100", "agent.eval_episodes=2"),
    *("agent.test_episodes=2", "agent.max_eval_steps=20", "tracking.wandb=false", "budget.updates=6"),
    *("log.every_updates=1", "checkpoint.every_updates=2", "evaluation.every_updates=3"),
]


@pytest.mark.kill
@pytest.mark.slow  # RLlib takes each process 10 s to import; what its state holds is tested above
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert finish(COMMAND, run, kill_at=("trivium.agents.rllib.learner", "RLlib.step", 6)) == -9
    before = rows(run)
    assert [row["updates"] for row in before] == [1, 2, 3, 4, 5]
    assert (run / "checkpoints" / "last").resolve().name == f"step-{before[3]['step']:012d}"
    assert finish(COMMAND, run) == 0
    after = rows(run)
    assert [row["updates"] for row in after] == [1, 2, 3, 4, 5, 6, 6], "each once; the last is the test's"
    assert after[:4] == before[:4], "rows up to the checkpoint are as they were"
    steps = [row["step"] for row in after]
    assert steps == sorted(steps)
    assert steps[4] - steps[3] < 200, "counted on from the checkpoint"
    assert [set(row) for row in after[3:6:2]] == [set(row) for row in before[3:4]] + [set(after[5])]
    assert (run / "result.json").exists()


def test_a_run_folder_from_a_stranger_runs_nothing(tmp_path: Path) -> None:
    from trivium.training.builder import build_learner

    config = compose(["agent=rllib", "budget.updates=1"])
    config["agent"]["settings"] = {"training": {"learner_class": {"_target_": "os.system", "_partial_": True}}}
    with pytest.raises(ConfigError, match="is not a name that a run folder may build; --trust os"):
        build_learner(config, Run(), trusted=())
    config["agent"]["settings"] = {"training": {"learner_class": "os.system"}}
    with pytest.raises(ConfigError, match=r"^agent.settings.training.learner_class=.*: RLlib might"):
        build_learner(config, Run(), trusted=())
