"""Envs on Ray actors: what comes of it with actors in this process, and a few times on a real Ray."""

from __future__ import annotations

import functools
import io
import os
import signal
from typing import Any

import numpy as np
import pytest
import ray
import torch
from in_process_ray import actors_here  # noqa: F401  a fixture

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.ppo import PPO
from trivium.agents.reinforce import REINFORCE
from trivium.learner import Run

AGENTS: dict[Any, dict[str, Any]] = {
    PPO: {"num_steps": 16, "minibatch_size": 32},
    A2C: {},
    DQN: {"train_every_env_steps": 32, "gradient_steps": 4, "learning_starts": 32},
}


def build(agent: Any, runners: int, id: str = "CartPole-v1", vector: Any = None, **keywords: Any) -> Any:
    env = functools.partial(make, id=id, num_envs=4, native=False, **(vector or {}))
    return agent(run=Run(), env=env, env_runners=runners, **{**AGENTS.get(agent, {}), **keywords})


def saved(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def steps(agent: Any, number: int) -> str:
    return str([{name: value.item() for name, value in agent.step().items()} for _ in range(number)])


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("agent", [PPO, REINFORCE, A2C])
def test_runners_see_what_one_process_sees(agent: Any) -> None:
    here, there = build(agent, 0), build(agent, 2)
    expected, got = here.step(), there.step()
    # Half as many rows in a product of matrices may be summed in another order: equal but for rounding.
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, equal_nan=True)
    torch.testing.assert_close(there.flat.theta, here.flat.theta, rtol=0, atol=1e-5)
    there.close()


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("agent", [PPO, DQN, REINFORCE])
def test_a_killed_runner_is_replaced_and_the_bits_are_the_same(agent: Any, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed, killed = build(agent, 2), build(agent, 2)
    expected = steps(undisturbed, 6)
    before = steps(killed, 3)
    ray.kill(killed.collector._actors[1])
    assert before[:-1] + ", " + steps(killed, 3)[1:] == expected
    assert "env runner 1 died and is replaced" in caplog.text


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("agent", [PPO, DQN, REINFORCE])
def test_it_resumes_to_the_same_bits(agent: Any) -> None:
    whole = build(agent, 2)
    steps(whole, 3)
    state = saved(whole.state_dict())
    expected = steps(whole, 3)
    resumed = build(agent, 2)
    resumed.load_state_dict(state)
    assert steps(resumed, 3) == expected
    whole.close()
    resumed.close()
    with pytest.raises(ValueError, match=r"saved with agent.env_runners=2, now there are 4"):
        build(agent, 4).load_state_dict(state)


NEXT_STEP = {"vector": "sync", "vector_settings": {"autoreset_mode": "next_step"}}


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("agent", [PPO, DQN])
def test_where_steps_are_dead_runners_see_what_one_process_sees_and_resume_with_new_episodes(agent: Any) -> None:
    keywords: dict[str, Any] = {"vector": NEXT_STEP}
    if agent is PPO:
        keywords["memory"] = "gru"
        here, there = build(agent, 0, **keywords), build(agent, 2, **keywords)
        expected, got = here.step(), there.step()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, equal_nan=True)
        torch.testing.assert_close(there.flat.theta, here.flat.theta, rtol=0, atol=1e-5)
        there.close()
    first, resumed, again = (build(agent, 2, **keywords) for _ in range(3))
    steps(first, 3)
    state = saved(first.state_dict())
    for learner in (resumed, again):
        learner.load_state_dict(state)
        assert learner.collector.begins_N.all()
        assert not learner.collector.state_NM.any()
        assert not learner.collector.in_progress.return_N.any()
        assert agent is PPO or learner.replay.rows.truncated[learner.replay.position - 1].all(), "nothing follows"
    assert steps(resumed, 3) == steps(again, 3)
    for learner in (first, resumed, again):
        learner.close()


@pytest.mark.usefixtures("actors_here")
def test_an_off_policy_agent_collects_while_it_learns() -> None:
    learner = build(DQN, 2)
    learner.step()
    assert learner.ahead is not None
    assert not torch.equal(learner.ahead.weights["advantage.1.weight"], learner.net.advantage[1].weight)
    assert learner.collector.env_steps == 32, "what is under way does not count yet"
    learner.close()


@pytest.mark.usefixtures("actors_here")
def test_what_is_wrong_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"agent.env_runners=3 must divide env.num_envs = 4"):
        build(PPO, 3)
    with pytest.raises(ValueError, match=r"Nowhere-v0.*is not a gymnasium id"):
        build(PPO, 2, id="Nowhere-v0")
    broken = build(PPO, 2, id="tiny_envs:Broken-v0")
    with pytest.raises(ValueError, match=r"env runner 0: .*Broken-v0'.* NaN.*$"):
        broken.step()
    broken.close()


@pytest.mark.usefixtures("actors_here")
def test_what_wrappers_keep_is_known_saved_and_loaded() -> None:
    keywords = {"id": "Pendulum-v1", "vector": {"wrappers": ["NormalizeObservation"]}, "eval_episodes": 2}
    here, there, resumed = (build(PPO, runners, max_eval_steps=20, **keywords) for runners in (0, 2, 2))
    for agent in (here, there):
        agent.step()
    of = [agent.collector.kept()["NormalizeObservation/0"]["obs_rms"]["of"] for agent in (here, there)]
    assert of[0]["count"] == of[1]["count"]
    assert np.allclose(of[0]["mean"], of[1]["mean"], atol=1e-4)
    result, state = there.evaluate(), saved(there.state_dict())
    assert result == there.evaluate()
    resumed.load_state_dict(state)
    assert resumed.evaluate() == result
    assert str(resumed.step()) == str(there.step())
    for agent in (there, resumed):
        agent.close()


# ----------------------------------------------------------------------------------------------- on a real Ray


def pids(agent: Any) -> list[int]:
    of_process = [one.__ray_call__.remote(lambda self: os.getpid()) for one in agent.collector._actors]
    return ray.get(of_process)


@pytest.mark.ray
@pytest.mark.usefixtures("joined_ray")
@pytest.mark.parametrize("agent", [PPO, DQN])
def test_a_runner_killed_on_a_real_ray_is_replaced_and_the_bits_are_those_of_actors_here(
    agent: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    killed = build(agent, 2)
    assert len({os.getpid(), *pids(killed)}) == 3
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids(killed)} == {os.getpriority(os.PRIO_PROCESS, 0)}
    before = steps(killed, 3)
    os.kill(pids(killed)[1], signal.SIGKILL)
    after = steps(killed, 3)
    assert "env runner 1 died and is replaced" in caplog.text
    killed.close()
    request.getfixturevalue("actors_here")
    assert before[:-1] + ", " + after[1:] == steps(build(agent, 2), 6)


@pytest.mark.ray
@pytest.mark.usefixtures("joined_ray")
def test_an_env_that_hangs_is_one_line() -> None:
    hangs = build(PPO, 2, id="tiny_envs:Hangs-v0", env_timeout_s=1.0)
    with pytest.raises(ValueError, match=r"env runner \d did not answer in 1 s: one of its envs hangs"):
        hangs.step()
    hangs.close()
