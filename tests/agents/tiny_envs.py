"""Environments small enough to know the right answer; importing registers them, so `tiny_envs:<name>-v0` is an id."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import gymnasium as gym
import numpy as np

Result = tuple[Any, float, bool, bool, dict[str, Any]]


def box(shape: tuple[int, ...] = (1,), bound: float = 10.0) -> gym.spaces.Box:
    return gym.spaces.Box(-bound, bound, shape, np.float32)


class Tiny(gym.Env):
    """One observation and one step, unless a subclass says otherwise."""

    observation_space: gym.Space = box()
    action_space: gym.Space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.x = self.begin()
        return self.x, {}

    def begin(self) -> Any:
        return np.zeros(1, np.float32)

    def sign(self) -> np.ndarray:
        return np.array([self.np_random.choice([-1.0, 1.0])], np.float32)


class Constant(Tiny):
    """Probe 1: nothing but a value to learn: V = 1."""

    action_space = gym.spaces.Discrete(1)

    def step(self, action: int) -> Result:
        return self.x, 1.0, True, False, {}


class Predict(Tiny):
    """Probe 2: the reward is the observation: V(x) = x."""

    action_space = gym.spaces.Discrete(1)

    def begin(self) -> np.ndarray:
        return self.sign()

    def step(self, action: int) -> Result:
        return self.x, float(self.x[0]), True, False, {}


class Delay(Tiny):
    """Probe 3: the reward comes a step later: V(1) = 1, V(0) = gamma."""

    action_space = gym.spaces.Discrete(1)

    def step(self, action: int) -> Result:
        ended = bool(self.x[0])
        self.x = np.ones(1, np.float32)
        return self.x, float(ended), ended, False, {}


class Choose(Tiny):
    """Probe 4: action 1 is better than action 0, whatever is seen."""

    def step(self, action: int) -> Result:
        return self.x, 1.0 if action == 1 else -1.0, True, False, {}


class Match(Tiny):
    """Probe 5: the better action depends on the observation."""

    def begin(self) -> np.ndarray:
        return self.sign()

    def step(self, action: int) -> Result:
        return self.x, 1.0 if (action == 1) == (self.x[0] > 0) else -1.0, True, False, {}


class Identity(Tiny):
    """Repeat what is seen: 1 of 4, 20 times. Spaces that do not start at 0."""

    observation_space = gym.spaces.Discrete(4, start=3)
    action_space = gym.spaces.Discrete(4, start=-2)

    def begin(self) -> int:
        self.steps = 0
        return int(self.np_random.integers(3, 7))

    def step(self, action: int) -> Result:
        assert self.action_space.contains(action)
        reward, self.steps = float(action + 5 == self.x), self.steps + 1
        self.x = int(self.np_random.integers(3, 7))
        return self.x, reward, False, self.steps == 20, {}


class Echo(Tiny):
    """Repeat what is seen, 20 times; the reward is what part of it was right, of a Box minus the squared error."""

    def __init__(self, space: gym.Space) -> None:
        self.observation_space = self.action_space = space

    def begin(self) -> Any:
        self.steps = 0
        self.action_space.seed(int(self.np_random.integers(2**31)))
        return self.action_space.sample()

    def step(self, action: Any) -> Result:
        assert self.action_space.contains(action)
        error = np.square(action - self.x) if isinstance(self.action_space, gym.spaces.Box) else action != self.x
        self.x, self.steps = self.action_space.sample(), self.steps + 1
        base = 0.0 if isinstance(self.action_space, gym.spaces.Box) else 1.0
        return self.x, base - float(np.mean(error)), False, self.steps == 20, {}


class Strict(Tiny):
    """Takes only what its action space might have sampled, and writes to it; the observation is what it was."""

    def __init__(self, space: gym.Space) -> None:
        self.action_space = space
        self.observation_space = box(np.shape(space.sample()) or (1,), np.inf)

    def begin(self) -> Any:
        return np.zeros(self.observation_space.shape, np.float32)  # type: ignore[arg-type]

    def step(self, action: Any) -> Result:
        assert self.action_space.contains(action), action
        assert isinstance(action, np.ndarray | np.integer)
        assert action.dtype == self.action_space.dtype
        self.x = np.asarray(action, np.float32).reshape(self.x.shape)
        if isinstance(action, np.ndarray):
            action[...] = 0
        return self.x, 0.0, False, False, {}


class Masked(Tiny):
    """Repeat what is seen, 1 of 4; a half of the actions is valid, the others are refused. The mask is in `info`,
    in the observation (`key`), or what `action_masks()` returns (`method`)."""

    observation_space: gym.Space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(4)
    limit = 10

    def __init__(self, source: str) -> None:
        self.source = source
        if source == "key":
            parts = {"x": self.observation_space, "action_mask": gym.spaces.MultiBinary(4)}
            self.observation_space = gym.spaces.Dict(parts)
        if source == "method":
            self.action_masks = lambda: self.mask

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen()

    def seen(self) -> tuple[Any, dict]:
        self.x, other = self.np_random.permutation(4)[:2].tolist()
        self.mask = np.isin(np.arange(4), (self.x, other))
        obs = {"x": self.x, "action_mask": self.mask} if self.source == "key" else self.x
        return obs, {"action_mask": self.mask.astype(np.int8)} if self.source == "info" else {}

    def step(self, action: int) -> Result:
        assert self.mask[action], f"{action} is invalid"
        reward, self.steps = float(action == self.x), self.steps + 1
        obs, info = self.seen()
        ended = self.steps == self.limit
        if ended:
            self.mask[:] = False  # nobody acts any more
        return obs, reward, ended, False, info


class Ragged(Masked):
    """In episodes of 1 to 9 steps."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        result = super().reset(seed=seed)
        self.limit = int(self.np_random.integers(1, 10))
        return result


class Forbidding(Masked):
    """Forbids everything at the second step."""

    def seen(self) -> tuple[Any, dict]:
        obs, info = super().seen()
        if self.steps:
            self.mask[:] = info["action_mask"][:] = False
        return obs, info

    def step(self, action: int) -> Result:
        self.mask[:] = True
        return super().step(action)


class Recall(Tiny):
    """Two numbers are shown, then nothing twice, then both must be told: needs a memory and two heads. A third of the
    first head's actions is invalid and refused, other ones at each step."""

    observation_space = gym.spaces.MultiDiscrete([4, 3])  # 0: nothing is shown
    action_space = gym.spaces.MultiDiscrete([3, 2])

    def begin(self) -> np.ndarray:
        self.steps = 0
        self.told = self.np_random.integers([3, 2])
        self.draw()
        return self.told + 1

    def draw(self) -> None:
        self.invalid = (self.told[0] + self.np_random.integers(1, 3)) % 3

    def action_masks(self) -> np.ndarray:
        return np.array([*(np.arange(3) != self.invalid), True, True])

    def step(self, action: np.ndarray) -> Result:
        assert action[0] != self.invalid
        self.steps += 1
        self.draw()
        ended = self.steps == 3
        reward = float(np.mean(action == self.told)) if ended else 0.0
        return np.zeros(2, np.int64), reward, ended, False, {}


class Reach(Tiny):
    """Continuous: the action should be half the observation; refuses what lies outside its bounds."""

    action_space = box(bound=0.6)

    def begin(self) -> np.ndarray:
        return self.sign()

    def step(self, action: np.ndarray) -> Result:
        assert self.action_space.contains(action), action
        return self.x, -float((action[0] - self.x[0] / 2) ** 2), True, False, {}


class Free(Tiny):
    """Continuous, and nothing is rewarded."""

    action_space = box(bound=1.0)

    def step(self, action: np.ndarray) -> Result:
        return self.x, 0.0, True, False, {}


class Forever(Tiny):
    """Reward 1 for ever; registered with a time limit of 8 steps."""

    def step(self, action: int) -> Result:
        return self.x, 1.0, False, False, {}


class Endless(Tiny):
    """Action 1 is rewarded, for ever."""

    def step(self, action: int) -> Result:
        return self.x, float(action), False, False, {}


class Count(Tiny):
    """Observes (episode, step); ends after 3 steps: terminated in even episodes, truncated in odd ones, both in every
    third. The reward is 10 * episode + step."""

    observation_space = box((2,), 1000.0)
    seeds: list[int | None]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.seeds = [*getattr(self, "seeds", []), seed]
        return super().reset(seed=seed)

    def begin(self) -> np.ndarray:
        self.x = getattr(self, "x", np.zeros(2, np.float32))
        self.x[:] = len(self.seeds) - 1, 0  # in place: what it returned before changes, as with some simulators
        return self.x

    def step(self, action: int) -> Result:
        self.x[1] += 1
        episode, step = int(self.x[0]), int(self.x[1])
        ended = step == 3
        terminated = ended and (episode % 2 == 0 or episode % 3 == 0)
        return self.x, 10.0 * episode + step, terminated, ended and (episode % 2 == 1 or episode % 3 == 0), {}


class Counts(Count):
    """With a new array each time: gymnasium's Sync keeps the last observation of an episode by reference."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        obs, info = super().reset(seed=seed)
        return obs.copy(), info

    def step(self, action: int) -> Result:
        obs, *rest = super().step(action)
        return obs.copy(), *rest  # type: ignore[return-value]


class Lasts(Tiny):
    """Observes how many steps its episode lasts, 1 to 9."""

    def begin(self) -> np.ndarray:
        self.steps = 0
        return self.np_random.integers(1, 10, size=1).astype(np.float32)

    def step(self, action: int) -> Result:
        self.steps += 1
        return self.x, 1.0, self.steps == self.x[0], False, {}


class Drift(Tiny):
    """A random walk in 3 dimensions with continuous actions: stochastic dynamics, from its own np_random."""

    observation_space = box((3,), 1e6)
    action_space = box((2,), 1.0)

    def begin(self) -> np.ndarray:
        return self.np_random.normal(size=3).astype(np.float32)

    def step(self, action: np.ndarray) -> Result:
        self.x = self.x + self.np_random.normal(size=3).astype(np.float32)
        self.x[:2] += action
        return self.x, float(-np.abs(self.x).sum()), bool(np.abs(self.x).max() > 6), False, {}


class Wild(Tiny):
    """Not deterministic: draws from a generator that no seed reaches."""

    def step(self, action: int) -> Result:
        self.x = np.array([random.SystemRandom().random()], np.float32)
        return self.x, 1.0, False, False, {}


class Hidden(Wild):
    """Not deterministic, which shows in a reward in the past but not in the observation."""

    def step(self, action: int) -> Result:
        return self.x, random.SystemRandom().random(), False, False, {}


class Broken(Tiny):
    """NaN at the second step."""

    def step(self, action: int) -> Result:
        self.x = self.x + (np.nan if self.x[0] else 1)
        return self.x, 0.0, False, False, {}


class BrokenReward(Tiny):
    def step(self, action: int) -> Result:
        return self.x, float("nan"), False, False, {}


class Shapeless(Tiny):
    """A scalar where an array of one is promised."""

    def begin(self) -> float:
        return 0.5


class Hangs(Tiny):
    """Never comes back from its third step."""

    def step(self, action: int) -> Result:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            time.sleep(1e6)
        return self.x, 0.0, False, False, {}


class Raises(Tiny):
    """An error of two lines at the second step."""

    def step(self, action: int) -> Result:
        if self.x[0]:
            raise RuntimeError("the simulator is\ngone")
        self.x = np.ones(1, np.float32)
        return self.x, 0.0, False, False, {}


class Short(Tiny):
    """The four values of the old API."""

    def step(self, action: int) -> Any:
        return self.x, 0.0, False, {}


class Keyless(Tiny):
    """A Dict that lacks a key."""

    observation_space = gym.spaces.Dict({"a": box(), "b": box()})

    def begin(self) -> dict[str, Any]:
        return {"a": np.zeros(1, np.float32)}


class Pixels(Tiny):
    """The better action is the side of the picture that is lit."""

    def __init__(self, shape: tuple[int, ...] = (12, 12, 1)) -> None:
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def begin(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        x = np.zeros(self.observation_space.shape, np.uint8)  # type: ignore[arg-type]
        x[:, 6 * self.side : 6 * self.side + 6] = 200
        return x

    def step(self, action: int) -> Result:
        return self.x, 1.0 if action == self.side else -1.0, True, False, {}


class Odd(Tiny):
    """Any observation space; episodes of 3 steps."""

    def __init__(self, space: gym.Space) -> None:
        self.observation_space = copy.deepcopy(space)

    def begin(self) -> Any:
        self.steps = 0
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def step(self, action: int) -> Result:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 3, False, {}


class Words(Tiny):
    """An observation space that no agent can serve."""

    observation_space = gym.spaces.Text(5)


class Drawn(Tiny):
    """Draws itself, 8 x 6 pixels of one colour: red is 20 times the step, green 100 times the last action, blue random
    in each episode, which has 4 steps. The reward is the action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (as gymnasium has it)
    picture_dtype: Any = np.uint8

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def begin(self) -> np.ndarray:
        self.colour = [0, 0, int(self.np_random.integers(256))]
        return self.sign()

    def step(self, action: int) -> Result:
        self.colour[:2] = self.colour[0] + 20, 100 * int(action)
        return self.x, float(action), self.colour[0] == 80, False, {}

    def render(self) -> np.ndarray:
        assert self.render_mode == "rgb_array"
        return np.full((6, 8, 3), self.colour, self.picture_dtype)


class DrawnWrongly(Drawn):
    """Its pictures are of floats."""

    picture_dtype = np.float32


class DrawnNever(Drawn):
    """Its renderer fails as those without a graphics driver do."""

    def render(self) -> np.ndarray:
        raise RuntimeError("no driver")


class DrawnExit(Drawn):
    """Its renderer asks Python to exit."""

    def render(self) -> np.ndarray:
        raise SystemExit(5)


for env in (
    Constant,
    Predict,
    Delay,
    Choose,
    Match,
    Identity,
    Reach,
    Free,
    Endless,
    Count,
    Lasts,
    Drift,
    Wild,
    Hidden,
    Broken,
    BrokenReward,
    Shapeless,
    Words,
    Hangs,
    Drawn,
    DrawnWrongly,
    DrawnNever,
    DrawnExit,
    Recall,
    Raises,
    Short,
    Keyless,
    Pixels,
    Counts,
):
    gym.register(f"{env.__name__}-v0", entry_point=env)
for name, space in {
    "Discrete": gym.spaces.Discrete(4, start=3),
    "MultiDiscrete": gym.spaces.MultiDiscrete([3, 2], start=[1, -1]),
    "MultiBinary": gym.spaces.MultiBinary(3),
    "Box": box((2,), 1.0),
}.items():
    gym.register(f"Echo{name}-v0", entry_point=Echo, kwargs={"space": space})
for source in ("info", "method", "key"):
    gym.register(f"Masked-{source}-v0", entry_point=Masked, kwargs={"source": source})
    gym.register(f"Ragged-{source}-v0", entry_point=Ragged, kwargs={"source": source})
gym.register("Forbidding-v0", entry_point=Forbidding, kwargs={"source": "info"})
gym.register("Forever-v0", entry_point=Forever, max_episode_steps=8)
