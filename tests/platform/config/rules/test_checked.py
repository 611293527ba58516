"""Python callers are refused by the rules that the command line has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest

from trivium.config.rules.checked import checks_keywords, rules_of
from trivium.config.rules.kinds import Count, Fraction

if TYPE_CHECKING:
    from fractions import Fraction as Unknown


class Net:
    @checks_keywords
    def __init__(
        self,
        part: Callable[..., Any] | None = None,
        *,
        memory: Literal["lstm", "gru"] | None = None,
        gamma: Fraction = 0.99,
        hidden: Sequence[Count] = (64, 64),
        other: Unknown | None = None,
    ) -> None:
        self.got = (part, memory, gamma, hidden, other)


@checks_keywords
def data(*, size: Count, **more: Any) -> tuple[int, dict[str, Any]]:
    """Some rows."""
    return size, more


def test_what_is_valid_is_handed_on_in_its_type() -> None:
    other: Any = object()
    made = Net(len, memory="gru", gamma=1, hidden=[8.0], other=other)  # type: ignore[list-item]
    assert made.got == (len, "gru", 1.0, [8], other)
    assert [type(made.got[2]), type(made.got[3][0])] == [float, int]
    assert Net().got == (None, None, 0.99, (64, 64), None)
    assert data(size=3, colour=1) == (3, {"colour": 1})


def test_every_wrong_keyword_is_named_in_a_line() -> None:
    with pytest.raises(ValueError, match="must be") as raised:
        Net(memory="ltsm", gamma=1.5, hidden=[0])  # type: ignore[arg-type]
    assert str(raised.value).splitlines() == [
        "memory=ltsm: must be one of lstm, gru, null; did you mean 'lstm'?",
        "gamma=1.5: must be a number >= 0 and <= 1",
        "hidden=[0]: must be a list of integers >= 1, such as [64,64]",
    ]
    with pytest.raises(ValueError, match=r"^size=0: must be an integer >= 1$"):
        data(size=0)


def test_a_missing_or_an_unknown_keyword_is_pythons_to_refuse() -> None:
    with pytest.raises(TypeError, match="gama"):
        Net(gama=0.9)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="size"):
        data()  # type: ignore[call-arg]


def test_the_signature_stays_as_it_is_written() -> None:
    assert list(rules_of(Net.__init__)) == ["memory", "gamma", "hidden"]
    assert data.__doc__ == "Some rows."
