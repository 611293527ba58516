from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from states import same_bits, through_a_file
from torch import Tensor, nn

from trivium.data.source import Tensors
from trivium.declared import check, load_state_dict, load_weights, state_dict, undeclared
from trivium.ema import Average
from trivium.learner import Learner

NAMES = (
    "net",
    "average",
    "optimizers",
    "schedule",
    "torchs",
    "numpys",
    "pythons",
    "ring",
    "array",
    "seen",
    "best",
    "of",
)


class Everything:
    """A learner with one attribute of each kind; each step changes all of them."""

    state: tuple[str, ...] = NAMES

    def __init__(self, width: int = 3) -> None:
        self.net = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
        self.average = Average(self.net, decay=0.9)
        self.optimizers = [
            torch.optim.Adam(self.net.parameters()),
            torch.optim.SGD(self.net.parameters(), momentum=0.9),
        ]
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizers[0], 2)
        self.torchs, self.numpys = torch.Generator().manual_seed(0), np.random.default_rng(0)
        self.pythons = random.Random(0)
        self.ring, self.array = torch.zeros(4), np.zeros((2, 2))
        self.seen, self.best = 0, None
        self.of: dict[str, Any] = {"text": "", "numbers": (0, 0.0)}
        self.forward = torch.nn.utils.parametrizations.weight_norm  # a function: no state
        self.data = Tensors(x=torch.zeros(9, 2))

    def step(self) -> dict[str, Tensor]:
        x = torch.randn(5, 2, generator=self.torchs) + self.numpys.normal() + self.pythons.random()
        loss = self.net(x.float()).square().mean()
        said = loss.item()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.schedule.step()
        self.average.update()
        self.seen += 1
        self.ring[self.seen % 4] = said
        self.array[0, 0] += said
        self.best = min(said, self.best or 9.0)
        self.of = {"text": str(self.seen), "numbers": (self.seen, said)}
        return {"loss": loss.detach()}

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        return {"loss": self.net.eval()(torch.ones(3, 2)).mean().item()}

    def counters(self) -> dict[str, float]:
        return {"samples": self.seen}


def trained(steps: int = 3) -> Everything:
    torch.manual_seed(0)
    learner = Everything()
    for _ in range(steps):
        learner.step()
    return learner


def test_every_kind_of_value_is_saved_and_loaded() -> None:
    whole = trained()
    state = through_a_file(state_dict(whole))
    logs = [whole.step() for _ in range(3)]
    resumed = Everything()
    ring = resumed.ring
    load_state_dict(resumed, state)
    assert resumed.ring is ring
    assert same_bits(state_dict(resumed), state)
    assert same_bits([resumed.step() for _ in range(3)], logs)
    assert same_bits(state_dict(resumed), state_dict(whole))


def test_weights_are_the_modules_and_averages() -> None:
    learner = trained()
    state, fresh = through_a_file(state_dict(learner)), Everything()
    load_weights(fresh, state)
    assert fresh.evaluate() == learner.evaluate()
    assert same_bits(fresh.average.state_dict(), learner.average.state_dict())
    assert (fresh.seen, fresh.best) == (0, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ring": torch.zeros(5)}, r"ring is float32 \[5\], not float32 \[4\]"),
        ({"ring": torch.zeros(4).double()}, "ring is float64"),
        ({"seen": "3"}, "seen is '3'"),
        ({"of": {"text": "x"}}, "of is a group of text"),
        ({"of": {"text": "x", "numbers": [1]}}, r"of\.numbers is 1 items"),
        ({"of": {"text": 1, "numbers": [1, 2.0]}}, r"of\.text is 1"),
        ({"torchs": torch.zeros(3)}, "torchs is float32"),
        ({"numpys": {"bit_generator": "PCG64"}}, "numpys is a group"),
        ({"array": torch.zeros(2, 3).double()}, r"array is float64 \[2, 3\]"),
        ({"optimizers": [{}]}, "optimizers is 1 items"),
        ({"schedule": {}}, "schedule is a group"),
        ({"net": {}}, "net is a group"),
        ({"more": 1}, "the state holds more, which Everything does not have"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_state_dict(Everything(), {**state_dict(trained()), **change})


def test_a_name_that_the_state_lacks_is_said() -> None:
    state = state_dict(trained())
    del state["ring"]
    with pytest.raises(ValueError, match="the state lacks ring, which Everything needs"):
        load_state_dict(Everything(), state)
    with pytest.raises(ValueError, match=r"net\.0\.weight is float32 \[3, 2\], not float32 \[4, 2\]"):
        load_weights(Everything(width=4), state)


class ByHand(Everything):
    def state_dict(self) -> dict[str, Any]:
        return {"mine": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["mine"]

    def load_weights(self, state: dict[str, Any]) -> None:
        self.seen = -state["mine"]


def test_what_is_written_by_hand_takes_the_place_of_names() -> None:
    learner = ByHand()
    learner.step()
    assert state_dict(learner) == {"mine": 1}
    load_state_dict(learner, {"mine": 7})
    assert learner.seen == 7
    load_weights(learner, {"mine": 7})
    assert learner.seen == -7
    check(learner)
    with pytest.raises(ValueError, match="state_dict of its own"):
        undeclared(learner)


def without(*names: str, derived: tuple[str, ...] = ()) -> Learner:
    learner = trained(1)
    learner.state = tuple(name for name in NAMES if name not in names)
    learner.derived = derived  # type: ignore[attr-defined]
    return learner


def test_a_learner_that_is_declared_whole_has_nothing_undeclared() -> None:
    learner = without()
    check(learner)
    assert undeclared(learner) == []


@pytest.mark.parametrize(
    ("name", "at_once"),
    [("optimizers", True), ("torchs", True), ("numpys", True), ("pythons", True), ("ring", False), ("average", False)],
)
def test_what_holds_a_state_and_is_not_named_is_found(name: str, at_once: bool) -> None:
    check(without(name, derived=(name,)))
    if at_once:
        with pytest.raises(ValueError, match=f"Everything has {name}.*: name it in `state`"):
            check(without(name))
    else:
        (found,) = undeclared(without(name))
        assert found.startswith(name)
    assert undeclared(without(name, derived=(name,))) == []


def test_a_number_that_a_step_changes_is_found() -> None:
    assert undeclared(without("seen")) == ["seen, which a step changes from 2 to 3"]


def wrapped(learner: Any) -> None:
    learner.wrapper = nn.Sequential(learner.net)


def view(learner: Any) -> None:
    learner.part = learner.ring[1:]


def hidden(learner: Any) -> None:
    learner.helper = type("Helper", (), {})()
    learner.helper.inner = [{"noise": torch.Generator()}]


@pytest.mark.parametrize(
    ("add", "found"), [(wrapped, []), (view, []), (hidden, ["helper.inner[0]['noise'], a Generator"])]
)
def test_what_is_named_already_is_known_under_another_name(add: Callable[[Any], None], found: list[str]) -> None:
    learner = without()
    add(learner)
    if found:
        with pytest.raises(ValueError, match=r"helper\.inner"):
            check(learner)
    else:
        assert undeclared(learner) == []


def test_what_can_not_be_saved_or_is_not_there_is_said_before_the_run_begins() -> None:
    learner = without()
    learner.state = (*NAMES, "nothing")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Everything has no attribute nothing"):
        check(learner)
    learner.state = ("net", "helper")  # type: ignore[attr-defined]
    learner.helper = {"a": [object()]}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"helper\.a\.0 is a builtins\.object, which can't be saved"):
        check(learner)
    with pytest.raises(ValueError, match="NoState must name its state"):
        check(type("NoState", (), {})())
