"""Search spaces: what expressions mean, what is sampled, and which mistakes are reported."""

from __future__ import annotations

import math
import random

import pytest

from trivium.search.space import (
    Choice,
    Condition,
    Interval,
    as_numbers,
    as_texts,
    grid,
    holds,
    is_expression,
    parse,
    parse_all,
    probes,
    samples,
)


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("choice(a, b)", Choice(("a", "b"))),
        ("choice([64,64],[128])", Choice(("[64,64]", "[128]"))),
        ("uniform(-1, 2.5)", Interval(-1, 2.5)),
        ("loguniform(1e-5,1e-2)", Interval(1e-5, 1e-2, log=True)),
        ("integers(1, 8)", Interval(1, 8, whole=True)),
        ("logintegers(16,256)", Interval(16, 256, log=True, whole=True)),
        ("uniform(0, 1) if model == mlp", Interval(0, 1, when=Condition("model", ("mlp",)))),
        (
            "choice(a,b) if agent.memory in (lstm, gru)",
            Choice(("a", "b"), when=Condition("agent.memory", ("lstm", "gru"))),
        ),
        ("choice(a,b) if model.hidden == [8, 8]", Choice(("a", "b"), when=Condition("model.hidden", ("[8, 8]",)))),
    ],
)
def test_expressions(text: str, dimension: Choice | Interval) -> None:
    assert is_expression(text)
    assert parse("key", text) == dimension


@pytest.mark.parametrize("text", ["1e-3", "[1,2]", "mlp", "", "null", "${budget.epochs}"])
def test_plain_values_are_no_expressions(text: str) -> None:
    assert not is_expression(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loguniforn(1, 2)", "loguniform(low, high)"),
        ("unknown(1, 2)", "choice(a, b, ...)"),
        ("choice()", "nothing to choose from"),
        ("choice(a, a)", "twice"),
        ("uniform(2, 1)", "2 must be below 1"),
        ("uniform(1, 1)", "must be below"),
        ("uniform(1)", "two numbers"),
        ("uniform(a, 1)", "a is not a number"),
        ("uniform(0, 1e999)", "finite"),
        ("loguniform(0, 1)", "above 0"),
        ("integers(1.5, 3)", "whole numbers"),
        ("uniform(low=1, high=2)", "not an expression"),
        ("uniform(1,)(2)", "not an expression"),
        ("uniform(1, (2)", "not an expression"),
        ("uniform(1, 2) if model", "EXPRESSION if KEY == VALUE"),
        ("uniform(1, 2) if model != mlp", "EXPRESSION if KEY == VALUE"),
        ("uniform(2, 1) if model == mlp", "2 must be below 1"),
    ],
)
def test_mistakes_name_the_key_and_what_is_valid(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"^agent\.lr=") as raised:
        parse("agent.lr", text)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_positions_in_an_interval_by_hand() -> None:
    assert Interval(0, 10).at(0.25) == "2.5"
    assert float(Interval(1e-4, 1e-2, log=True).at(0.5)) == pytest.approx(1e-3)
    whole = Interval(1, 4, whole=True)  # each has a quarter
    assert [whole.at(f) for f in (0.0, 0.24, 0.26, 0.49, 0.51, 0.76, 1.0)] == ["1", "1", "2", "2", "3", "4", "4"]


def test_samples_are_within_repeatable_and_continued_by_more() -> None:
    space = {"lr": Interval(1e-5, 1e-1, log=True), "n": Interval(1, 3, whole=True), "m": Choice(("a", "b"))}
    drawn = samples(space, 300, seed=1)
    assert samples(space, 20, seed=1) == drawn[:20]
    assert samples(space, 20, seed=2) != drawn[:20]
    assert all(1e-5 <= float(values["lr"]) <= 1e-1 for values in drawn)
    counts = [sum(values["n"] == n for values in drawn) for n in "123"]
    assert min(counts) > 60
    logs = [math.log10(float(values["lr"])) for values in drawn]
    assert sum(logs) / len(logs) == pytest.approx(-3, abs=0.25)


def test_grid_by_hand() -> None:
    space = {"a": Interval(1, 100, log=True), "b": Choice(("x", "y")), "c": Interval(1, 2, whole=True)}
    found = grid(space, 3)
    assert len(found) == 3 * 2 * 2
    assert [float(values["a"]) for values in found[::4]] == pytest.approx([1, 10, 100])
    assert [values["c"] for values in found[:4]] == ["1", "2", "1", "2"]


def test_every_edge_is_probed_once() -> None:
    space = {"a": Interval(0, 1), "m": Choice(("x", "y", "z"))}
    assert list(probes(space)) == [
        {"a": "0.0", "m": "x"},
        {"a": "1.0", "m": "x"},
        {"a": "0.0", "m": "y"},
        {"a": "0.0", "m": "z"},
    ]


def test_values_as_numbers() -> None:
    space = {"a": Interval(0, 1), "n": Interval(1, 3, whole=True), "m": Choice(("1", "2"))}
    assert as_numbers(space, {"a": "0.5", "n": "2", "m": "1"}) == {"a": 0.5, "n": 2, "m": "1"}


def test_a_choice_is_drawn_uniformly() -> None:
    generator = random.Random(0)
    drawn = [Choice(("a", "b", "c")).sample(generator) for _ in range(300)]
    assert min(map(drawn.count, "abc")) > 70


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": "0.5", "n": "2", "m": "x"}, True),
        ({"a": "0.5", "n": "2.5", "m": "x"}, False),
        ({"a": "1.5", "n": "2", "m": "x"}, False),
        ({"a": "nan", "n": "2", "m": "x"}, False),
        ({"a": "0.5", "n": "2", "m": "y"}, False),
        ({"a": "0.5", "n": "2"}, False),
    ],
)
def test_whether_settings_are_in_a_space(values: dict[str, str], expected: bool) -> None:
    assert holds({"a": Interval(0, 1), "n": Interval(1, 3, whole=True), "m": Choice(("x",))}, values) is expected


NESTED = {
    "width": "integers(1, 2) if model == mlp",
    "model": "choice(mlp, lenet, rnn)",
    "cell": "choice(lstm, gru) if model == rnn",
    "gate": "uniform(0, 1) if cell == lstm",
}


def test_conditions_decide_which_keys_have_a_value() -> None:
    errors: list[str] = []
    space = parse_all(NESTED, errors)
    assert errors == []
    assert list(space) == ["model", "width", "cell", "gate"]  # each after what it depends on
    assert grid(space, 2) == [
        {"model": "mlp", "width": "1"},
        {"model": "mlp", "width": "2"},
        {"model": "lenet"},
        {"model": "rnn", "cell": "lstm", "gate": "0.0"},
        {"model": "rnn", "cell": "lstm", "gate": "1.0"},
        {"model": "rnn", "cell": "gru"},
    ]
    drawn = samples(space, 200, seed=0)
    assert {tuple(values) for values in drawn} == {
        ("model", "width"), ("model",), ("model", "cell", "gate"), ("model", "cell"),
    }  # fmt: skip
    assert all(holds(space, values) for values in drawn)
    assert all(as_texts(space, as_numbers(space, values)) == values for values in drawn)
    assert not holds(space, {"model": "lenet", "width": "1"})
    assert not holds(space, {"model": "mlp"})


def test_every_edge_of_a_conditional_key_is_probed_where_it_counts() -> None:
    space = parse_all(NESTED, [])
    probed = list(probes(space))
    for key, edges in {
        "model": ["mlp", "lenet", "rnn"],
        "width": ["1", "2"],
        "cell": ["lstm", "gru"],
        "gate": ["0.0", "1.0"],
    }.items():
        assert {values[key] for values in probed if key in values} == set(edges)
    assert all(holds(space, values) for values in probed)


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        ({"a": "uniform(0,1) if b == x"}, "b is not among the searched choices"),
        ({"a": "uniform(0,1) if b == x", "b": "uniform(0,1)"}, "b is not among the searched choices"),
        ({"a": "uniform(0,1) if b == x", "b": "choice(y,z)"}, "b is never x; it is one of y, z"),
        ({"a": "choice(x,y) if b == x", "b": "choice(x,y) if a == x"}, "a, b: each is searched only if another"),
    ],
)
def test_conditions_that_can_not_be_met(expressions: dict[str, str], expected: str) -> None:
    errors: list[str] = []
    parse_all(expressions, errors)
    assert len(errors) == 1
    assert expected in errors[0]
