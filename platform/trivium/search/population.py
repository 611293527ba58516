"""Population-based training (arXiv:1711.09846): runs that train side by side, of which the worst continue, every few
evaluations, from the weights of the best with settings that are changed a little.

A generation ends when every member has made its evaluations. What follows is a function of the scores and the search's
seed alone, so a search that was killed comes to the same decisions again.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trivium import declared
from trivium.boundary import strict_json, untrusted
from trivium.checkpoints.kept_files import write_whole
from trivium.config.composing import compose, read
from trivium.config.errors import Config, ConfigError
from trivium.learner import Learner
from trivium.run_folder import folder as run_folder
from trivium.run_folder.state import state_of
from trivium.search import space as spaces
from trivium.search.finders import built
from trivium.search.settings import Search
from trivium.search.space import Choice, Dimension, Space, Values
from trivium.search.trial import evaluations, in_group, run_trial

FILE = "population.json"  # in the search's folder
TAKEN = ("environment.json", "signature.json", "metrics.jsonl", "checkpoints")  # from a run that another continues
FACTORS = (0.8, 1.2)  # by which a number is changed
SHAPE: untrusted.Shape = {
    "values": untrusted.by_name(untrusted.text),
    "history": untrusted.list_of(untrusted.optional(untrusted.finite)),
    "begun": untrusted.count,
    "parents": untrusted.list_of(untrusted.count),
    "lost": bool,
}


@dataclass
class Member:
    """One run of a population.

    Attributes:
        values: its present settings.
        history: its score at the end of each generation; None where it had failed.
        begun: the generation that it may train now, from 0.
        parents: of each generation that has begun after the first, the member whose weights it continued.
        lost: whether it has failed, and there was no other to continue from.
    """

    values: Values
    history: list[float | None] = field(default_factory=list)
    begun: int = 0
    parents: list[int] = field(default_factory=list)
    lost: bool = False


def exploits(scores: Sequence[float | None], mode: str, quantile: float, generator: random.Random) -> dict[int, int]:
    """Which members continue from another one: each of the worst from one of the best, drawn uniformly, if that is
    better.

    Args:
        scores: of each member; None for one that has failed, which is the worst.
        mode: `min` or `max`: which scores are better.
        quantile: the share of the members that are the worst, and that are the best, in (0, 0.5].

    Returns:
        The other member, by member.
    """
    losses = [float("inf") if score is None else -score if mode == "max" else score for score in scores]
    order = sorted(range(len(losses)), key=lambda member: (losses[member], member))
    number = max(1, min(round(quantile * len(order)), len(order) // 2))
    chosen = {member: generator.choice(order[:number]) for member in order[-number:]}
    return {member: other for member, other in chosen.items() if losses[other] < losses[member]}


def mutated(space: Space, values: Values, resample: float, generator: random.Random) -> Values:
    """Settings near others: a number is multiplied by 0.8 or 1.2, of a choice a neighbour is taken; with the
    probability `resample` a value is drawn anew instead. All stay in the space."""
    return {key: _near(space[key], value, resample, generator) for key, value in values.items()}


def _near(dimension: Dimension, value: str, resample: float, generator: random.Random) -> str:
    anew, up = generator.random() < resample, generator.random() < 0.5
    if anew:
        return dimension.sample(generator)
    if isinstance(dimension, Choice):
        at = dimension.values.index(value) + (1 if up else -1)
        return dimension.values[min(max(at, 0), len(dimension.values) - 1)]
    changed = float(value) * FACTORS[up]
    if dimension.whole and round(changed) == round(float(value)):
        changed = float(value) + (1 if up else -1)
    return dimension.text(min(max(changed, dimension.low), dimension.high))


class Population:
    """The members of a search, and which of them is to train next.

    Args:
        search: its settings: `num_trials` is the number of members.
        dir: its folder, in which the population is kept.
        say: shows one line to the user.
    """

    def __init__(self, search: Search, dir: Path, *, say: Callable[[str], None]) -> None:
        self.search, self.dir, self._say = search, dir, say
        settings = search.settings
        kept = self._read()
        drawn = spaces.samples(search.space, settings.num_trials, settings.seed)
        self.members = kept or [Member(values) for values in drawn]
        self._training: set[int] = set()

    def folder(self, member: int) -> Path:
        """The run folder of a member."""
        return self.dir / "trials" / f"member-{member}"

    def next(self) -> tuple[int, int] | None:
        """A member and the generation that it is to train; None if others must end theirs first, see `done`."""
        if not self._alive():
            return None
        generation = self._ended()
        if any(self.members[i].begun < generation for i in self._alive()):
            if self._training:
                return None
            self._begin(generation)
        waiting = [i for i in self._alive() if len(self.members[i].history) == generation and i not in self._training]
        if not waiting:
            return None
        self._training.add(waiting[0])
        return waiting[0], generation

    @property
    def done(self) -> bool:
        """Whether no member can train any further."""
        return not self._training and not self._alive()

    def trained(self, member: int) -> None:
        """Note that a member has ended its generation, whatever came of it."""
        self._training.discard(member)
        values = evaluations(self.folder(member), self.search.settings.metrics[0])
        failed = state_of(self.folder(member)) == "failed"
        of = self.members[member]
        of.history = [*of.history[: of.begun], None if failed or not values else values[-1]]
        self._write()

    def _alive(self) -> list[int]:
        """The members that can train: whose budget is not spent."""
        left = [i for i, member in enumerate(self.members) if not member.lost]
        return [i for i in left if i in self._training or state_of(self.folder(i)) != "finished"]

    def _ended(self) -> int:
        """How many generations all that can train have behind them."""
        return min(len(self.members[i].history) for i in self._alive())

    def _begin(self, generation: int) -> None:
        """All that can train have ended a generation: the worst continue from the best."""
        settings, alive = self.search.settings, self._alive()
        scores = [self.members[i].history[-1] for i in alive]
        chosen = exploits(scores, settings.modes[0], settings.quantile, self._generator("exploit", generation))
        for at, i in enumerate(alive):
            member, other = self.members[i], alive[chosen.get(at, at)]
            if member.begun == generation:
                continue  # it was prepared before the search was killed
            if other != i:
                others = self.members[other].values
                member.values = mutated(self.search.space, others, settings.resample, self._generator(i, generation))
                self._take_over(i, other)
                changed = "  ".join(f"{key}={value}" for key, value in member.values.items())
                self._say(f"generation {generation}: member-{i} continues from member-{other} with {changed}")
            member.lost = other == i and member.history[-1] is None
            member.begun = generation
            member.parents.append(other)
            self._write()

    def _generator(self, purpose: object, generation: int) -> random.Random:
        return random.Random(f"{self.search.settings.seed}/{purpose}/{generation}")

    def _take_over(self, member: int, other: int) -> None:
        """Give a member the weights and the history of another, and its own settings. Killed at any point, it can be
        done again: the other one does not change meanwhile."""
        own, theirs = self.folder(member), self.folder(other)
        staged, old = (own.with_name(f".{own.name}.{kind}") for kind in ("new", "old"))
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        for name in TAKEN:
            if (theirs / name).is_dir():
                shutil.copytree(theirs / name, staged / name, symlinks=True)
            elif (theirs / name).exists():
                shutil.copyfile(theirs / name, staged / name)
        decided = {key: read(theirs)[key] for key in ("threads", "compile")}
        config = in_group(config_of(self.search, self.members[member].values, member), self.dir)
        run_folder.write_config(staged, {**config, **decided})
        if (own / "wandb").is_dir() and not (staged / "wandb").exists():
            shutil.copytree(own / "wandb", staged / "wandb")
        if own.exists():
            shutil.rmtree(old, ignore_errors=True)
            own.rename(old)
        staged.rename(own)
        shutil.rmtree(old, ignore_errors=True)
        own.with_suffix(".json").unlink(missing_ok=True)

    def _read(self) -> list[Member]:
        path = self.dir / FILE
        if not path.exists():
            return []
        kept = untrusted.read_json(path)
        untrusted.require({"members": kept}, {"members": untrusted.list_of(lambda value: isinstance(value, dict))})
        for member in kept:
            untrusted.require(member, SHAPE)
            if not spaces.holds(self.search.space, member["values"]):
                raise untrusted.Refused(f"{path} holds settings outside the space")
        return [Member(**member) for member in kept]

    def _write(self) -> None:
        content = strict_json.dumps([asdict(member) for member in self.members])
        write_whole(self.dir / FILE, content.encode()).close()


def train_member(
    search: Search, folder: Path, values: Values, member: int, generation: int, *, stopping: Callable[[], bool]
) -> list[float]:
    """Train a member to the end of a generation, or continue it; returns its scores, see `run_trial`."""
    evaluated, until = 0, (generation + 1) * search.settings.interval

    def report(scores: Sequence[float], final: bool) -> bool:
        nonlocal evaluated
        evaluated += not final
        return evaluated >= until

    return run_trial(values, search=search, folder=folder, report=report, stopping=stopping, first_seed=member)


def check(search: Search) -> None:
    """Check that every key can be changed while a run trains: that the state of a learner fits one with another value,
    and that its optimizers then have the new value.

    Raises:
        ConfigError: the keys that can't, a line each.
    """
    first = {key: dimension.edges()[0] for key, dimension in search.space.items()}
    errors = []
    for key, dimension in search.space.items():
        configs = [config_of(search, {**first, key: edge}, 0) for edge in dimension.edges()[:2]]
        if len(configs) == 2 and (wrong := _unchangeable(*configs)):
            errors.append(f"{key}: {wrong}, so search=pbt can't change it while a run trains")
    if errors:
        raise ConfigError(errors)


def _unchangeable(before: Config, after: Config) -> str | None:
    """Why a run of one config can't continue with another one, if it can't."""
    with built(before) as learner:
        old = _options(learner)
        learner.step()
        state = declared.state_dict(learner)
        with built(after) as other:
            new = _options(other)
            try:
                declared.load_state_dict(other, state)
            except ValueError as error:
                return f"changes what a checkpoint holds ({error})"
            learner.step(), other.step()
            kept = [
                name
                for name in old
                if old[name] != new.get(name) and _options(learner)[name] == _options(other).get(name)
            ]
    return f"is kept in checkpoints, as the optimizer's {kept[0].rpartition('.')[2]}" if kept else None


def _options(learner: Learner) -> dict[str, Any]:
    """The options of a learner's optimizers of torch, each by the optimizer's name, the group's number and its own."""
    return {
        f"{name}.{i}.{option}": value
        for name, optimizer in vars(learner).items()
        if isinstance(optimizer, torch.optim.Optimizer)
        for i, group in enumerate(optimizer.param_groups)
        for option, value in group.items()
        if option != "params"
    }


def config_of(search: Search, values: Values, member: int) -> Config:
    """The config of a member: the search's, with its settings and a seed of its own."""
    chosen = [*search.overrides, *(f"{key}={value}" for key, value in values.items())]
    config = compose(chosen, None if search.config_dir is None else Path(search.config_dir), None, search.trusted)
    return {**config, "seed": config["seed"] + member}
