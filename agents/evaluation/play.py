"""Episodes to look at: an agent plays in an env that draws itself, for `trivium play`, the report and the trackers.

Shapes: T frames, H W pixels.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from trivium.agents.envs.gym_api import NotDrawable
from trivium.agents.evaluation.returns import Act, Evaluation
from trivium.agents.observations import Layout
from trivium.learner import VIDEO_FPS, Episode, Picture

log = logging.getLogger("trivium")

INK, PAPER, FAINT, BAR, MEAN = "#1f2933", "#ffffff", "#9aa5b1", "#7fb0f5", "#c2410c"
VIDEO_S = 10.0  # the length of the video among the figures
VIDEO_SIZE = 320  # its longer side, in pixels at most
VIDEO_WORK_S = 2.0  # how long it may take; one that takes longer ends there


def agent_figures(
    evaluation: Evaluation, act: Act, state_size: int = 0, layout: Layout | None = None
) -> dict[str, Picture]:
    """What an agent draws: the `returns` of its last evaluation, and its `rollout` where the env can be drawn."""
    pictures = {"returns": returns_figure(evaluation.last_returns)} if evaluation.last_returns else {}
    try:
        pictures["rollout"] = rollout_video(evaluation, act, state_size, layout)
    except NotDrawable:
        pass
    except Exception as error:  # of a simulator that allows no second env, say: the run is worth more than a video
        log.warning("no video of a rollout: %s: %s", type(error).__name__, error)
    return pictures


def rollout_video(evaluation: Evaluation, act: Act, state_size: int = 0, layout: Layout | None = None) -> Picture:
    """The first `VIDEO_S` seconds of play, in the env's own time, half as many frames as trackers show: uint8
    [T, H, W, 3] at `VIDEO_FPS`, T <= 250. The same episodes at each call, and those of `trivium play`.

    Raises:
        NotDrawable: see `Film`.
    """
    film = Film(
        evaluation,
        act,
        state_size=state_size,
        layout=layout,
        episodes=10,
        max_fps=VIDEO_FPS / 2,
        size=VIDEO_SIZE,
    )
    began, frames = time.monotonic(), []
    with contextlib.closing(film.frames()) as shots:
        for frame in shots:
            frames.append(frame)
            if len(frames) >= VIDEO_S * film.fps or time.monotonic() - began > VIDEO_WORK_S:
                break
    shown_T = np.arange(round(len(frames) * VIDEO_FPS / film.fps)) * film.fps / VIDEO_FPS
    video: Picture = np.stack(frames)[shown_T.astype(int)]
    return video


def returns_figure(returns: list[float], *, width: int = 640) -> Picture:
    """How the returns of episodes are spread: a histogram with their mean.

    Args:
        returns: at least one.
        width: of the picture, in pixels; its height is 5/8 of that.

    Returns:
        uint8 [5/8 width, width, 3].
    """
    # Half a second to import, and only pictures need it. Never pyplot: it keeps figures and chooses a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    mean, low, high = float(np.mean(returns)), min(returns), max(returns)
    figure = Figure(figsize=(width / 100, width / 160), dpi=100, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    room = max(
        (high - low) / 40, abs(mean) / 100, 0.01
    )  # all of them may be equal: then they are the bin in the middle
    axes.hist(returns, bins=21, range=(low - room, high + room), color=BAR, edgecolor=PAPER, linewidth=1)
    axes.axvline(mean, color=MEAN, linewidth=1.5)
    episodes = f"{len(returns)} episode{'s' if len(returns) > 1 else ''}"
    axes.set_title(f"{episodes}: mean {mean:.4g}, min {low:.4g}, max {high:.4g}", color=INK, fontsize=13, pad=12)
    axes.set_xlabel("return", color=INK, fontsize=12)
    axes.set_ylabel("episodes", color=INK, fontsize=12)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(length=0, labelcolor=INK, labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Film:
    """Episodes of one env, played and drawn while one iterates: the frames, uint8 [H, W, 3], in the order of time.

    The env is gymnasium's own, also where training has a native one, which has no looks; their dynamics are equal.
    Each episode is seen from its first state to its last one.

    Args:
        evaluation: knows the env and where to run.
        act, state_size: see `Evaluation.__call__`.
        layout: of the observations that `act` takes; None: those of the env that is drawn.
        episodes: how many, >= 1; each begins anew.
        seed: of first states and sampled actions: the same seed and weights, the same episodes.
        max_steps: an episode is cut after so many; None: when evaluation cuts it.
        max_fps: of what the env draws in a second of its own time, no more than so many frames are drawn.
        size: of the longer side in pixels, see `fitted`.
        window: show it on the screen instead: there are no frames to iterate then, but one iterates to play.
        tell: told each episode when it ends.

    Attributes:
        fps: frames in a second of the env's own time.

    Raises:
        NotDrawable: the env has no such way to be drawn, or a package is missing; some only say so when they draw.
        ValueError: see `envs.environment.make`.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        act: Act,
        *,
        state_size: int = 0,
        layout: Layout | None = None,
        episodes: int = 1,
        seed: int = 0,
        max_steps: int | None = None,
        max_fps: float = 60.0,
        size: int = 640,
        window: bool = False,
        tell: Callable[[Episode], object] = lambda episode: None,
    ) -> None:
        if "make_env" not in inspect.signature(evaluation.make_env).parameters:
            raise NotDrawable(f"{evaluation.make_env} takes no make_env, so its env can't be drawn")
        self.act = act
        self.state_NM = torch.zeros(1, state_size, device=evaluation.run.device)
        self.episodes = episodes
        self.max_steps = max_steps or evaluation.max_steps
        self.size = size
        self.window = window
        self.tell = tell
        self.generator = evaluation.run.generator("act", "play", seed, device=evaluation.run.device)
        self.envs = evaluation.make_env(
            run=evaluation.run, stream=f"play/{seed}", num_envs=1, make_env=self._make_drawn
        )
        getattr(self.envs, "freeze", lambda kept: None)(evaluation.kept)
        if layout is not None and not layout.agrees(Layout(self.envs.observation_space)):
            self.drawn.close()
            raise NotDrawable(
                f"env.id={self.drawn.id!r} draws itself where it is observed as {self.envs.observation_space}, "
                "which is not what its vector env, in which the agent learnt, returns"
            )
        self.env_fps = float(self.drawn.metadata.get("render_fps") or 30)
        self.fps = min(self.env_fps, max_fps)

    def __iter__(self) -> Iterator[Picture]:
        return self.frames()

    def frames(self) -> Generator[Picture, None, None]:
        """What iterating gives; closing it closes the env."""
        try:
            yield from self._played()
        finally:
            self.drawn.close()

    def _played(self) -> Iterator[Picture]:
        moment = 0  # in steps of the env, since the film began
        obs = self.envs.reset(reseed=True)
        pygame = sys.modules.get("pygame")
        if self.window and pygame and pygame.display.get_init() and pygame.display.get_driver() == "offscreen":
            raise NotDrawable("no window: the display that DISPLAY or WAYLAND_DISPLAY names can't be reached")
        for _ in range(self.episodes):
            if self._is_due(moment):
                yield fitted(self.drawn.draw(), self.size)
            total, length, ended = 0.0, 0, False
            state_NM = self.state_NM
            while not ended and length < self.max_steps:
                moment, length = moment + 1, length + 1
                self.drawn.is_due = self._is_due(moment)
                with torch.no_grad():
                    action, state_NM = self.act(obs, state_NM, self.generator)
                    step = self.envs.step(action)
                if self.drawn.is_due:
                    yield fitted(self.drawn.picture, self.size)
                obs, total = step.obs, total + step.reward.item()
                ended = bool(step.terminated | step.truncated)
            moment += 1
            how = "terminated" if step.terminated else "truncated" if ended else "cut"
            self.tell(Episode(total, length, how))
            if not ended:
                obs = self.envs.reset()

    def _is_due(self, moment: int) -> bool:
        """Whether the moment is the first one of a frame's time."""
        rate = self.fps / self.env_fps
        return not self.window and (rate >= 1 or int(moment * rate) > int((moment - 1) * rate) or moment == 0)

    def _make_drawn(self, id: str, **keywords: Any) -> gym.Env:
        asked = keywords.pop("render_mode", None)  # `env.settings` may say how training draws, for a wrapper say
        plain = gym.make(id, **keywords)
        modes = plain.metadata.get("render_modes") or []
        plain.close()
        mode = "human" if self.window and "human" in modes and asked != "rgb_array" else "rgb_array"
        if mode not in modes:
            raise NotDrawable(f"env.id={id!r} has no picture: its render_modes are {modes}, 'rgb_array' is needed")
        with _drawing(id):
            made = gym.make(id, render_mode=mode, **keywords)
            if self.window and mode != "human":
                made = gym.wrappers.HumanRendering(made)
        self.drawn = Drawn(made, id)
        return self.drawn


class Drawn(gym.Wrapper):
    """An env that is drawn after a step, before its next episode begins, if `is_due`; the result is `picture`."""

    def __init__(self, env: gym.Env, id: str) -> None:
        super().__init__(env)
        self.id = id
        self.is_due = False
        self.picture = np.zeros((0, 0, 3), np.uint8)

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        with _drawing(self.id):  # with a window, envs draw themselves
            return self.env.reset(**keywords)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with _drawing(self.id):
            result = self.env.step(action)
        if self.is_due:
            self.draw()
        return result

    def draw(self) -> np.ndarray:
        """The env as it stands: uint8 [H, W, 3], a copy.

        Raises:
            NotDrawable: whatever the renderer raised.
        """
        try:
            with _drawing(self.id):
                picture = np.array(self.env.render())
        except NotDrawable:
            raise
        except (Exception, SystemExit) as error:  # renderers fail in ways of their own: no graphics driver, no memory
            raise NotDrawable(f"env.id={self.id!r} can't be drawn: {type(error).__name__}: {error}") from error
        first = self.picture.shape if self.picture.size else picture.shape
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.shape != first:
            got = f"{picture.dtype} {list(picture.shape)}"
            raise NotDrawable(f"env.id={self.id!r} draws {got}, valid is uint8 [height, width, 3], of one size")
        self.picture = picture
        return picture


def fitted(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture whose longer side is at most `size` and more than half of it: pixels are averaged in squares, or
    repeated, by a whole number, which is quick and keeps lines sharp.

    Args:
        picture: uint8 [H, W, 3].
        size: in pixels, >= 1.
    """
    from PIL import Image

    longer = max(picture.shape[:2])
    if longer > size:
        return np.asarray(Image.fromarray(picture).reduce(-(-longer // size)))
    return picture.repeat(size // longer, 0).repeat(size // longer, 1)


@contextlib.contextmanager
def _drawing(id: str) -> Iterator[None]:
    """Keep pygame from greeting on stdout and from looking for a sound card; tell its troubles in a line."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        raise NotDrawable(f"env.id={id!r} can't be drawn: {error}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pygame":
            raise
        raise NotDrawable(f"env.id={id!r} can't be drawn: {error}") from error
