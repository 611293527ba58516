from __future__ import annotations

import math

import gymnasium as gym
import torch

from trivium.agents.envs.classic_control import PIXELS, ClassicControl
from trivium.agents.envs.environment import make
from trivium.agents.envs.pixels import GROUND, HEIGHT, POLE, WIDTH, draw
from trivium.learner import Run


def test_where_cart_and_pole_are() -> None:
    upright, right, tilted = draw(torch.tensor([0.0, 2.4, 0.0]), torch.tensor([0.0, 0.0, math.pi / 2]))
    assert upright.shape == (HEIGHT, WIDTH)
    assert upright.dtype == torch.uint8
    assert torch.equal(upright, upright.flip(1)), "in the middle"
    top, middle = int(GROUND - POLE), WIDTH // 2
    assert upright[top + 1 : int(GROUND), middle].eq(255).all(), "the pole is white and a line"
    assert not upright[: top - 2].any()
    assert upright[int(GROUND), middle + 4] == 127, "the cart is grey"
    assert right[:, -1].eq(255).any(), "2.4 m is the edge"
    assert not right[:, : WIDTH // 2].any()
    assert tilted[int(GROUND), middle + int(POLE) - 2] == 255, "to the right"
    assert not tilted[:, : middle - 7].any()


def test_observations_are_the_last_picture_and_the_present_one() -> None:
    envs = ClassicControl(id=PIXELS, num_envs=2, seed=0, device=torch.device("cpu"))
    before = envs.reset()
    assert before.shape == (2, *envs.observation_space.shape)
    for _ in range(5):
        step = envs.step(torch.tensor([0, 1]))
        assert torch.equal(step.next_obs[:, 0], before[:, 1])
        assert not torch.equal(step.next_obs[:, 1], before[:, 1])
        before = step.obs


def test_it_moves_as_cartpole() -> None:
    seen = ClassicControl(id=PIXELS, num_envs=3, seed=0, device=torch.device("cpu"))
    told = ClassicControl(id="CartPole-v1", num_envs=3, seed=0, device=torch.device("cpu"))
    seen.reset()
    told.reset()
    told.state = (seen.state[0][:, :4].clone(), seen.state[1])
    for t in range(7):
        a, b = seen.step(torch.tensor([0, 1, t % 2])), told.step(torch.tensor([0, 1, t % 2]))
        assert torch.equal(seen.state[0][:, :4], told.state[0])
        assert torch.equal(a.terminated, b.terminated)


def test_it_is_an_env_of_gymnasium() -> None:
    env = gym.make(PIXELS, render_mode="rgb_array")
    first, _ = env.reset(seed=1)
    assert first in env.observation_space
    obs, reward, *_ = env.step(0)
    assert obs in env.observation_space
    assert reward == 1.0
    assert env.render().shape == (HEIGHT * 8, WIDTH * 8, 3)  # type: ignore[union-attr]
    assert (env.reset(seed=1)[0] == first).all()
    assert isinstance(make(id=PIXELS, num_envs=2, run=Run(), stream="train"), ClassicControl)
    replayed = make(id=PIXELS, num_envs=1, run=Run(), stream="train", native=False)
    replayed.reset()
    step = replayed.step(torch.tensor([1]))
    again = make(id=PIXELS, num_envs=1, run=Run(), stream="train", native=False)
    assert not again.load_state_dict(replayed.state_dict()).any()
    assert torch.equal(again.obs, step.obs)
