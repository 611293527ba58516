"""What a search is: its settings, its space and the command that every trial shares, all as plain data."""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from trivium.boundary import untrusted
from trivium.config import constructors
from trivium.config.composing import compose
from trivium.config.constructors import stated_by_learner
from trivium.config.errors import Config, ConfigError
from trivium.config.rules.metrics import direction
from trivium.search import space as spaces
from trivium.search.space import Space

Algorithm = Literal["random", "grid", "bayes", "asha", "hyperband", "median", "pbt"]
SCHEDULED = ("asha", "hyperband", "median")  # stop trials before their budget is spent
CHANGEABLE = ("learner", "agent")  # groups whose keys may be changed while a run trains


@dataclass(frozen=True)
class Settings:
    """The keys `search.KEY`.

    Attributes:
        algorithm: how settings are chosen and which trials are stopped early; typed as `search=NAME`.
        num_trials: at most this many trials, >= 1; of a grid all.
        minutes: the search ends after this time, > 0; None for no limit.
        concurrent: trials at once; None for as many as there are CPUs for.
        cpus_per_trial, gpus_per_trial: what Ray reserves for a trial; fractions are possible.
        metric: what is optimised, such as `eval/accuracy`; None for `monitor.metric`, else the learner's first metric.
            Several as a list: no setting is then best, but those of the Pareto front are not worse in all.
        mode: whether larger or smaller values are better, `min` or `max`; None for what the learner states. A list for
            several metrics.
        seeds: each trial is trained with this many seeds, >= 1, beginning with the config's; its score is the mean.
        seed: of the sampler, >= 0.
        points: values of each interval in a grid, >= 2.
        grace: evaluations before a trial may be stopped early, >= 1.
        reduction: about 1 in this many trials survives each round of `asha` and `hyperband`, >= 2.
        interval: evaluations of a member of `pbt` between two generations, >= 1.
        quantile: of `pbt`: the share of the members that are replaced, and that of those they continue from, in
            (0, 0.5].
        resample: of `pbt`: the probability of drawing a value anew instead of changing it a little, in [0, 1].
        max_failures: how often a trial whose process was lost is continued from its last checkpoint, >= 0.
    """

    algorithm: Algorithm = "random"
    num_trials: int = 10
    minutes: float | None = None
    concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    metric: str | list[str] | None = None
    mode: str | list[str] | None = None
    seeds: int = 1
    seed: int = 0
    points: int = 3
    grace: int = 1
    reduction: int = 3
    interval: int = 1
    quantile: float = 0.25
    resample: float = 0.25
    max_failures: int = 1

    @property
    def metrics(self) -> list[str]:
        """The objectives of a search that has been checked."""
        return self.metric if isinstance(self.metric, list) else [str(self.metric)]

    @property
    def modes(self) -> list[str]:
        """Of each objective, `min` or `max`."""
        return self.mode if isinstance(self.mode, list) else [str(self.mode)]


_LEAST = {
    "num_trials": 1,
    "minutes": 1e-6,
    "concurrent": 1,
    "cpus_per_trial": 0.01,
    "gpus_per_trial": 0,
    "seeds": 1,
    "seed": 0,
    "points": 2,
    "grace": 1,
    "reduction": 2,
    "interval": 1,
    "quantile": 1e-6,
    "resample": 0,
    "max_failures": 0,
}
_MOST = {"quantile": 0.5, "resample": 1.0}
_WHOLE = ("num_trials", "concurrent", "seeds", "seed", "points", "grace", "reduction", "interval", "max_failures")


@dataclass(frozen=True)
class Search:
    """A search that has been checked.

    Attributes:
        overrides: what all trials share, as typed.
        expressions: the space as typed, by key.
        settings: with metric and mode known.
        config_dir: the user's YAML; None for none.
        name: of the experiment.
        trusted: the user's modules that configs may name.
    """

    overrides: list[str]
    expressions: dict[str, str]
    settings: Settings
    config_dir: str | None = None
    name: str = ""
    trusted: list[str] = field(default_factory=list)

    @functools.cached_property
    def space(self) -> Space:
        return spaces.parse_all(self.expressions, [])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Search:
        """What `as_dict` returned.

        Raises:
            ValueError: it is something else.
        """
        try:
            settings = Settings(**data["settings"])
            search = cls(**{**data, "settings": settings})
            problems = list(_problems(asdict(settings)))
            if problems:
                raise ValueError(problems[0])
            if not isinstance(search.overrides, list) or not isinstance(search.expressions, dict):
                raise ValueError("a list of overrides and a space by key are expected")
            lists = (search.overrides, search.trusted, list(search.expressions), list(search.expressions.values()))
            if not all(isinstance(item, str) for items in lists for item in items):
                raise ValueError("text is expected")
            spaces.parse_all(search.expressions, problems)
            if problems:
                raise ValueError(problems[0])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a search's settings: {error}") from error
        return search


def check(overrides: Sequence[str], config_dir: Path | str | None = None) -> tuple[Search, Config]:
    """Read a search from what was typed, and check it as a config is checked.

    Args:
        overrides: `search=NAME`, `search.KEY=VALUE`; `KEY=EXPRESSION` for each dimension of the space; all others as
            `trivium train` accepts them. What an experiment says under `search` counts where nothing is typed; a key of
            its space that is typed as a plain value is not searched.
        config_dir: the user's YAML.

    Returns:
        The search, and the config of one trial.

    Raises:
        ConfigError: everything that is wrong: with the settings, the space, or any config at an edge of the space.
    """
    errors: list[str] = []
    given, rest = _settings_in(overrides, errors)
    shared: list[str] = []
    expressions: dict[str, str] = {}
    for text in rest:
        key, equals, value = text.partition("=")
        if not (equals and spaces.is_expression(value)):
            shared.append(text)
        elif key in expressions:
            errors.append(f"{text}: {key} is searched twice")
        else:
            expressions[key] = value
    stated, in_yaml = _stated(shared, config_dir, errors)
    given = {**stated, **given}
    typed = {text.partition("=")[0] for text in shared}
    expressions = {**{key: text for key, text in in_yaml.items() if key not in typed}, **expressions}
    space = spaces.parse_all(expressions, errors)
    if not space and not errors:
        forms = ", ".join(spaces.FORMS.values())
        errors.append(
            f"the search space is empty: give a key a range, such as learner.lr=loguniform(1e-4,1e-1); valid: {forms}"
        )
    if given.get("algorithm") == "pbt":
        errors += _unfit_for_population(Settings(**given), space) if not errors else []
    if not any(text.startswith("threads=") for text in shared):
        shared.append("threads=1")
    configs = [] if errors else _check_edges(shared, space, config_dir, errors)
    _refuse(errors)
    config = configs[0]
    settings = _with_objective(Settings(**given), config)
    trusted = sorted({module for each in configs for module in constructors.to_trust(each)})
    directory = None if config_dir is None else str(Path(config_dir).resolve())
    return Search(shared, expressions, settings, directory, str(config["name"]), trusted), config


def _stated(
    shared: Sequence[str], config_dir: Path | str | None, errors: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the experiment says under `search`: settings, and the space by key; nothing where the config is wrong, which
    its probes report."""
    try:
        section = compose(shared, config_dir)["search"] or {}
    except ConfigError:
        return {}, {}
    space = section.get("space") or {}
    if not isinstance(space, dict) or not all(isinstance(text, str) for text in space.values()):
        errors.append("search.space: must be expressions by key, such as learner.lr: loguniform(1e-4,1e-1)")
        space = {}
    texts = [f"search.{name}={json.dumps(value)}" for name, value in section.items() if name != "space"]
    return _settings_in(texts, errors)[0], space


def _settings_in(overrides: Iterable[str], errors: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings that were typed, and the other overrides."""
    names = [each.name for each in fields(Settings)]
    given: dict[str, Any] = {}
    rest = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "search" and not key.startswith("search."):
            rest.append(text)
            continue
        name = "algorithm" if key == "search" else key.removeprefix("search.")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean search.{near[0]}?" if near else f"valid: {', '.join(names)}"
            errors.append(f"{key}: there is no such setting; {hint}")
            continue
        try:
            given[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            given[name] = value
        if name in _LEAST and not isinstance(given[name], bool):
            with contextlib.suppress(ValueError, TypeError):
                number = float(given[name])  # YAML takes 1e-3 for text
                given[name] = int(number) if number.is_integer() and name in _WHOLE else number
    errors += _problems(given)
    return given, rest


def _problems(given: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with settings, a line each."""
    for name, value in given.items():
        shown = f"search.{name}={value}" if name != "algorithm" else f"search={value}"
        if name == "algorithm" and value not in get_args(Algorithm):
            near = difflib.get_close_matches(str(value), get_args(Algorithm), 1)
            hint = f"did you mean search={near[0]}?" if near else f"valid: {', '.join(get_args(Algorithm))}"
            yield f"{shown}: there is no such algorithm; {hint}"
        several = value if isinstance(value, list) and value else [value]
        if name == "mode" and not all(each in ("min", "max") for each in several if value is not None):
            yield f"{shown}; valid: min, max"
        if name == "metric" and value is not None:
            if not all(isinstance(each, str) and each.startswith("eval/") for each in several):
                yield f"{shown}; valid: a metric of evaluations, such as eval/loss, or a list of them"
            elif len(set(several)) < len(several):
                yield f"{shown}: the same metric is given twice"
        optional = name in ("minutes", "concurrent") and value is None
        if name in _LEAST and not optional:
            most = _MOST.get(name)
            number = untrusted.finite(value) and value >= _LEAST[name] and (most is None or value <= most)
            if not number or (name in _WHOLE and value != int(value)):
                kind = "a whole number" if name in _WHOLE else "a number"
                yield f"{shown}; valid: {kind} >= {_LEAST[name]:g}" + (f" and <= {most:g}" if most else "")


def _unfit_for_population(settings: Settings, space: Space) -> Iterable[str]:
    """What population-based training can't do, a line each."""
    if settings.num_trials < 2:
        yield f"search.num_trials={settings.num_trials}: a population needs at least 2 members"
    if settings.seeds > 1:
        yield f"search.seeds={settings.seeds}: each member of a population has a seed of its own; valid: 1"
    for key, dimension in space.items():
        if key.split(".")[0] not in CHANGEABLE or "." not in key:
            yield f"{key}: can't be changed while a run trains; search=pbt changes keys of {' or '.join(CHANGEABLE)}"
        elif dimension.when is not None:
            yield f"{key}: search=pbt changes all keys of all members; a condition is not possible"


def _check_edges(shared: Sequence[str], space: Space, config_dir: Path | str | None, errors: list[str]) -> list[Config]:
    """The configs of all probes; what is wrong with any is added to `errors`."""
    configs = []
    for values in spaces.probes(space):
        try:
            configs.append(compose([*shared, *(f"{key}={value}" for key, value in values.items())], config_dir))
        except ConfigError as error:
            errors += error.errors
    return configs


def _with_objective(settings: Settings, config: Config) -> Settings:
    """Settings whose metric and mode are known.

    Raises:
        ConfigError: the learner evaluates no such metric, or does not say which values are better.
    """
    stated = stated_by_learner(config, "evaluates")
    names = [f"eval/{name}" for name in stated or ()]
    directed = [name for name in names if direction(stated, name)]
    chosen = settings.metric or config["monitor"]["metric"] or (directed[0] if directed else None)
    if chosen is None:
        raise ConfigError(
            ["search.metric: the learner states no metric; valid: search.metric=eval/NAME search.mode=min or max"]
        )
    metrics = chosen if isinstance(chosen, list) else [chosen]
    errors = []
    for metric in metrics:
        if names and metric not in names:
            near = difflib.get_close_matches(metric, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"valid: {', '.join(names)}"
            errors.append(f"search.metric={metric}: no evaluation returns it; {hint}")
    given = settings.mode if isinstance(settings.mode, list) else [settings.mode] * len(metrics)
    if len(given) != len(metrics):
        errors.append(f"search.mode={settings.mode}: needs one for each of the {len(metrics)} metrics")
    _refuse(errors)
    monitored = config["monitor"]
    modes = [
        mode or (monitored["mode"] if metric == monitored["metric"] else None) or direction(stated, metric)
        for metric, mode in zip(metrics, given, strict=True)
    ]
    if None in modes:
        unknown = metrics[modes.index(None)]
        errors.append(f"search.mode: the learner does not say which values of {unknown} are better; valid: min, max")
    if len(metrics) > 1 and settings.algorithm in (*SCHEDULED, "pbt"):
        errors.append(f"search={settings.algorithm}: decides by one metric; valid for several: random, grid, bayes")
    _refuse(errors)
    one = not isinstance(chosen, list)
    return Settings(
        **{**asdict(settings), "metric": metrics[0] if one else metrics, "mode": modes[0] if one else modes}
    )


def _refuse(errors: Collection[str]) -> None:
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)))
