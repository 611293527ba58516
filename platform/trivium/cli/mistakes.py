"""What was probably meant by a command line that is not valid."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trivium.cli.errors import UsageError


def no_such_command(word: str, commands: dict[str, argparse.ArgumentParser], parser: argparse.ArgumentParser) -> str:
    """The line for a first word that is no command."""
    near = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
    if f"--{word}" in parser._option_string_actions:
        hint = f"did you mean 'trivium --{word}'?"
    elif "=" in word:
        hint = f"did you mean 'trivium train {word}'?"
    elif (Path(word) / "config.yaml").is_file():
        hint = f"did you mean 'trivium resume {word}'?"
    elif near:
        hint = f"did you mean '{near[0]}'?"
    else:
        from trivium.config import hints

        meant = hints.for_word(word)
        hint = f"did you mean 'trivium train {meant}'?" if meant else f"valid: {', '.join(commands)}"
    return f"{word}: there is no such command; {hint}"


def unknown_options(
    flags: list[str],
    arguments: Sequence[str],
    options: argparse.Namespace,
    commands: dict[str, argparse.ArgumentParser],
) -> Iterator[str]:
    """A line for each flag: options and keys of the config are easily taken for each other."""
    own = list(commands[options.command]._option_string_actions)
    valid = [name for name in own if name.startswith("--")]
    tree: dict[str, Any] = {}
    changeable: tuple[str, ...] = ()
    fixed = options.changes_a_run
    if hasattr(options, "overrides"):
        from trivium.config import composing, hints
        from trivium.config.library import Library

        library = Library(getattr(options, "config_dir", None))
        tree = composing.keys([] if fixed else options.overrides, library.config_dir)
        changeable = composing.RESUMABLE
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            after = [*arguments, "--"][arguments.index(flag) + 1]
            value = "" if after.startswith("-") or "=" in after else after
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.7)
        elsewhere = [command for command, parser in commands.items() if name in parser._option_string_actions]
        meant = hints.for_option(name, value, tree, library, exactly=bool(near or elsewhere)) if tree else None
        if meant and fixed and not meant.startswith(changeable):
            key = name.lstrip("-").replace("-", "_")
            hint = f"{key} can't change when a run is resumed; valid: {', '.join(changeable)}"
        elif name.lstrip("-") in commands:
            hint = f"did you mean 'trivium {' '.join(filter(None, [name.lstrip('-'), value]))}'?"
        elif meant:
            hint = f"did you mean '{meant}'?"
        elif near:
            hint = f"did you mean '{near[0]}'?"
        elif elsewhere:
            hint = f"it is one of trivium {', '.join(elsewhere)}; valid here: {', '.join(valid)}"
        else:
            hint = f"valid: {', '.join(valid)}"
        yield f"{name}: there is no such option; {hint}"


def no_such_choice(what: str, got: str, valid: list[str]) -> str:
    """The line for a word that is not among the valid ones."""
    near = difflib.get_close_matches(got, valid, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid)}"
    return f"{got}: there is no such {what}; {hint}"


def require_places(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check that a run folder comes first, and that no override is an option.

    Raises:
        UsageError: one of them is not so.
    """
    run, overrides = getattr(options, "run", ""), getattr(options, "overrides", [])
    if re.match(r"[+~]*[\w.]+=", run) and not Path(run).exists():
        usage = f"trivium {options.command} RUN{f' {run}' if hasattr(options, 'overrides') else ''}"
        raise UsageError(f"{options.command}: {run}: a run folder comes first: {usage}")
    for text in overrides:
        require_no_option(text, parser)


def require_no_option(text: str, parser: argparse.ArgumentParser) -> None:
    """Check that an override is not the name of an option.

    Raises:
        UsageError: it is.
    """
    key, _, value = text.partition("=")
    option = parser._option_string_actions.get(f"--{key.replace('_', '-')}")
    if option:
        name = option.option_strings[-1]
        meant = name if option.nargs == 0 else f"{name} {shlex.quote(value) if value else option.metavar or 'VALUE'}"
        raise UsageError(f"{text}: is an option; did you mean '{meant}'?")
