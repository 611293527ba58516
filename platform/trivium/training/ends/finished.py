"""A run that has ended: what ended it, and so what lets it go on."""

from __future__ import annotations

from typing import Any

from trivium.config.errors import Config, ConfigError
from trivium.config.rules.settings import TARGET
from trivium.run_folder.folder import Result
from trivium.training.budget import Budget

CONTINUED_BY = {
    "budget": "budget.<unit>=<more>",
    "target": "budget.target=<another>",
    "callback": "any override, such as budget.<unit>=<number>,",
    "patience": "budget.<unit>=<more> or monitor.patience=<more>",
}


def what_continues(config: Config, done: Result) -> str:
    """The overrides with which `resume` trains a finished run further, in words."""
    return f"{CONTINUED_BY[_ended_by(config, done)]} continues it"


def refuse_no_more(before: Config, now: Config, done: Result) -> None:
    """
    Args:
        before: the config that the run ended with.
        now: the one that it is to go on with.

    Raises:
        ConfigError: it would end again at once.
    """
    same_target = before["budget"]["target"] == now["budget"]["target"]
    if spent := _spent(now, done):
        line = f", and {spent} are spent; {CONTINUED_BY['budget']} continues it"
    elif same_target and _met(now, done):
        line = f"; {CONTINUED_BY['target']} continues it"
    elif _ended_by(before, done) == "patience" and _no_more_patience(before, now):
        line = f"; {CONTINUED_BY['patience']} continues it"
    else:
        return
    raise ConfigError([f"{done.dir} has finished with {done.reason}{line}"])


def _ended_by(config: Config, done: Result) -> str:
    if _spent(config, done):
        return "budget"
    if done.reason.startswith("callback "):
        return "callback"
    return "target" if _met(config, done) else "patience"


def _spent(config: Config, done: Result) -> str | None:
    budget = Budget(config["budget"], done.counters)
    return budget.spent(done.counters, done.updates, time_over=done.elapsed_s >= 60 * budget.minutes)


def _met(config: Config, done: Result) -> bool:
    target = TARGET.match(config["budget"]["target"] or "")
    known = target is not None and target[1] in done.metrics  # no result of a stranger's need have it
    return known and Budget(config["budget"], done.counters).met(done.metrics)


def _no_more_patience(before: Config, now: Config) -> bool:
    def judged(config: Config) -> list[Any]:
        return [config["budget"], *(config["monitor"][key] for key in ("metric", "mode"))]

    more = now["monitor"]["patience"] is None or now["monitor"]["patience"] > (before["monitor"]["patience"] or 0)
    return judged(before) == judged(now) and not more
