"""Taking back what was saved: only what has the shapes and dtypes of what is there now.

PyTorch itself casts, broadcasts, or takes any state for an optimizer and reads beyond its end. A checkpoint may be a
stranger's, or of a program that has changed since: what does not fit is a `ValueError`, and the one before it is used.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trivium.boundary.untrusted import count, finite

PROBE = (2, 3)  # the shape of a parameter that no other of an optimizer's tensors has by chance


def require_like(saved: Any, now: Any, where: str) -> None:
    """Check that a saved value is one that `now` could have been saved as: nested dicts with the same keys, lists as
    long, tensors of the same shape and dtype, numbers, texts. Where None is now, a number may have been.

    Args:
        where: names the value in the error.

    Raises:
        ValueError: it is not; names the dotted key and both.
    """
    if nn.parameter.is_lazy(now):
        return  # it takes the shape of what is loaded
    if isinstance(now, Tensor):
        if not isinstance(saved, Tensor) or (saved.shape, saved.dtype) != (now.shape, now.dtype):
            raise ValueError(f"{where} is {_shown(saved)}, not {_shown(now)}")
    elif isinstance(now, Mapping):
        if not isinstance(saved, Mapping) or set(saved) != set(now):
            raise ValueError(f"{where} is {_shown(saved)}, not {_shown(now)}")
        for key, value in now.items():
            require_like(saved[key], value, f"{where}.{key}")
    elif isinstance(now, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(now):
            raise ValueError(f"{where} is {_shown(saved)}, not {_shown(now)}")
        for i, (one, value) in enumerate(zip(saved, now, strict=True)):
            require_like(one, value, f"{where}.{i}")
    elif isinstance(saved, Tensor | Mapping | list | tuple) or not _alike(saved, now):
        raise ValueError(f"{where} is {_shown(saved)}, not like {_shown(now)}")


def _alike(saved: Any, now: Any) -> bool:
    if now is None:  # not set yet
        return saved is None or isinstance(saved, bool) or finite(saved)
    if finite(now):
        return finite(saved)
    return type(saved) is type(now)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a group of {', '.join(sorted(map(str, value)))}"[:200]
    return f"{len(value)} items" if isinstance(value, list | tuple) else f"{value!r:.40}"


def require_count(value: Any, where: str) -> int:
    """A saved number of samples, steps or updates.

    Raises:
        ValueError: it is none.
    """
    if not count(value):
        raise ValueError(f"{where} is {_shown(value)}, not a whole number >= 0")
    checked: int = value
    return checked


def like(saved: Any, now: Tensor, where: str) -> Tensor:
    """A saved tensor, on the device of the one that it replaces. Raises ValueError, see `require_like`."""
    require_like(saved, now, where)
    tensor: Tensor = saved.to(now.device)
    return tensor


def load_module(module: nn.Module, state: Any, where: str = "model") -> None:
    """`module.load_state_dict`, without casting. Raises ValueError, see `require_like`."""
    now = module.state_dict()
    extra = [key for key in now if key.endswith("_extra_state")]  # the module's own affair
    if isinstance(state, Mapping):
        now.update({key: state[key] for key in extra if key in state})
    require_like(state, now, where)
    module.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any, where: str = "optimizer") -> None:
    """`optimizer.load_state_dict`, of a state that its next step can use.

    What the state of a parameter holds is known from a step on another one. Of an optimizer that can't make such a
    step, or copy itself for it, only the options are checked.

    Raises:
        ValueError: see `require_like`.
    """
    now = optimizer.state_dict()
    if not isinstance(state, Mapping) or set(state) != set(now):
        raise ValueError(f"{where} is {_shown(state)}, not {_shown(now)}")
    # Compared with the constructor's options, for the present ones may be those of a state that was of no use.
    given = [{**group, **{k: v for k, v in optimizer.defaults.items() if k in group}} for group in now["param_groups"]]
    require_like(_plain(state["param_groups"]), _plain(given), f"{where}.param_groups")
    parameters = {
        index: (parameter, group)
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
        for index, parameter in zip(saved["params"], group["params"], strict=True)
    }
    kept = state["state"]
    if not isinstance(kept, Mapping) or not set(kept) <= set(parameters):
        raise ValueError(f"{where}.state is {_shown(kept)}, not by parameter")
    known: dict[Any, dict[str, Any] | None] = {}

    def expected(index: int) -> dict[str, Any] | None:
        parameter, group = parameters[index]
        key = (id(group), parameter.dtype, parameter.device)
        if key not in known:
            known[key] = _after_a_step(optimizer, group, parameter.dtype, parameter.device)
        kept_by_probe = known[key]
        return kept_by_probe and {
            name: torch.empty(parameter.shape, dtype=value.dtype, device="meta")
            if isinstance(value, Tensor) and value.shape == PROBE
            else value
            for name, value in kept_by_probe.items()
        }

    for index, of_parameter in kept.items():
        fits = expected(index)
        if fits is not None:
            require_like(of_parameter, fits, f"{where}.state.{index}")
            steps = float(of_parameter.get("step", 0))
            if not (finite(steps) and steps >= 0):
                raise ValueError(f"{where}.state.{index}.step is {steps}, not >= 0")
    optimizer.load_state_dict(dict(state))


def _plain(node: Any) -> Any:
    """Options with a number in place of each tensor that holds one: a rate may be either."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return node.item() if isinstance(node, Tensor) and node.numel() == 1 else node


def load_scaler(scaler: torch.amp.GradScaler, state: Any, where: str = "scaler") -> None:
    """`scaler.load_state_dict`. Raises ValueError, see `require_like`."""
    require_like(state, scaler.state_dict(), where)
    scaler.load_state_dict(state)


def _after_a_step(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> dict[str, Any] | None:
    """What an optimizer keeps for a parameter of the shape `PROBE`; None: that is not known."""
    probe = torch.zeros(PROBE, dtype=dtype, device=device, requires_grad=True)
    probe.grad = torch.zeros_like(probe)
    try:
        stepped = copy.copy(optimizer)
        stepped.state, stepped.param_groups = defaultdict(dict), [{**group, "params": [probe]}]
        stepped.step()
        kept = dict(stepped.state[probe])
    except Exception:  # an optimizer of the user's own, or one that wants a closure
        return None
    factors = any(isinstance(v, Tensor) and v.shape != PROBE and v.numel() != 1 for v in kept.values())
    return None if factors else kept
