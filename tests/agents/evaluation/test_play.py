"""Films of episodes: which frames, which episodes, which figures, and what can't be drawn."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import contract
import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.envs.protocol import Envs
from trivium.agents.evaluation import play
from trivium.agents.evaluation.play import Film, NotDrawable, fitted, returns_figure, rollout_video
from trivium.agents.evaluation.returns import Evaluation
from trivium.agents.observations import Layout
from trivium.agents.ppo import PPO
from trivium.agents.reinforce import REINFORCE
from trivium.learner import Episode, Run

BUILD: dict[str, Callable[..., Any]] = {
    "ppo": functools.partial(PPO, num_steps=8, minibatch_size=16),
    "a2c": functools.partial(A2C, num_steps=4),
    "reinforce": functools.partial(REINFORCE),
    "dqn": functools.partial(DQN, learning_starts=8, batch_size=8, buffer_size=64),
}


def evaluation(id: str = "tiny_envs:Drawn-v0", max_steps: int = 100, **keywords: Any) -> Evaluation:
    env = functools.partial(make, id=id, num_envs=8, **keywords)
    return Evaluation(run=Run(), env=env, eval_episodes=2, test_episodes=3, max_steps=max_steps)


def always(action: int) -> play.Act:
    return lambda obs, state_NM, generator: (torch.full((len(obs),), action), state_NM)


def sampled(obs: Tensor, state_NM: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randint(2, (len(obs),), generator=generator), state_NM


def colours(film: Film) -> list[tuple[int, ...]]:
    frames = list(film)
    assert all(f.dtype == np.uint8 and (f == f[0, 0]).all() for f in frames)
    return [tuple(map(int, f[0, 0])) for f in frames]


# ----------------------------------------------------------------------------------------------- films


def test_each_episode_is_seen_from_its_first_state_to_its_last() -> None:
    told: list[Episode] = []
    film = Film(evaluation(), always(1), episodes=2, tell=told.append)
    assert film.fps == 20
    seen = colours(film)
    assert [(red, green) for red, green, _ in seen] == 2 * [(0, 0), (20, 100), (40, 100), (60, 100), (80, 100)]
    assert len({blue for _, _, blue in seen[:5]}) == len({blue for _, _, blue in seen[5:]}) == 1
    assert seen[0][2] != seen[5][2], "the second episode is another one"
    assert told == 2 * [Episode(4.0, 4, "terminated")]


def test_an_episode_is_cut_after_max_steps_and_the_next_begins_anew() -> None:
    told: list[Episode] = []
    film = Film(evaluation(), always(1), episodes=2, max_steps=2, tell=told.append)
    assert [red for red, _, _ in colours(film)] == [0, 20, 40, 0, 20, 40]
    assert told == 2 * [Episode(2.0, 2, "cut")]
    assert len(list(Film(evaluation(max_steps=3), always(1)))) == 4, "without max_steps that of the evaluation"


def test_a_time_limit_is_told_from_the_end_of_the_task() -> None:
    pytest.importorskip("pygame", reason="the extra `video`")
    told: list[Episode] = []
    frames = list(Film(evaluation("MountainCar-v0", 1000), always(1), tell=told.append))
    assert told == [Episode(-200.0, 200, "truncated")]
    assert len(frames) == 201


def test_no_more_frames_than_asked_for_in_a_second_of_the_envs_time() -> None:
    film = Film(evaluation(), always(0), episodes=2, max_fps=10)
    assert film.fps == 10
    assert [red for red, _, _ in colours(film)] == [0, 40, 80, 20, 60]  # moments 0 to 9, every second one


@pytest.mark.parametrize("mode", ["rgb_array", "human", None])
def test_the_settings_may_say_how_training_draws(mode: str | None) -> None:
    film = Film(evaluation(settings={"render_mode": mode}), always(1))
    assert [red for red, _, _ in colours(film)] == [0, 20, 40, 60, 80]


def test_what_is_observed_otherwise_than_in_training_is_not_drawn() -> None:
    other = Layout(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8))
    with pytest.raises(NotDrawable, match="Drawn-v0' draws itself where it is observed as Box"):
        Film(evaluation(), always(1), layout=other)
    assert list(Film(evaluation(), always(1), layout=Layout(gym.spaces.Box(0, 1, (1,)))))
    assert play.agent_figures(evaluation(), always(1), layout=other) == {}


def test_a_seed_gives_the_same_episodes_and_another_one_others() -> None:
    films = [colours(Film(evaluation(), sampled, episodes=4, seed=seed)) for seed in (5, 5, 6)]
    assert films[0] == films[1]
    assert {c[2] for c in films[0]} != {c[2] for c in films[2]}, "first states"
    assert [c[1] for c in films[0]] != [c[1] for c in films[2]], "sampled actions"


@pytest.mark.parametrize(("shape", "size", "expected"), [((6, 8), 320, (240, 320)), ((400, 600), 320, (200, 300))])
def test_pictures_are_enlarged_or_reduced_by_whole_numbers(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert fitted(np.zeros((*shape, 3), np.uint8), size).shape == (*expected, 3)


def test_reducing_averages_and_enlarging_repeats() -> None:
    picture = np.array([[[0, 10, 20], [40, 10, 0]], [[0, 10, 20], [40, 10, 0]]], np.uint8)
    assert fitted(picture, 1).tolist() == [[[20, 10, 10]]]
    assert fitted(picture, 5)[:, :, 0].tolist() == 4 * [[0, 0, 40, 40]]
    assert fitted(picture, 3).tolist() == picture.tolist()


@pytest.mark.parametrize(("id", "steps"), [("CartPole-v1", 5), ("tiny_envs:Drawn-v0", 4)])
def test_a_window_is_opened_by_the_env_or_else_by_gymnasium(
    id: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pygame = pytest.importorskip("pygame", reason="the extra `video`")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a screen that nobody sees
    opened: list[tuple[int, int]] = []
    set_mode = pygame.display.set_mode
    monkeypatch.setattr(pygame.display, "set_mode", lambda size: opened.append(size) or set_mode(size))
    told: list[Episode] = []
    film = Film(evaluation(id), always(1), max_steps=5, window=True, tell=told.append)
    assert list(film) == []
    assert (told[0].length, len(opened)) == (steps, 1)
    assert not pygame.display.get_init(), "it is closed again"
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")  # what SDL takes where it finds no screen
    with pytest.raises(NotDrawable, match="no window: the display"):
        list(Film(evaluation(id), always(1), window=True))


# ----------------------------------------------------------------------------------------------- what can't be drawn


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("tiny_envs:Constant-v0", r"env.id='tiny_envs:Constant-v0' has no picture: its render_modes are \[\]"),
        ("tiny_envs:DrawnWrongly-v0", r"draws float32 \[6, 8, 3\], valid is uint8 \[height, width, 3\], of one size"),
        ("tiny_envs:DrawnNever-v0", "can't be drawn: RuntimeError: no driver"),
        ("tiny_envs:DrawnExit-v0", "can't be drawn: SystemExit: 5"),
    ],
)
def test_what_has_no_picture_says_so_and_does_without_a_video(id: str, said: str) -> None:
    with pytest.raises(NotDrawable, match=said):
        list(Film(evaluation(id), always(0)))
    measured = evaluation(id)
    measured(always(0), final=False)
    assert list(play.agent_figures(measured, always(0))) == ["returns"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(NotDrawable, match=r"env.id='CartPole-v1' can't be drawn: pygame is not installed, run `pip"):
        list(Film(evaluation("CartPole-v1"), always(0)))
    assert play.agent_figures(evaluation("CartPole-v1"), always(0)) == {}


def test_envs_of_the_users_own_that_gymnasium_does_not_make_are_not_drawable() -> None:
    def own(*, run: Run, stream: str, num_envs: int = 1) -> Envs:
        return make(id="CartPole-v1", run=run, stream=stream, num_envs=num_envs)

    mine = Evaluation(run=Run(), env=own, eval_episodes=1, test_episodes=1, max_steps=9)
    with pytest.raises(NotDrawable, match="takes no make_env"):
        Film(mine, always(0))


def test_a_video_that_fails_does_not_stop_the_training(caplog: pytest.LogCaptureFixture) -> None:
    def broken(obs: Tensor, state_NM: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        raise RuntimeError("one env at a time")

    assert play.agent_figures(evaluation(), broken) == {}
    assert "no video of a rollout: RuntimeError: one env at a time" in caplog.text


# ----------------------------------------------------------------------------------------------- figures


def test_the_video_plays_in_the_envs_own_time_at_half_the_rate() -> None:
    video = rollout_video(evaluation(), always(1))  # 10 episodes of 5 moments, 1/20 s each: 2.5 s
    assert video.dtype == np.uint8
    assert video.shape == (62, 240, 320, 3)
    frames = list(Film(evaluation(), always(1), episodes=10, max_fps=12.5, size=320))
    assert len(frames) == 31
    assert np.array_equal(video, np.repeat(frames, 2, 0)), "each is seen twice, for trackers show 25 a second"


def test_the_video_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "VIDEO_S", 1.0)
    assert len(rollout_video(evaluation(), always(1))) == 26
    monkeypatch.setattr(play, "VIDEO_WORK_S", -1.0)  # no time at all: a single frame, and it is closed
    assert len(rollout_video(evaluation(), always(1))) == 2


@pytest.mark.parametrize("returns", [[500.0] * 100, [3.0], [-1500.0, -3.5, -120.0], [0.0, 0.0], [1e-9, 2e12]])
def test_returns_of_any_kind_are_drawn(returns: list[float]) -> None:
    picture = returns_figure(returns)
    assert picture.shape == (400, 640, 3)
    assert picture.dtype == np.uint8
    bar = np.array([int(play.BAR[i : i + 2], 16) for i in (1, 3, 5)])
    assert (picture == bar).all(2).sum() > 50


def test_the_histogram_is_of_the_last_evaluation() -> None:
    measured = evaluation("tiny_envs:Lasts-v0")
    scores = measured(always(0), final=False)
    assert len(measured.last_returns) == 2
    scores = measured(always(0), final=True)
    assert len(measured.last_returns) == 3
    assert np.mean(measured.last_returns) == pytest.approx(scores["return_mean"])
    assert (min(measured.last_returns), max(measured.last_returns)) == (scores["return_min"], scores["return_max"])


@pytest.mark.parametrize("agent", BUILD)
def test_figures_and_films_of_every_agent_touch_nothing(agent: str, saved: Callable[[Any], Any]) -> None:
    env = functools.partial(make, id="tiny_envs:Drawn-v0", num_envs=2)
    learner = BUILD[agent](run=Run(), env=env, eval_episodes=3)
    contract.train(learner, 2)
    assert list(learner.figures()) == ["rollout"], "nothing has been evaluated"
    learner.evaluate()
    before = saved(learner.state_dict())
    rngs = (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    figures = learner.figures()
    assert len(list(learner.play(episodes=2))) == 10
    contract.assert_equal_states(saved(learner.state_dict()), before)
    assert (random.getstate(), str(np.random.get_state())) == rngs[:2]
    assert torch.equal(torch.get_rng_state(), rngs[2])
    assert {name: picture.ndim for name, picture in figures.items()} == {"returns": 3, "rollout": 4}
    again = learner.figures()
    assert all(np.array_equal(again[name], figures[name]) for name in figures)


@pytest.mark.parametrize("agent", BUILD)
def test_every_agent_is_seen_on_an_env_whose_native_twin_it_trains_on(agent: str) -> None:
    pytest.importorskip("pygame", reason="the extra `video`")
    env = functools.partial(make, id="CartPole-v1", num_envs=2)
    learner = BUILD[agent](run=Run(), env=env)
    told: list[Episode] = []
    frames = list(learner.play(episodes=1, size=300, tell=told.append))
    assert len(frames) == told[0].length + 1
    assert frames[0].shape == (200, 300, 3)
    assert told[0].total == told[0].length
    assert not np.array_equal(frames[0], frames[-1]), "the cart has moved"
