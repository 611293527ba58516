"""Population-based training: who continues from whom, with what, and the same again after a kill; without Ray."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from trivium.config.composing import read
from trivium.config.errors import ConfigError
from trivium.run_folder.state import state_of
from trivium.search import population
from trivium.search.population import Population, exploits, mutated, train_member
from trivium.search.settings import Search, check
from trivium.search.space import Choice, Interval, holds

LR = "learner.lr=loguniform(1e-5,1e-1)"
TYPED = [
    "experiment=mlp_digits",
    "model.hidden=[8]",
    "budget.epochs=null",
    "budget.updates=40",
    "evaluation.every_updates=20",
    "tracking.wandb=false",
    "search=pbt",
    "search.num_trials=2",
    LR,
]


def test_the_worst_continue_from_the_best() -> None:
    scores = [0.5, 0.1, None, 0.9, 0.3, 0.2, 0.8, 0.7]
    for seed in range(20):
        chosen = exploits(scores, "max", 0.25, random.Random(seed))
        assert set(chosen) == {1, 2}
        assert set(chosen.values()) <= {3, 6}
    assert set(exploits(scores, "min", 0.25, random.Random(0))) == {2, 3}
    assert {exploits([1.0, 2.0], "min", 0.5, random.Random(i))[1] for i in range(5)} == {0}


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [None, None], [1.0]])
def test_none_continues_from_one_that_is_not_better(scores: list[float | None]) -> None:
    assert exploits(scores, "max", 0.25, random.Random(0)) == {}


def test_settings_change_a_little_or_are_drawn_anew_and_stay_in_the_space() -> None:
    space = {
        "lr": Interval(1e-4, 1e-1, log=True), "n": Interval(1, 9, whole=True), "b": Choice(("16", "32", "64")),
    }  # fmt: skip
    start = {"lr": "0.01", "n": "2", "b": "32"}
    found = [mutated(space, start, 0.0, random.Random(seed)) for seed in range(40)]
    assert {round(float(values["lr"]), 6) for values in found} == {0.008, 0.012}
    assert {values["n"] for values in found} == {"1", "3"}  # 2 x 0.8 and 2 x 1.2 would round to 2
    assert {values["b"] for values in found} == {"16", "64"}
    edge = [mutated(space, {"lr": "0.1", "n": "9", "b": "64"}, 0.3, random.Random(seed)) for seed in range(40)]
    assert all(holds(space, values) for values in edge)
    assert len({values["lr"] for values in edge}) > 5


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["search.num_trials=1"], "search.num_trials=1: a population needs at least 2 members"),
        (["search.seeds=2"], "search.seeds=2: each member"),
        (["model.dropout=uniform(0,1)"], "model.dropout: can't be changed while a run trains"),
        (["model=choice(mlp,lenet)"], "model: can't be changed while a run trains"),
        (["search.quantile=0.6"], "search.quantile=0.6; valid: a number >= 1e-06 and <= 0.5"),
        (["search.metric=[eval/loss,eval/accuracy]"], "search=pbt: decides by one metric"),
    ],
)
def test_what_a_population_can_not_do(typed: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check([*TYPED, *typed])
    assert [line for line in raised.value.errors if expected in line], raised.value.errors


def test_keys_that_would_not_count_or_not_fit_are_refused() -> None:
    keys = [
        "learner.optimizer.weight_decay=uniform(0,0.1)",
        "learner.ema=choice(0.0,0.9)",
        "learner.batch_size=choice(8,16)",
    ]
    with pytest.raises(ConfigError) as raised:
        population.check(check([*TYPED, *keys])[0])
    decay, ema = raised.value.errors
    assert decay.startswith("learner.optimizer.weight_decay: is kept in checkpoints, as the optimizer's weight_decay")
    assert ema.startswith("learner.ema: changes what a checkpoint holds")


def step(members: Population) -> None:
    chosen = members.next()
    assert chosen is not None  # one after the other: none is waited for
    member, generation = chosen
    values = members.members[member].values
    train_member(members.search, members.folder(member), values, member, generation, stopping=lambda: False)
    members.trained(member)


def train(search: Search, dir: Path, *, killed_every_time: bool = False) -> tuple[list[Any], list[str]]:
    """A whole search, one member after the other; with a population that is read anew before every step."""
    (dir / "trials").mkdir(parents=True)
    said: list[str] = []
    members = Population(search, dir, say=said.append)
    while not members.done:
        if killed_every_time:
            members = Population(search, dir, say=said.append)
        step(members)
    return json.loads((dir / population.FILE).read_text()), said


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "system/"))} for row in found]


@pytest.fixture(scope="module")
def search() -> Search:
    return check(TYPED)[0]


@pytest.mark.kill
def test_a_population_trains_on_and_ends_the_same_when_it_is_killed_after_every_generation(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, said = train(search, tmp_path / "a")
    # An evaluation after 20 and one after 40 updates: two generations, and between them the worse one continues.
    assert [len(member["history"]) for member in members] == [2, 2]
    assert len(said) == 1
    (tmp_path / "b").mkdir()
    killed: list[str] = []
    take_over = Population._take_over

    def dies_once(self: Population, member: int, other: int) -> None:
        if not killed:
            killed.append("once")
            self.folder(member).rename(self.folder(member).with_name("gone"))  # between two renames
            raise KeyboardInterrupt
        take_over(self, member, other)

    monkeypatch.setattr(Population, "_take_over", dies_once)
    with pytest.raises(KeyboardInterrupt):
        train(search, tmp_path / "b/c", killed_every_time=True)
    again = Population(search, tmp_path / "b/c", say=lambda text: None)
    while not again.done:
        step(again)
    assert json.loads((tmp_path / "b/c" / population.FILE).read_text()) == members
    for i in range(2):
        assert rows(again.folder(i)) == rows(tmp_path / f"a/trials/member-{i}")

    # Who continues from another has its history, and settings and a seed of its own.
    words = said[-1].split()
    worst, best = (int(words[i].removeprefix("member-")) for i in (2, 5))
    assert members[worst]["parents"][-1] == best
    runs = [tmp_path / f"a/trials/member-{i}" for i in (worst, best)]
    first, second = ([row for row in rows(run) if row["step"] <= 20 * 64] for run in runs)
    assert first == second
    assert rows(runs[0]) != rows(runs[1])
    assert read(runs[0])["learner"]["lr"] == float(members[worst]["values"]["learner.lr"])
    assert (read(runs[0])["seed"], state_of(runs[0])) == (worst, "finished")


def test_a_member_that_fails_is_replaced_and_if_none_is_left_the_search_ends(search: Search, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    members = Population(search, tmp_path, say=lambda text: None)
    ended = []
    while chosen := members.next():
        ended.append(chosen)
        members.trained(chosen[0])  # there is no run: it has failed before its first evaluation
    assert members.done
    assert ended == [(0, 0), (1, 0)]
    assert all(member.lost for member in members.members)
