"""What can be wrong with a config: each problem is data, and this is the only place where it becomes a sentence."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@enum.unique
class Kind(enum.Enum):
    """A kind of problem; its value is the sentence, with names of the problem's attributes and details in braces."""

    # what was typed
    FORM = "{key}: is not of the form key=value"
    RUN_FOLDER = "{key}: is a run's; trivium resume {place} continues it, trivium show {place} prints its config"
    SEVERAL_VALUES = "{key}: one value at a time"
    SEVERAL_OVERRIDES = "{key}={value}: these are several overrides; write them apart: {parts}"
    REFERENCE = "{key}={value}: ${{ begins a reference to another key, such as ${{budget.epochs}}; this is none"
    OPTIMIZER = "{key}={value}: there is no such optimizer"
    OPTION = "{key}={value}: there is no such {key}"
    ALGORITHM = "{key}: only RLlib's agent has algorithms"
    NOTHING_CHOSEN = "{key}: no {group} is chosen"
    PLUS_OR_TILDE = "{value}: + and ~ are for keys of {groups}"
    THERE_ALREADY = "{value}: {key} is there already; {change} changes it"
    OTHER_VALUE = "{value}: {key} is {now}; ~{key} leaves it out"
    FIXED = "{key}: can't change when a run is resumed"
    ONLY_VALUES = "{value}: only key=value is accepted here"
    # keys and values
    KEY = "{key}: there is no such key"
    VALUE = "{key}={value}: must be {valid}"
    MISSING = "{key}: is missing"
    UNRESOLVED = "{key}: {reason}"
    # files
    YAML = "{key}: is not valid YAML: {reason}"
    COMPOSITION = "{reason}"
    CONTENT = "{key}: must hold keys and values"
    PACKAGE = "{key}: an experiment must begin with the line '# @package _global_'"
    GROUP = "defaults: {key}: there is no such group"
    OVERRIDE = "defaults: '{key}: {value}' must be written 'override /{group}: {value}'"
    CIRCLE = "defaults: {key}: the experiment is based on itself"
    TWICE = "{key}={value}: Trivium has an option of this name too; rename {place}"
    FOLDER = "{key}: {value} is not a folder"
    NO_GROUPS = "{key}: {value} has no folder named for a group: {groups}"
    TIED = "{key}: must be lists of keys by unit of the budget"
    TIED_UNIT = "{key}: has a unit that the budget lacks"
    # where the run is going to be
    NO_PATH = "--dir '': must be the path of a folder"
    HOLDS_A_RUN = "--dir: {value} holds a run already; trivium resume {value} continues it"
    NOT_EMPTY = "--dir: {value} exists and is not an empty folder"
    BELOW_A_FILE = "--dir: {value} can't be made, because {place} is a file"
    NOT_WRITABLE = "--dir: {value} can't be made, because {place} can't be written"
    SECRET = "{key}={value}: {reason}"
    # several keys
    LEARNERS = "{chosen} chosen: exactly one of learner=<...> and agent=<...>"
    NO_END = "{key}: nothing ends this run; set at least one of {units}"
    UNIT = "{key}: the {group} counts {unit}"
    NO_METRIC_CHOSEN = "{key}: early stopping needs monitor.metric, e.g. monitor.metric=eval/loss"
    NO_EVALUATION = "{key}: a target or patience needs evaluation.every_updates or evaluation.every_s"
    METRIC = "{key}: this learner reports no {value}"
    DIRECTION = "{key}: the learner does not say which values of {metric} are better"
    DIVISION = "{key}={value} must divide {of} = {share}{condition}"
    SHARE = "{key}={value} must be a positive multiple of the {workers} workers"
    INLINE = "{key}={value}: one process runs inline; several need launch=ray"
    DEVICE_ON_RAY = "{key}={value}: workers on Ray train on CPUs or on the CUDA devices that Ray gives them"
    GPUS_OF_DEVICE = "{key}={value}: device={device}"
    FEW_GPUS = "{key}={value}: {workers} workers need {workers} GPUs, here are {have}"
    FLOAT64 = "{key}={value}: agents step envs and sum in float64, which MPS lacks"
    NO_DEVICE = "{key}={value}: this machine has {have}"
    # constructors
    NO_TARGET = "{key}: has no _target_; choose {key}=<{options}> or name a constructor"
    NOT_A_NAME = "{key}: {value} is not of the form package.module.Name"
    NAME = "{key}: there is no {value}"
    MODULE = "{key}: there is no module {value}{where}"
    SYNTAX = "{key}: {value} has a syntax error in line {line}: {reason}"
    IMPORT = "{key}: {value}: {module} can't be imported: {reason}"
    UNTRUSTED = "{key}: {value} is not a name that a run folder may build; --trust {module} allows it"
    UNTRUSTED_ENV = "{key}: {value} imports a module that this run folder may not import; --trust {module}"
    NO_LEARNER = "{key}: {value} is no learner: it does not accept `run`"
    GIVEN = "{key}: is given to {target} by Trivium and can't be set"
    KEYWORD = "{key}: {target} does not accept this keyword"
    TAKES_NO = "{key}: {target} does not accept {part}; choose {part}=null"
    NEEDS_PART = "{key}: {target} needs one; choose {part}=<{options}>"
    NEEDS_VALUE = "{key}: {target} needs a value for it{otherwise}"
    # environments
    ENV_FORM = "{key}='{value}': must be an id, or module:id to import the module that registers it"
    ENV_MODULE = "{key}={value}: there is no module {module}; looked in {places} and the installed packages"
    ENV_IMPORT = "{key}={value}: {module} can't be imported: {reason}"
    ENV_UNTRUSTED = "{key}={value} imports a module that this run folder may not import; --trust {module}"
    ENV_NEEDS = "{key}={value}: {what} {install}"
    ENV = "{key}={value}: {who} no such id{see}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what is wrong.
        key: what it is about: a dotted key, a group, an option such as `--dir`, a file.
        value: what was found there.
        valid: what a valid value is, in words; or the valid names.
        nearest: what was probably meant, as it can be typed; more than one if several are as likely.
        file: the file or variable that sets it; "" for what was typed.
        details: what else the sentence names.
    """

    kind: Kind
    key: str = ""
    value: Any = None
    valid: str | tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()
    file: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        """One line: what is wrong, what was probably meant or else what is valid, and the file."""
        names = {"key": self.key, "value": show(self.value), "valid": self.valid, **self.details}
        sentence = self.kind.value.format_map(names).removeprefix(": ")
        hint = ""
        if self.nearest:
            one, *more = self.nearest
            hint = f"did you mean one of {', '.join(self.nearest)}?" if more else f"did you mean '{one}'?"
        if isinstance(self.valid, tuple) and self.valid and (not self.nearest or self.kind is Kind.METRIC):
            hint = f"{hint} valid: {', '.join(self.valid)}".strip()
        return sentence + (f"; {hint}" if hint else "") + (f" ({self.file})" if self.file else "")


class Found:
    """The problems, in the order in which they were found; of several about one key the first."""

    def __init__(self) -> None:
        self.problems: dict[str, Problem] = {}

    def add(self, problem: Problem, *, about: str | None = None) -> None:
        """Keep a problem.

        Args:
            about: the key that it is about, if that is not its own.
        """
        self.problems.setdefault(problem.key if about is None else about, problem)

    def forget(self, keys: Iterable[str]) -> None:
        """Take back what was found of these keys."""
        for key in keys:
            self.problems.pop(key, None)

    def hint_at(self, key: str, nearest: str) -> None:
        """Add what was probably meant to what was found of a key."""
        self.problems[key] = replace(self.problems[key], nearest=(nearest,))

    def none_in(self, *groups: str) -> bool:
        """Whether none of the problems is about these groups."""
        return not any(key.partition(".")[0] in groups for key in self.problems)

    def __contains__(self, key: str) -> bool:
        return key in self.problems

    def __len__(self) -> int:
        return len(self.problems)


def show(value: Any) -> str:
    """A value as one would type it in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
