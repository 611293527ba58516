"""Weights of a file into a model: official ones, or what another run has learned."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trivium.boundary.places import find_data

log = logging.getLogger("trivium")

SHOWN = 5  # names of each kind in an error


def load_weights(model: nn.Module, path: str | None, *, heads: Sequence[str], ignored: Sequence[str] = ()) -> None:
    """Load a state dict that fits the model; its heads may have another number of outputs.

    A head of another number of outputs keeps the weights that it begins with, which a warning names. The counters of
    batch normalisation may be missing: they are in no file older than 2018, and nothing is computed from them here.

    Args:
        path: a file of safetensors (`.safetensors`), or one that torch has saved, which is read without running code;
            see `trivium.boundary.places.find_data`. None: nothing is loaded. It is read whenever the model is made, so
            that a run needs it again when it is resumed or evaluated, although the checkpoint's weights replace it.
        heads: names of the linear layers that give the model's outputs.
        ignored: beginnings of names that the file may hold and the model need not have.

    Raises:
        ValueError: there is no such file, it holds no state dict, or one whose names or shapes are others; the message
            lists what is missing, unexpected and of another shape.
    """
    if path is None:
        return
    loaded = read_weights(find_data(path), f"weights={path}")
    own = model.state_dict()
    of_heads = [f"{head}.{kind}" for head in heads for kind in ("weight", "bias")]
    left = [n for n in of_heads if n in own and n in loaded and own[n].shape[1:] == loaded[n].shape[1:]]
    left = [n for n in left if own[n].shape != loaded[n].shape]
    missing = [n for n in own if n not in loaded and not n.endswith(".num_batches_tracked")]
    unexpected = [n for n in loaded if n not in own and not n.startswith(tuple(ignored))]
    others = [n for n in own if n in loaded and n not in left and own[n].shape != loaded[n].shape]
    wrong = [
        _listed("it lacks", missing),
        _listed("it has besides", unexpected),
        _listed("of another shape", [f"{n} {list(loaded[n].shape)}, not {list(own[n].shape)}" for n in others]),
    ]
    if any(wrong):
        raise ValueError(f"weights={path} do not fit {type(model).__name__}: {'; '.join(filter(None, wrong))}")
    if left:
        log.warning(
            "weights=%s: the head has %d outputs there and %d here; it is trained from scratch (%s)",
            path, len(loaded[left[0]]), len(own[left[0]]), ", ".join(left),
        )  # fmt: skip
    model.load_state_dict(own | {n: loaded[n] for n in own if n in loaded and n not in left})


def read_weights(place: Path, where: str, key: str | None = None) -> Mapping[str, Any]:
    """A file's state dict, read without running code.

    Args:
        where: begins each message.
        key: of a file that holds more, what is wanted of it, whatever that is; None: names and their tensors.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not place.is_file():
        raise ValueError(f"{where}: there is no such file")
    try:
        loaded = _loaded(place)
    except (OSError, RuntimeError, EOFError, SafetensorError, ValueError) as error:
        raise ValueError(f"{where} can't be read: {str(error).strip().partition(chr(10))[0]}") from error
    except Exception as error:  # what torch raises for a pickle that is none of its own says how to run its code
        raise ValueError(f"{where} can't be read: it holds more than tensors, or is damaged") from error
    if key is not None:
        if not isinstance(loaded, Mapping) or not isinstance(loaded.get(key), Mapping):
            raise ValueError(f"{where}: it holds no {key}")
        wanted: Mapping[str, Any] = loaded[key]
        return wanted
    for name in ("state_dict", "model"):  # what training scripts save it under, beside an optimizer's state
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{where}: it holds no state dict, names and their tensors")
    return loaded


def _loaded(place: Path) -> Any:
    if place.suffix == ".safetensors":
        return load_file(place)
    return torch.load(place, map_location="cpu", weights_only=True)


def _listed(kind: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{kind} {', '.join(names[:SHOWN])}{more}" if names else ""
