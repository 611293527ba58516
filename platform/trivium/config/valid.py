"""Which values a config key may hold, by the key's name: the field's quantities mean the same wherever they appear; and
which sizes must divide which others.

Constructors check what only they can know; this table needs no import of torch and lets all errors be said at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from trivium.config.rules.rule import Rule as Stated
from trivium.config.rules.rule import show

TARGET = re.compile(r"^\s*([\w/.]+)\s*(>=|<=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")


class Rule(Protocol):
    @property
    def nullable(self) -> bool:
        """Whether null is valid, and means: not at all."""

    def problem(self, value: Any) -> str | None:
        """What a valid value would be, or None if `value` is one."""


@dataclass(frozen=True)
class Number:
    """A number in an interval; never NaN, and finite unless `infinite`."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    integer: bool = False
    infinite: bool = False
    nullable: bool = False

    def problem(self, value: Any) -> str | None:
        right_type = isinstance(value, int if self.integer else (int, float)) and not isinstance(value, bool)
        above = right_type and (value > self.low if self.low_open else value >= self.low)
        below = right_type and (value < self.high if self.high_open else value <= self.high)
        if right_type and above and below and (self.infinite or math.isfinite(value)):
            return None
        noun = "an integer" if self.integer else "a number"
        low = "" if self.low == -math.inf else f"{'>' if self.low_open else '>='} {self.low:,}"
        high = "" if self.high == math.inf else f"{'<' if self.high_open else '<='} {self.high:,}"
        return " ".join([noun, " and ".join(filter(None, [low, high]))]).strip()


@dataclass(frozen=True)
class OneOf:
    """One of a few names, or what the pattern matches."""

    options: tuple[Any, ...]
    pattern: str = "$^"
    form: str = ""  # of what the pattern matches, in words
    nullable: bool = False

    def problem(self, value: Any) -> str | None:
        if any(value == o and type(value) is type(o) for o in self.options) or re.fullmatch(self.pattern, str(value)):
            return None
        names = {show(o).lower(): show(o) for o in self.options}
        near = difflib.get_close_matches(show(value).lower(), names, n=1, cutoff=0.7)
        hint = f"; did you mean '{names[near[0]]}'?" if near else ""
        return "one of " + ", ".join(filter(None, [*map(show, self.options), self.form])) + hint


@dataclass(frozen=True)
class Sizes:
    """A list of positive integers: the widths of layers."""

    nullable: bool = False

    def problem(self, value: Any) -> str | None:
        if isinstance(value, list) and all(COUNT.problem(v) is None for v in value):
            return None
        return "a list of integers >= 1, such as [64,64]"


@dataclass(frozen=True)
class Text:
    """A string of some form."""

    pattern: str
    form: str
    nullable: bool = False

    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, str) and re.fullmatch(self.pattern, value) else self.form


COUNT = Number(low=1, integer=True)
COUNT_OR_NULL = Number(low=1, integer=True, nullable=True)
POSITIVE = Number(low=0, low_open=True)
POSITIVE_OR_NULL = Number(low=0, low_open=True, nullable=True)
NOT_NEGATIVE = Number(low=0)
FRACTION = Number(low=0, high=1)
BELOW_ONE = Number(low=0, high=1, high_open=True)
LEARNING_RATE = Number(low=0, low_open=True, high=1_000_000)  # far beyond any use, and float32 holds it
SCHEMES = "s3://, gs://, gcs://, abfs://, abfss://, hdfs://, viewfs:// or file://"  # what pyarrow.fs knows

BY_PATH: dict[str, Rule] = {
    "name": Text(r"\w[\w.-]*", "a name of letters, digits, '_', '-' and '.', not beginning with the last two"),
    "storage": Text(
        rf"(?s)(?!.*://)[^\0]*[^\s\0][^\0]*|({SCHEMES.replace(', ', '|').replace(' or ', '|')}|fsspec\+\w+://).+",
        f"a folder, or the URL of a bucket, which begins with {SCHEMES}",
    ),
    "seed": Number(low=0, high=2**63 - 1, integer=True),
    "device": OneOf(("auto", "cpu", "cuda", "mps"), pattern=r"cuda:\d+", form="cuda:<n>"),
    "precision": OneOf(("fp32", "bf16", "fp16")),
    "compile": OneOf((True, False, "auto")),
    "threads": OneOf(("auto",), pattern=r"[1-9]\d{0,2}", form="an integer in [1, 999]"),
    "budget.epochs": POSITIVE_OR_NULL,
    "budget.minutes": POSITIVE_OR_NULL,
    "budget.samples": COUNT_OR_NULL,
    "budget.env_steps": COUNT_OR_NULL,
    "budget.updates": COUNT_OR_NULL,
    "budget.target": Text(TARGET.pattern, "a comparison such as eval/accuracy>=0.97", nullable=True),
    "checkpoint.keep": COUNT,
    "monitor.mode": OneOf(("min", "max"), nullable=True),
    "monitor.patience": COUNT_OR_NULL,
    "monitor.metric": Text(r"eval/[\w/]+", "a metric of the evaluation, such as eval/loss", nullable=True),
    "tracking.project": Text(
        r"(?=.*\S)[^/\\#?%:\x00-\x1f]{1,128}",
        "the name of a W&B project, of at most 128 characters and without / \\ # ? % : (WANDB_ENTITY names a team)",
    ),
    "launch.workers": COUNT,
    "launch.cpus_per_worker": POSITIVE,
    "launch.gpus_per_worker": OneOf(("auto", 0, 1)),
    "launch.max_failures": Number(low=0, integer=True),
    "agent.algorithm": OneOf(("APPO", "DQN", "DreamerV3", "IMPALA", "PPO", "SAC")),  # RLlib's, told without RLlib
}

BY_NAME: dict[str, Rule] = {
    "every_updates": COUNT_OR_NULL,
    "every_s": POSITIVE_OR_NULL,
    "min_delta": NOT_NEGATIVE,
    "lr": LEARNING_RATE,
    "weight_decay": NOT_NEGATIVE,
    "batch_size": COUNT,
    "ema": BELOW_ONE,
    "minibatch_size": COUNT,
    "accumulate": COUNT,
    "num_envs": Number(low=1, high=1_000_000, integer=True),
    "num_steps": COUNT,
    "num_epochs": COUNT,
    "hidden": Sizes(),
    "activation": OneOf(("relu", "gelu", "silu", "tanh")),  # supervised.models.mlp.ACTIVATIONS, told without torch
    "latent_dim": COUNT,
    "dropout": BELOW_ONE,
    "label_smoothing": BELOW_ONE,
    "gamma": FRACTION,
    "gae_lambda": FRACTION,
    "clip_coef": POSITIVE,
    "max_grad_norm": Number(low=0, low_open=True, infinite=True, nullable=True),
    "beta": NOT_NEGATIVE,
}

BY_ENDING: dict[str, Rule] = {
    "_coef": NOT_NEGATIVE,
    "_episodes": COUNT,
    "_fraction": Number(low=0, high=1, low_open=True, high_open=True),
    "_epochs": Number(low=0, low_open=True, nullable=True),
    "_samples": Number(low=0, integer=True, nullable=True),
    "_env_steps": COUNT_OR_NULL,
    "_lr": LEARNING_RATE,
    "_seed": Number(low=0, high=2**32 - 1, integer=True, nullable=True),
}


def rule_for(path: str) -> Rule | None:
    """The rule for a dotted key: by its whole path, else its last name, else the name's ending."""
    name = path.rpartition(".")[2]
    by_ending = next((rule for ending, rule in BY_ENDING.items() if name.endswith(ending)), None)
    return BY_PATH.get(path) or BY_NAME.get(name) or by_ending


def problem(path: str, value: Any, default: Any) -> str | None:
    """What a valid value at the dotted key `path` would be, in words, or None if `value` is one.

    Args:
        default: the value in Trivium's own YAML; where no rule names the key, a value must be of its type.
    """
    rule = rule_for(path)
    if rule is None:
        return _wrong_type(value, default)
    return None if value is None and (rule.nullable or default is None) else rule.problem(value)


def converted(node: Any, rules: Mapping[str, Stated], path: str = "") -> Any:
    """A copy of a nested dict with each valid value in the type that its key's rule asks for: whole numbers such as 1e6
    are integers where only those are valid, 1 is 1.0 where a float is expected, and `.inf`, a text on Hydra's command
    line, is a number where infinity is valid."""
    if path in rules:
        return rules[path].converted(node) if rules[path].accepts(node) else node
    if isinstance(node, dict):
        return {k: converted(v, rules, f"{path}.{k}" if path else str(k)) for k, v in node.items()}
    rule = rule_for(path)
    if isinstance(node, float) and node.is_integer() and isinstance(rule, Number) and rule.integer:
        return int(node)
    if node == ".inf" and isinstance(rule, Number) and rule.infinite:
        return math.inf
    return node


def noun(default: Any) -> str:
    """What a value of the same type as `default` is called."""
    nouns = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a group of keys",
    }
    return nouns.get(type(default), f"a {type(default).__name__}")


def wrong_scalar(value: Any, default: Any) -> str | None:
    """What a value for a user's own constructor should be: a number stays one, a text stays one; None if it does."""
    numbers, scalars = (int, float), (bool, int, float, str)
    if not isinstance(value, scalars) or not isinstance(default, scalars):
        return None
    alike = type(value) is type(default) or (type(value) in numbers and type(default) in numbers)
    return None if alike else noun(default)


def _wrong_type(value: Any, default: Any) -> str | None:
    if isinstance(value, float) and math.isnan(value):
        return f"{noun(default) if isinstance(default, int | float) else 'a number'}, not NaN"
    if value is None or default is None or type(value) is type(default):
        return None
    return None if isinstance(default, float) and type(value) is int else noun(default)


# ------------------------------------------------------------------------------------- what concerns several keys


def no_metric(key: str, name: str, known: Iterable[str]) -> str:
    """The error that a learner does not evaluate a metric that a config key names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{key}: this learner reports no {name}; {hint}valid: {', '.join(known)}"


def direction(evaluates: Iterable[str] | None, name: str | None) -> str | None:
    """Which values of a metric are better, `min` or `max`; None if its learner does not say.

    Args:
        evaluates: see `trivium.learner.Learner`.
        name: with `eval/` before it.
    """
    stated = evaluates.get(str(name).removeprefix("eval/")) if isinstance(evaluates, Mapping) else None
    return stated if stated in ("min", "max") else None


# Sizes of the whole run that workers hold equal shares of, see `learner.Run.share`.
SHARED = ("learner.batch_size", "agent.batch_size", "agent.minibatch_size", "env.num_envs")


def not_shared(key: str, size: int, workers: int) -> str | None:
    """The error that a size of the whole run can't be divided among its workers, or None."""
    return f"{key}={size} must be a positive multiple of the {workers} workers" if size < 1 or size % workers else None


class Division(NamedTuple):
    """A rule: a size divides a product of others.

    Attributes:
        divisor, product: keys.
        each: it is each worker's share of the product that is divided.
        where: the rule holds only where this key is not null.
    """

    divisor: str
    product: tuple[str, ...]
    each: bool = False
    where: str | None = None


DIVISIONS = (
    Division("learner.accumulate", ("learner.batch_size",), each=True),
    Division("agent.minibatch_size", ("agent.num_steps", "env.num_envs")),
    Division("agent.num_steps", ("agent.minibatch_size",), each=True, where="agent.memory"),
    Division("agent.env_runners", ("env.num_envs",), each=True),
    Division("env.num_envs", ("agent.train_every_env_steps",)),
)


def indivisible(values: Mapping[str, Any], workers: int = 1) -> Iterator[tuple[str, str]]:
    """The rules of `DIVISIONS` that are broken: the divisor's key and the error. A rule about a key that is not among
    the values, or null or 0 there, which means none, does not hold.

    Args:
        values: by dotted key.
    """
    for divisor, product, each, where in DIVISIONS:
        factors: list[Any] = [values.get(key) for key in (divisor, *product)]
        if not all(isinstance(f, int) and f > 0 for f in factors) or (where and values.get(where) is None):
            continue
        size, *rest = factors
        share = math.prod(rest) // (workers if each else 1)
        if share % size:
            of = " * ".join(product) + (" / launch.workers" if each and workers > 1 else "")
            condition = f", for {where}={values[where]}" if where else ""
            yield divisor, f"{divisor}={size} must divide {of} = {share}{condition}"


def require_divisible(values: Mapping[str, Any], workers: int = 1) -> None:
    """For constructors.

    Raises:
        ValueError: see `indivisible`.
    """
    for _, error in indivisible(values, workers):
        raise ValueError(error)
