"""How a problem becomes a line: the only test of wording."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trivium
from trivium.config.errors import ConfigError, refuse
from trivium.config.problems import Found, Kind, Problem

SOURCES = Path(trivium.__file__).parent


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (
            Problem(Kind.VALUE, "learner.lr", -1, "a number > 0", file="a.yaml"),
            "learner.lr=-1: must be a number > 0 (a.yaml)",
        ),
        (
            Problem(Kind.VALUE, "agent.memory", "ltsm", "one of lstm, gru, null", ("lstm",)),
            "agent.memory=ltsm: must be one of lstm, gru, null; did you mean 'lstm'?",
        ),
        (Problem(Kind.VALUE, "seed", None, "an integer"), "seed=null: must be an integer"),
        (Problem(Kind.VALUE, "seed", True, "an integer"), "seed=true: must be an integer"),
        (
            Problem(Kind.KEY, "sed", valid=("seed", "name"), nearest=("seed",), file="configs/config.yaml"),
            "sed: there is no such key; did you mean 'seed'? (configs/config.yaml)",
        ),
        (Problem(Kind.KEY, "zzz", valid=("seed", "name")), "zzz: there is no such key; valid: seed, name"),
        (
            Problem(Kind.OPTION, "experiment", "ppo", ("a",), ("ppo_acrobot", "ppo_cartpole")),
            "experiment=ppo: there is no such experiment; did you mean one of ppo_acrobot, ppo_cartpole?",
        ),
        (
            Problem(Kind.METRIC, "monitor.metric", "eval/los", ("eval/kl", "eval/loss"), ("eval/loss",)),
            "monitor.metric: this learner reports no eval/los; did you mean 'eval/loss'? valid: eval/kl, eval/loss",
        ),
        (
            Problem(Kind.DIVISION, "agent.num_steps", 6, details={"of": "a * b", "share": 4, "condition": ""}),
            "agent.num_steps=6 must divide a * b = 4",
        ),
        (Problem(Kind.NAME, value="torch.optim.Adamm"), "there is no torch.optim.Adamm"),
        (Problem(Kind.REFERENCE, "learner.lr", "${"), "learner.lr=${: ${ begins a reference to another key, such as "
         "${budget.epochs}; this is none"),
        (Problem(Kind.UNRESOLVED, "model.hidden", details={"reason": "{braces}"}), "model.hidden: {braces}"),
    ],
)  # fmt: skip
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


def test_every_kind_has_a_use_and_uses_have_what_its_sentence_names() -> None:
    sources = "\n".join(path.read_text() for path in SOURCES.rglob("*.py"))
    assert [kind.name for kind in Kind if not re.search(rf"\bKind\.{kind.name}\b", sources)] == []
    own = {"key", "value", "valid"}
    named = {name for kind in Kind for name in re.findall(r"(?<!{){(\w+)}", kind.value)} - own
    assert [name for name in sorted(named) if not re.search(rf'"{name}":|\b{name}=', sources)] == []


def test_of_several_problems_with_a_key_the_first_is_kept() -> None:
    found = Found()
    refuse(found)
    first, second = Problem(Kind.VALUE, "a.b", 1, "a text"), Problem(Kind.VALUE, "a.b", 1, "a list")
    found.add(first)
    found.add(second)
    found.add(second, about="a.c")
    assert ("a.b" in found, "a" in found, len(found), found.none_in("a"), found.none_in("b")) == (
        True, False, 2, False, True)  # fmt: skip
    found.forget(["a.c", "nothing"])
    with pytest.raises(ConfigError) as raised:
        refuse(found)
    assert raised.value.problems == [first]
    assert raised.value.errors == [str(first)] == str(raised.value).splitlines()


def test_an_error_may_hold_sentences_too() -> None:
    error = ConfigError(["It is wrong.", Problem(Kind.CONTENT, "a.yaml")])
    assert error.errors == ["It is wrong.", "a.yaml: must hold keys and values"]
    assert [problem.kind for problem in error.problems] == [Kind.CONTENT]
