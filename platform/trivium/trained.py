"""What a trained run is good for: its learner is loaded, evaluated, and plays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from trivium import borrowed, declared
from trivium.checkpoints.folder import Checkpoints
from trivium.config.errors import Config, ConfigError
from trivium.learner import Episode, Film, Learner, Plays, UserCodeError
from trivium.python import objects
from trivium.run_folder.place import Opened, open_run, require_checkpoint
from trivium.run_folder.task import Task
from trivium.tracking.video import GIF_FPS, write_video
from trivium.training import worker
from trivium.training.machine.device import device_of, usable_device


def evaluate(
    place: Path | str | Opened,
    *,
    checkpoint: str = "best",
    episodes: int | None = None,
    deterministic: bool | None = None,
    trusted: Collection[str] = (),
) -> dict[str, Any]:
    """Measure `test/...` of a run's checkpoint, on this machine, whatever the run was trained on.

    Args:
        checkpoint: best, last, or a name.
        episodes: how many an agent plays; None: as many as its config says.
        deterministic: whether an agent acts by its best guess or samples its actions; None: as its config says.

    Returns:
        `{"dir", "checkpoint", "metrics"}`.

    Raises:
        ConfigError: there is no run, or it can't be evaluated so.
    """
    run = open_run(place)
    dir, config, _ = run
    keywords = _keywords_of_agent(config, episodes=episodes, deterministic=deterministic)
    with _process(config):
        learner, name = load_learner(run, checkpoint, trusted, keywords)
        values = learner.evaluate(final=True)
    return {"dir": str(dir), "checkpoint": name, "metrics": {f"test/{k}": float(v) for k, v in values.items()}}


def play(
    place: Path | str | Opened,
    *,
    to: Path | None,
    episodes: int = 1,
    deterministic: bool | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    size: int = 640,
    checkpoint: str = "best",
    trusted: Collection[str] = (),
    tell: Callable[[int, Episode], object] = lambda number, episode: None,
) -> dict[str, Any]:
    """Let the agent of a run play episodes that one can look at.

    Args:
        to: a GIF or MP4 file, replaced if it is there; None: a window.
        episodes: how many, one after the other.
        deterministic: see `evaluate`.
        seed: the same seed, the same episodes.
        max_steps: an episode is cut after so many; None: as the agent's config says.
        size: of the picture's longer side in pixels, at most.
        checkpoint: best, last, or a name.
        tell: told each episode, from 1, when it ends.

    Returns:
        `{"dir", "checkpoint", "file", "episodes", "return_mean"}`; an episode is `{"return", "length", "ended"}`.

    Raises:
        ConfigError: there is no run, it is no agent's, its env can't be drawn, or the file can't be written.
    """
    run = open_run(place)
    dir, config, _ = run
    if not config.get("agent"):
        raise ConfigError([f"{dir} can't be played: {config['name']} is no agent, which acts in an environment"])
    keywords = _keywords_of_agent(config, episodes=None, deterministic=deterministic)
    played: list[Episode] = []

    def ended(episode: Episode) -> None:
        played.append(episode)
        tell(len(played), episode)

    max_fps = GIF_FPS if to and to.suffix == ".gif" else 60.0
    with _process(config):
        learner, name = load_learner(run, checkpoint, trusted, keywords)
        if not isinstance(learner, Plays):
            raise ConfigError([f"{dir} can't be played: {type(learner).__name__} has no method `play`"])
        try:
            film: Film = learner.play(
                episodes=episodes,
                seed=seed,
                max_steps=max_steps,
                max_fps=max_fps,
                size=size,
                window=to is None,
                tell=ended,
            )
            if to is None:
                for _ in film:
                    pass
            else:
                write_video(to, film, film.fps)
        except UserCodeError:
            raise
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        except ImportError as error:
            raise ConfigError([f"--to {to}: {error}; pip install 'trivium[video]', or write a .gif"]) from error
        except OSError as error:
            raise ConfigError([f"--to {to} can't be written: {error.strerror or error}"]) from error
    shown = [{"return": e.total, "length": e.length, "ended": e.ended} for e in played]
    mean = sum(e.total for e in played) / len(played)
    return {"dir": str(dir), "checkpoint": name, "file": to and str(to), "episodes": shown, "return_mean": mean}


def load_learner(
    opened: Opened,
    checkpoint: str,
    trusted: Collection[str],
    keywords: dict[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> tuple[Learner, str]:
    """The learner of a run on this machine, with a checkpoint's weights, and the checkpoint's name.

    Args:
        keywords: of the learner, in the place of the config's.
        given: see `trivium.training.builder.build_learner`.
    """
    dir, config = opened.dir, dict(opened.config)
    for group in ("learner", "agent"):
        if config.get(group) and keywords:
            config[group] = {**config[group], **keywords}
    require_checkpoint(opened, checkpoint)
    config["device"] = usable_device(config)
    task = Task(config, dir, trusted, opened.bucket)
    run = worker.make_run(config, dir)
    checkpoints = Checkpoints(task.checkpoints_place, run)

    def take(state: dict[str, Any]) -> None:
        declared.load_weights(learner, state["learner"])

    with _process(config):
        objects.require({**config, **dict.fromkeys(given or {})})
        learner = worker.make_learner(task, run, given)
    state = checkpoints.load(checkpoint, into=take, any_world_size=True)
    if state is None:
        raise ConfigError([f"{dir} has no checkpoint yet"])
    return learner, state["checkpoint"]


def _process(config: Config) -> contextlib.AbstractContextManager[None]:
    """See `borrowed.process`; of the run's device, if it is there."""
    usable = {**config, "device": usable_device(config)}
    return borrowed.process(usable, device_of(usable))


def _keywords_of_agent(config: Config, *, episodes: int | None, deterministic: bool | None) -> dict[str, Any]:
    """What changes how an agent is evaluated, as keywords of its constructor.

    Raises:
        ConfigError: the run is not of an agent, or of one that does not know a choice between the two.
    """
    asked = {"test_episodes": episodes, "eval_deterministic": deterministic}
    keywords = {name: value for name, value in asked.items() if value is not None}
    agent = config.get("agent")
    if keywords and not agent:
        flags = {"test_episodes": "--episodes", "eval_deterministic": "--deterministic and --stochastic"}
        said = " and ".join(flags[name] for name in keywords)
        raise ConfigError([f"{said}: for agents, which play episodes; {config['name']} is none"])
    if agent and "eval_deterministic" not in agent and keywords.pop("eval_deterministic", True) is False:
        kind = str(agent.get("_target_")).rpartition(".")[2]
        raise ConfigError([f"--stochastic: {kind} has no policy to sample from, it always does what it thinks best"])
    return keywords
