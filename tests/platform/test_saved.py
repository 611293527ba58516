"""Only what fits is taken back: PyTorch would cast it, broadcast it, or read beyond its end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from trivium.saved import like, load_module, load_optimizer, require_count, require_like

NOW = {"w": torch.zeros(2, 3), "list": [1, torch.zeros(())], "text": "x", "flag": True, "number": 1.5, "none": None}


def test_what_was_saved_of_the_like_fits() -> None:
    saved = {"w": torch.ones(2, 3), "list": (7, torch.ones(())), "text": "y", "flag": False, "number": 2, "none": 3}
    require_like(saved, NOW, "state")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": torch.zeros(3, 2)}, r"state.w is float32 \[3, 2\], not float32 \[2, 3\]"),
        ({"w": torch.zeros(())}, r"state.w is float32 \[\]"),
        ({"w": torch.zeros(2, 3, dtype=torch.int64)}, r"state.w is int64 \[2, 3\]"),
        ({"w": [1]}, "state.w is 1 items"),
        ({"w": None}, "state.w is None"),
        ({"list": [1]}, "state.list is 1 items, not 2 items"),
        ({"list": [torch.zeros(1), torch.zeros(())]}, r"state.list.0 is float32 \[1\], not like 1"),
        ({"text": 1}, "state.text is 1, not like 'x'"),
        ({"flag": 1}, "state.flag is 1, not like True"),
        ({"number": float("nan")}, "state.number is nan"),
        ({"number": "x"}, "state.number is 'x', not like 1.5"),
        ({"number": None}, "state.number is None, not like 1.5"),
        ({"none": "x"}, "state.none is 'x', not like None"),
        ({"more": 1}, "state is a group of flag, list, more"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        require_like({**NOW, **change}, NOW, "state")


def test_a_tensor_of_the_like_and_a_count() -> None:
    assert like(torch.ones(2), torch.zeros(2), "x").tolist() == [1, 1]
    assert require_count(3, "x") == 3
    for wrong in (-1, 1.0, True, None, "3", 2**70):
        with pytest.raises(ValueError, match=r"x is .*, not a whole number >= 0"):
            require_count(wrong, "x")


def test_a_module_is_not_cast_to_what_is_loaded() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    good = copy.deepcopy(module.state_dict())
    load_module(module, good)
    for change in ({"0.weight": torch.zeros(3, 2, dtype=torch.int64)}, {"0.weight": torch.zeros(1)}, {"extra": 1}):
        with pytest.raises(ValueError, match="model"):
            load_module(module, {**good, **change})
    with pytest.raises(ValueError, match="model is None"):
        load_module(module, None)
    lazy = nn.LazyLinear(3)
    load_module(lazy, nn.Linear(2, 3).state_dict())
    assert lazy.weight.shape == (3, 2)


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"steps": 1}

    def set_extra_state(self, state: Any) -> None:
        self.steps = state["steps"]


def test_a_modules_extra_state_is_its_own_affair() -> None:
    module = Extra(1, 1)
    load_module(module, {**module.state_dict(), "_extra_state": {"steps": 5, "more": [1]}})
    assert module.steps == 5


OPTIMIZERS = {
    "Adam": {"amsgrad": True},
    "AdamW": {"fused": True},
    "SGD": {"momentum": 0.9},
    "RMSprop": {"centered": True},
    "Adagrad": {},
    "NAdam": {},
    "Rprop": {},
    "ASGD": {},
}


def stepped(name: str) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """An optimizer of a linear layer, and the state of another that has made a step."""
    layer = nn.Linear(4, 5)
    make = getattr(torch.optim, name)
    first, second = (make(layer.parameters(), lr=1e-3, **OPTIMIZERS.get(name, {})) for _ in range(2))
    layer(torch.ones(1, 4)).sum().backward()
    first.step()
    return second, copy.deepcopy(first.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_state_of_its_like(name: str) -> None:
    optimizer, state = stepped(name)
    load_optimizer(optimizer, state)
    loaded = optimizer.state_dict()
    assert loaded["state"].keys() == {0, 1}
    require_like(loaded, state, "state")
    optimizer.step()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "ASGD"])
@pytest.mark.parametrize(
    "wrong", [torch.zeros(1), torch.zeros(4, 5), torch.zeros(0), torch.zeros(5, 4).int(), None, [], "x"]
)
def test_what_an_optimizer_keeps_must_fit_its_parameter(name: str, wrong: Any) -> None:
    """With moments of another length, a fused Adam reads beyond their end."""
    optimizer, state = stepped(name)
    before = optimizer.state_dict()
    of_weight = state["state"][0]
    key = next(key for key, value in of_weight.items() if isinstance(value, torch.Tensor) and value.ndim == 2)
    with pytest.raises(ValueError, match=rf"optimizer\.state\.0\.{key}"):
        load_optimizer(optimizer, {**state, "state": {**state["state"], 0: {**of_weight, key: wrong}}})
    assert optimizer.state_dict()["state"].keys() == before["state"].keys()


def test_what_else_an_optimizer_does_not_take() -> None:
    optimizer, state = stepped("Adam")
    of_weight, (group,) = state["state"][0], state["param_groups"]
    for change, said in (
        ({"state": []}, r"optimizer\.state is 0 items"),
        ({"state": {7: of_weight}}, r"optimizer\.state"),
        ({"state": {0: {}}}, r"optimizer\.state\.0"),
        ({"state": {0: {**of_weight, "step": torch.tensor(-1.0)}}}, r"optimizer\.state\.0\.step is -1"),
        ({"state": {0: {**of_weight, "step": torch.tensor(float("nan"))}}}, r"optimizer\.state\.0\.step is nan"),
        ({"param_groups": []}, "param_groups is 0 items, not 1 items"),
        ({"param_groups": [{**group, "betas": "x"}]}, "betas"),
        ({"param_groups": [{**group, "params": [0]}]}, "params"),
        ({"param_groups": [{k: v for k, v in group.items() if k != "eps"}]}, "param_groups.0 is a group"),
        ({"more": 1}, "optimizer is a group"),
    ):
        with pytest.raises(ValueError, match=said):
            load_optimizer(optimizer, {**state, **change})
    load_optimizer(optimizer, {**state, "param_groups": [{**group, "foreach": True, "lr": torch.tensor(0.5)}]})
    load_optimizer(optimizer, state)  # after one that was of no use
    load_optimizer(optimizer, {**state, "state": {}})  # it has made no step
    load_optimizer(optimizer, {**state, "state": {0: of_weight}})  # the other one was never used


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor"])
def test_an_optimizer_of_which_nothing_is_known_takes_any_state(name: str) -> None:
    layer = nn.Linear(4, 5)
    first, second = (getattr(torch.optim, name)(layer.parameters(), lr=1e-3) for _ in range(2))

    def closure() -> torch.Tensor:
        loss: torch.Tensor = layer(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss

    first.step(closure)
    load_optimizer(second, first.state_dict())
    assert second.state_dict()["state"].keys() == first.state_dict()["state"].keys()
