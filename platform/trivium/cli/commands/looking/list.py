"""`trivium list`: list what there is to train."""

from __future__ import annotations

import argparse
import difflib

from trivium.cli.arguments import folder
from trivium.cli.errors import UsageError
from trivium.cli.showing import print_table

HELP = "list what there is to train"
KINDS = {  # and the config groups that each consists of
    "experiments": ["experiment"],
    "learners": ["learner", "agent"],
    "models": ["model"],
    "data": ["data"],
    "tasks": ["task"],
    "envs": ["env"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--config-dir", type=folder, metavar="DIR", help="a folder with YAML groups of your own")


def run(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """A table for each kind; returns what each option is, by kind and by `group=option`."""
    from trivium.config.library import Library

    if options.kind and options.kind not in KINDS:
        raise UsageError(_no_such_kind(options.kind))
    library = Library(options.config_dir and options.config_dir.resolve())
    if problem := library.folder_problem():
        raise UsageError(str(problem))
    listed: dict[str, dict[str, str]] = {}
    for kind in [options.kind] if options.kind else KINDS:
        listed[kind] = {}
        for group in KINDS[kind]:
            results = {name: f"Result: {text}" for name, text in library.results(group).items()}
            for name, what in library.options(group).items():
                listed[kind][f"{group}={name}"] = "\n".join(filter(None, [what, results.get(name)]))
    if options.kind == "envs":
        from trivium.config.checks import env_ids

        listed["envs"] |= {f"env.id={name}": text for name, text in env_ids.described().items()}
    if not options.json:
        for kind, rows in listed.items():
            print(f"{kind}:")
            print_table(list(rows.items()))
        if not options.kind:
            print("every environment that gymnasium knows, and what it needs: trivium list envs")
    return listed


def _no_such_kind(got: str) -> str:
    from trivium.config import hints

    near = [kind for kind, groups in KINDS.items() if got.removesuffix("s") in groups]
    near = near or difflib.get_close_matches(got, KINDS, n=1, cutoff=0.6)
    meant = near[0] if near else hints.for_word(got)
    command = "" if near else "trivium show "
    hint = f"did you mean '{command}{meant}'?" if meant else f"valid: {', '.join(KINDS)}"
    return f"list: {got}: there is no such kind; {hint}"
