"""What a checkpoint's file may hold: data, and no more of it than its bytes."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trivium.boundary.untrusted import Refused
from trivium.checkpoints.content import loads

STATE: dict[str, Any] = {
    "tensors": [
        torch.arange(6.0).view(2, 3).t(),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.uint16),
    ],
    "plain": (1, 2.5, "text", None, True, b"bytes", {1, 2}, 1j, torch.Size([3])),
    "ordered": collections.OrderedDict(a=torch.nn.Parameter(torch.ones(1))),
    "expanded": torch.zeros(1).expand(1000),
}


def saved(state: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def changed(
    content: bytes, pickled: bytes | None = None, *, compression: int = zipfile.ZIP_STORED, more: str | None = None
) -> bytes:
    """The archive with another pickle, compressed, or with another entry."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(stream, "w", compression) as after:
        for entry in before.infolist():
            is_pickle = pickled is not None and entry.filename.endswith("data.pkl")
            after.writestr(entry.filename, pickled if is_pickle and pickled else before.read(entry))
        if more:
            after.writestr(more, b"x")
    return stream.getvalue()


def test_what_was_saved_is_loaded() -> None:
    loaded = loads(saved(STATE))
    assert loaded["plain"] == STATE["plain"]
    assert all(torch.equal(a, b) for a, b in zip(loaded["tensors"], STATE["tensors"], strict=True))
    assert loads(changed(saved(STATE)))["plain"] == STATE["plain"]


def calling(function: Callable[..., Any], *arguments: Any) -> bytes:
    """A pickle that calls for something."""

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, arguments

    return pickle.dumps({"a": Call()}, 2)


def _folded() -> bytes:
    folded: Any = "x" * 100
    for _ in range(12):
        folded = [folded] * 10
    return pickle.dumps({"a": folded}, 2)


def _in_itself() -> bytes:
    circle: list[Any] = []
    circle.append(circle)
    return pickle.dumps({"a": circle}, 2)


HOSTILE = {
    "a deflated gigabyte": (
        lambda: changed(saved(torch.zeros(3_000_000)), compression=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "a name that leads out": (lambda: changed(saved(1), more="../../x"), "leads out"),
    "an absolute name": (lambda: changed(saved(1), more="/tmp/x"), "leads out"),
    "a terabyte of bytes": (lambda: changed(saved(1), calling(bytearray, 10**12)), "bytearray"),
    "a tensor of any size": (lambda: changed(saved(1), calling(torch.FloatTensor, 10**9)), "torch.FloatTensor"),
    "code": (lambda: changed(saved(1), calling(print, "x")), "print"),
    "lists in lists": (lambda: changed(saved(1), b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b"."), "nested deeper"),
    "a list in itself": (lambda: changed(saved(1), _in_itself()), "nested deeper"),
    "a folded list": (lambda: changed(saved(1), _folded()), "unfold"),
    "a folded tensor": (lambda: saved(torch.zeros(1).expand(1000, 1000, 1000)), "unfold"),
    "a bare pickle": (lambda: pickle.dumps({"a": 1}), "no archive"),
    "nothing": (lambda: b"", "no archive"),
    "something before": (lambda: b"x" * 50 + saved(1), r"\w"),
    "something after": (lambda: saved(1) + b"x", "no archive"),
    "half": (lambda: saved(STATE)[:500], "no archive"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(what: str) -> None:
    make, said = HOSTILE[what]
    with pytest.raises(Refused, match=said) as error:
        loads(make())
    assert len(str(error.value).splitlines()) == 1
    assert "weights_only" not in str(error.value), "no advice to run it after all"
