"""Fine-tuning: weights to begin with, parameters that stay as they are, and smaller rates for some."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trivium.boundary.places import find_data
from trivium.supervised.models.weights import read_weights

log = logging.getLogger("trivium")

SHOWN = 5  # names of each kind in a message
STATE = "rank-0.pt"  # of a checkpoint


def begin_from(model: nn.Module, path: str) -> None:
    """Give a model those weights of another one that have the same name and shape; the rest keeps its own, such as a
    head of another number of outputs. What does not fit is named in a warning.

    Args:
        path: a run folder, whose best checkpoint is taken (with averaged weights, where there are any), or a file of
            safetensors or of torch, which is read without running code; see `find_data`.

    Raises:
        ValueError: there is no such file, it can't be read, or nothing in it fits.
    """
    own = model.state_dict()
    loaded = _read(find_data(path), path, model)
    fitting = {name: loaded[name] for name in own if name in loaded and loaded[name].shape == own[name].shape}
    if not fitting:
        raise ValueError(
            f"begin_from={path}: none of its weights has the name and shape of one of {type(model).__name__}'s; "
            f"it has {_some(loaded)}, the model {_some(own)}"
        )
    left = [name for name in own if name not in fitting]
    unused = [name for name in loaded if name not in fitting]
    if left or unused:
        log.warning("begin_from=%s: keep their own weights: %s; not used: %s", path, _some(left), _some(unused))
    model.load_state_dict(own | fitting)


def _read(place: Path, path: str, model: nn.Module) -> Mapping[str, Tensor]:
    if not (place / "checkpoints").is_dir():
        return read_weights(place, f"begin_from={path}")
    best = next((p for p in (place / "checkpoints" / name / STATE for name in ("best", "last")) if p.exists()), None)
    if best is None:
        raise ValueError(f"begin_from={path}: the run has no checkpoint")
    state: Any = read_weights(best, f"begin_from={path}", key="learner")
    weights = state.get("model") if isinstance(state, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"begin_from={path}: the run is none of the supervised learner")
    average = state.get("average")
    if isinstance(average, Mapping):  # in the order of parameters, then buffers, which names tell apart
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        names = [n for n in weights if not n.endswith(buffers)] + [n for n in weights if n.endswith(buffers)]
        averages = average["averages"]
        if [a.shape for a in averages] == [weights[name].shape for name in names]:
            return dict(zip(names, averages, strict=True))
        log.warning("begin_from=%s: the averaged weights can't be told apart; those of the last update are taken", path)
    return weights


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Parameters that stay as they are. A batch normalisation all of whose own parameters are frozen also keeps its
    statistics, and normalises by them in training too: those of new data would change what frozen layers compute.

    Args:
        patterns: of names of parameters, with the wildcards of shells: `features.*`, `*.bias`.

    Raises:
        ValueError: a pattern fits no parameter, or nothing is left to be trained.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        for name in _fitting(parameters, pattern, "freeze"):
            parameters[name].requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._NormBase) and own and not any(p.requires_grad for p in own):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze={list(patterns)} leaves no parameter that can be trained")


def parameter_groups(
    model: nn.Module, *, decay_norms: bool, lr_scales: Mapping[str, float], unfreeze: Mapping[str, float]
) -> Any:
    """What the optimizer is given: all parameters that are trained, or groups of them.

    Args:
        decay_norms: whether weight decay applies to parameters of one dimension too.
        lr_scales: factors of the learning rate by patterns of names, see `freeze`; the first that fits counts. A group
            of parameters has its factor as `lr_scale`.
        unfreeze: epochs after which parameters begin to be trained, by patterns of their names; the first that fits
            counts. A group has its number as `from_epoch`.

    Raises:
        ValueError: a pattern fits no parameter, or a number is negative.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for keyword, numbers in (("lr_scales", lr_scales), ("unfreeze", unfreeze)):
        for pattern, number in numbers.items():
            _fitting(dict(model.named_parameters()), pattern, keyword)
            if number < 0:
                raise ValueError(f"{keyword}.{pattern}={number} must be at least 0")
    if decay_norms and not lr_scales and not unfreeze:
        return list(named.values())
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}  # by rate, falling; beginning; without decay
    for name, parameter in named.items():
        scale, begin = (_of_pattern(name, numbers, default) for numbers, default in ((lr_scales, 1.0), (unfreeze, 0.0)))
        groups.setdefault((-scale, begin, not (decay_norms or parameter.ndim > 1)), []).append(parameter)
    return [
        {
            "params": own,
            **({"weight_decay": 0.0} if spared else {}),
            **({"lr_scale": -scale} if lr_scales else {}),
            **({"from_epoch": begin} if unfreeze else {}),
        }
        for (scale, begin, spared), own in sorted(groups.items())
    ]


def _of_pattern(name: str, numbers: Mapping[str, float], default: float) -> float:
    return next((number for pattern, number in numbers.items() if fnmatch.fnmatchcase(name, pattern)), default)


def _fitting(parameters: Iterable[str], pattern: str, keyword: str) -> list[str]:
    names = list(parameters)
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, names, n=SHOWN, cutoff=0.0)
        raise ValueError(f"{keyword}: {pattern} fits no parameter; there are {', '.join(near)}, ...")
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN]) or 'none'}{more}"
