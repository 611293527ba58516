"""What was probably meant by a name that does not exist: an option, a key of the config, a run folder.

Each hint is something that can be typed as it is. Used on the way to an error only, so it may look around.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trivium.config import constructors
from trivium.config.library import BUILT, GROUPS, Library
from trivium.config.problems import Kind, Problem, show
from trivium.config.rules.defaults import wrong_type
from trivium.config.rules.signatures import stated_parameters
from trivium.config.tree import get, has, leaves

CONSTRUCTOR = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
ENV_ID = re.compile(r"[\w:./-]+-v\d+")
OTHER_NAMES = {  # what other libraries call some of the keys
    "learning_rate": "lr",
    "total_timesteps": "env_steps",
    "timesteps": "env_steps",
    "max_epochs": "epochs",
    "wd": "weight_decay",
}
MOST_LOOKED_AT = 200  # entries of a folder


# ----------------------------------------------------------------------------------------------- keys


def unknown_key(path: str, tree: dict[str, Any], file: str) -> Problem:
    """The problem that a key does not exist, with its nearest or all next to it."""
    near = nearest_key(path, tree)
    names = tuple(name for name in _names_beside(path, tree) if not name.startswith("_"))
    return Problem(Kind.KEY, path, None, names or tuple(tree), (near,) if near else (), file)


def nearest_key(path: str, tree: dict[str, Any]) -> str | None:
    """The key of a config that was probably meant by one that it lacks."""
    every = [key for key, _ in leaves(tree)]
    prefix, _, typed = path.rpartition(".")
    last = OTHER_NAMES.get(typed, typed)
    names = _names_beside(path, tree)
    near = [last] if last in names else difflib.get_close_matches(typed, names, n=1, cutoff=0.6) if prefix else []
    if near:
        return f"{prefix}.{near[0]}" if prefix else near[0]
    near = sorted((key for key in every if key.rpartition(".")[2] == last), key=len)
    near = near or difflib.get_close_matches(path, [*every, *tree] if not names or not prefix else [], n=1, cutoff=0.75)
    near = near or _nearest_group(path, tree)
    return near[0] if near else None


def _names_beside(path: str, tree: dict[str, Any]) -> list[str]:
    """What a key's parent has, and what else the constructor that it names accepts; none if there is no such parent."""
    prefix = path.rpartition(".")[0]
    parent = get(tree, prefix) if prefix else tree
    names = [str(key) for key in parent] if isinstance(parent, dict) else []
    takes = stated_parameters(get(parent, "_target_"))
    more = [n for n in takes.names if n not in names and n not in takes.required] if takes else []
    return names + [n for n in more if constructors.is_keyword(f"{prefix}.{n}", tree)]


def _nearest_group(path: str, tree: dict[str, Any]) -> list[str]:
    """The group that was probably meant by a key below a group that does not exist."""
    parent, wrong = "", path.rpartition(".")[0]
    while wrong and not has(tree, wrong):
        parent, wrong = wrong, wrong.rpartition(".")[0]
    groups = [f"{wrong}.{key}" for key in get(tree, wrong) or ()] if wrong else list(tree)
    return difflib.get_close_matches(parent, groups, n=1, cutoff=0.75)


def for_group(path: str, value: Any, group: Mapping[str, Any], skip: Collection[str] = ()) -> str | None:
    """The override of a key in a group that was probably meant by a value given to the whole group.

    Args:
        group: its keys with Trivium's own values.
        skip: keys that are not meant.
    """
    if isinstance(value, dict | list) or value is None:
        return None
    if "_target_" in group:
        near = constructors.nearest_target(str(value), str(group["_target_"]).rpartition(".")[0])
        return f"{path}._target_={near}" if near else None
    rules = constructors.rules_of({path: dict(group)})
    for key, default in group.items():
        rule = rules.get(f"{path}.{key}")
        if key not in skip and (rule.accepts(value) if rule else wrong_type(value, default) is None):
            return f"{path}.{key}={show(value)}"
    return None


def for_option(name: str, value: str, tree: dict[str, Any], library: Library, *, exactly: bool) -> str | None:
    """The override that was probably meant by `--name value`.

    Args:
        value: empty if none was typed.
        tree: the keys there are, with Trivium's own values.
        exactly: a key must have exactly this name, because an option is near too.
    """
    key = name.lstrip("-").replace("-", "_")
    off = key.startswith("no_") and not value
    key = key.removeprefix("no_") if off else key
    if key in GROUPS:
        meant = f"{key}={value or '<option>'}"
        return meant if not value or library.find(key, value) else for_word(value, library) or meant
    found = key if has(tree, key) else nearest_key(key, tree)
    last = key.rpartition(".")[2]
    if not found or (exactly and found.rpartition(".")[2] != OTHER_NAMES.get(last, last)):
        return None
    default = get(tree, found)
    if isinstance(default, dict):
        return for_group(found, yaml.safe_load(value), default) if value else None
    if not value:
        value = str(not off).lower() if isinstance(default, bool) else "<value>"
    return f"{found}={value if value == '<value>' else shlex.quote(value)}"


# ----------------------------------------------------------------------------------------------- options


def no_such_option(group: str, option: Any, library: Library, file: str = "") -> tuple[Problem, str | None]:
    """The problem that a group lacks an option, and the nearest that it has."""
    text, options = show(option), list(library.options(group))
    if re.search(r"\s[\w.]+=", text):
        parts = " ".join(f"'{one}'" for one in f"{group}={text}".split())
        return Problem(Kind.SEVERAL_OVERRIDES, group, option, details={"parts": parts}), None
    begin = [o for o in options if o.startswith(f"{text.lower()}_")]
    elsewhere = None if text.lower() in options or begin else _elsewhere(group, text, library)
    if elsewhere:
        near = "rllib" if group == "agent" and elsewhere.startswith("agent=rllib") else None
        return Problem(Kind.OPTION, group, option, tuple(options), (elsewhere,), file), near
    close = difflib.get_close_matches(text.lower(), options, n=1, cutoff=0.6)
    nearer = difflib.get_close_matches(text.lower(), options, n=1, cutoff=0.9)  # a letter is missing, not a word
    begin = [] if nearer else begin
    near = next(iter([*begin, *close]), None)
    nearest = tuple(begin) if len(begin) > 1 else (near,) if near else ()
    found = library.find(group, near) if near else None
    users_own = found is not None and not found.is_relative_to(library.own)
    where = file or (str(found) if users_own else f"configs/{group}/")
    return Problem(Kind.OPTION, group, option, tuple(options), nearest, where), near


def _elsewhere(group: str, option: str, library: Library) -> str | None:
    """What is an option of another group, or none and yet a name or a path."""
    if "/" in option or option.endswith(".yaml"):
        return _for_path(option) or (f"{group}={Path(option).stem}" if library.find(group, Path(option).stem) else None)
    if group in BUILT and CONSTRUCTOR.fullmatch(option):
        return f"{group}._target_={option}"
    return for_word(option, library, nearly=False)


def not_overrides(words: Sequence[str], library: Library | None) -> Iterator[Problem]:
    """The problems with words that are no `key=value` and follow each other; `seed 1` and `seed = 1` are one.

    Args:
        library: what they may have meant, if that is to be found out.
    """
    joined = "".join(words) if "=" in "".join(words) else "=".join(words)
    key = joined.partition("=")[0]
    if library and len(words) > 1 and joined.count("=") == 1 and (key in GROUPS or has(library.base(), key)):
        yield Problem(Kind.FORM, " ".join(words), nearest=(joined,))
        return
    for word in words:
        run = next((p for p in (Path(word), *Path(word).parents) if (p / "config.yaml").is_file()), None)
        if library and run and "/" in word:
            yield Problem(Kind.RUN_FOLDER, word, details={"place": shlex.quote(str(run))})
            continue
        meant = for_word(word, library) if library else None
        yield Problem(Kind.FORM, word, nearest=(meant,) if meant else ())


def _for_path(path: str) -> str | None:
    """What chooses the option that a YAML file is, by its path: Trivium's own in a checkout too."""
    file = Path(path if path.endswith(".yaml") else f"{path}.yaml")
    group, option = file.parent.name, file.stem
    if group in GROUPS and Library().find(group, option):
        return f"{group}={option}"
    if group in GROUPS and file.is_file():
        return f"--config-dir {shlex.quote(str(file.parent.parent))} {group}={option}"
    return None


def for_word(word: str, library: Library | None = None, *, nearly: bool = True) -> str | None:
    """What was probably meant by a bare word: an option of a group, an algorithm of RLlib's, an environment, a
    constructor, a key.

    Args:
        nearly: a word that is only near one of them counts too.
    """
    library = library or Library()
    if "/" in word and (meant := _for_path(word)):
        return meant
    named = {o.lower(): f"{group}={o}" for group in reversed(GROUPS) for o in library.options(group)}
    algorithms = _algorithms(library)
    named = {**{a.lower(): f"agent=rllib algorithm={a}" for a in algorithms}, **named}
    if word.lower() in named:
        return named[word.lower()]
    if ENV_ID.fullmatch(word):
        return f"env.id={word}"
    if not nearly:
        return None
    near = difflib.get_close_matches(word.lower(), named, n=1, cutoff=0.7)
    if near:
        return named[near[0]]
    return f"{word}=<value>" if word in dict(leaves(library.base())) else None


def _algorithms(library: Library) -> Sequence[str]:
    """RLlib's, as the signature of its agent names them."""
    file = library.find("agent", "rllib")
    takes = stated_parameters(yaml.safe_load(file.read_text(encoding="utf-8")).get("_target_")) if file else None
    return takes.rules["algorithm"].choices if takes else ()


# ----------------------------------------------------------------------------------------------- run folders


def no_run_folder(place: Path) -> str:
    """The line for a path that is not a run folder's."""
    if not os.path.lexists(place):
        near = difflib.get_close_matches(place.name, (p.parent.name for p in _runs_in(place.parent)), n=1)
        hint = f"did you mean {shlex.quote(str(place.with_name(near[0])))}?" if near else ""
        return f"{place} is not a run folder: there is no such folder" + (f"; {hint}" if hint else "")
    above = next((p for p in place.parents if (p / "config.yaml").is_file()), None)
    if above:
        return f"{place} is not a run folder, it lies in one: {shlex.quote(str(above))}"
    if not place.is_dir():
        return f"{place} is not a run folder: it is a file"
    newest = _newest(place)
    hint = f"; the newest below it is {shlex.quote(str(newest))}" if newest else ""
    return f"{place} is not a run folder: it has no config.yaml{hint}"


def newest_run() -> str:
    """The end of the message to a user who named no run: where the newest one is."""
    newest = _newest(Path("runs"))
    return f", a run folder; the newest here is {shlex.quote(str(newest))}" if newest else ", a run folder"


def _newest(folder: Path) -> Path | None:
    configs = [*_runs_in(folder), *(c for below in _folders_in(folder) for c in _runs_in(below))]
    return max(configs, key=lambda c: c.stat().st_mtime).parent if configs else None


def _runs_in(folder: Path) -> Iterator[Path]:
    """The config.yaml of each run folder in a folder."""
    return (below / "config.yaml" for below in _folders_in(folder) if (below / "config.yaml").is_file())


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(e.path) for e in itertools.islice(entries, MOST_LOOKED_AT) if e.is_dir()]
    except OSError:
        return []
