"""`trivium submit`: run a command as a job on a Ray cluster."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from trivium.boundary.places import is_bucket
from trivium.cli.errors import UsageError

HELP = "run a command as a job on a Ray cluster"
COMMANDS = ("train", "tune", "resume", "evaluate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="the cluster's dashboard (default: this machine's, port 8265)")
    parser.add_argument("--id", metavar="NAME", help="the job's id and its run folder's name (default: a new one)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--follow", action="store_true", help="show what the job prints until it ends (default)")
    ways.add_argument("--detach", action="store_true", help="return once the job is submitted")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter on the cluster (default: this one's path)",
    )
    parser.add_argument("--with-trivium", action="store_true", help="send Trivium too, where it is not installed")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="pass an environment variable on, e.g. WANDB_API_KEY"
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help="train experiment=... launch=ray launch.workers=8",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Check the command here, send it with the user's own files, and follow it."""
    from trivium.cli.parsing import parse

    words = options.words
    if not words or words[0] not in COMMANDS:
        got = words[0] if words else "nothing"
        raise UsageError(f"submit: {got} is not a command that can be submitted; valid: {', '.join(COMMANDS)}")
    _, inner = parse(words)
    name, place, modules, package = _checked(words[0], inner, options.id)
    from trivium.on_ray import jobs

    client = jobs.client_of(jobs.address_of(options.address))
    if package is not None and not options.json:
        for file in package.files:
            print(f"sends {file}")
        for file in package.withheld:
            print(f"withholds {file}, which by its name holds secrets")
    job = jobs.submit(
        client,
        _from_root(words, inner, package),
        id=name,
        place=place,
        trusted=modules,
        package=package,
        python=options.python,
        with_trivium=options.with_trivium,
        env=options.env,
    )
    result = {"id": job, "run": place, "sent": [str(file) for file in package.files] if package else []}
    if not options.json:
        print(f"job {job}" + (f", run {place}" if place else ""))
    if options.detach:
        return result
    try:
        code = jobs.follow(client, job, lambda text: print(text, end="", flush=True, file=_stream(options)))
    except KeyboardInterrupt:
        print(f"\nthe job goes on; trivium jobs stop {job} stops it, trivium jobs logs {job} --follow shows it again")
        raise
    if code:
        if place is not None:
            print(f"trivium: the same command with --id {name} continues the run", file=sys.stderr)
        raise SystemExit(code)
    return result


def _stream(options: argparse.Namespace) -> Any:
    return sys.stderr if options.json else sys.stdout


def _checked(command: str, inner: argparse.Namespace, id: str | None) -> tuple[str, str | None, list[str], Any]:
    """The job's id, the place of the run that it begins, the user's modules in its config, and the files to send."""
    from trivium.checkpoints.storage import join
    from trivium.config.composing import compose
    from trivium.config.constructors import to_trust
    from trivium.config.errors import ConfigError
    from trivium.config.import_places import look_in
    from trivium.on_ray import jobs
    from trivium.on_ray.package import collect

    if command in ("resume", "evaluate"):
        if not is_bucket(inner.run) and not os.path.isabs(inner.run):
            raise ConfigError(
                [f"{inner.run}: a job runs elsewhere; name the run by an absolute path or a bucket's URL"]
            )
        own = bool(inner.trust or inner.config_dir)
        return id or jobs.new_id(command), None, [], collect(_root(inner.config_dir)) if own else None
    look_in(os.getcwd())
    config = compose(inner.overrides, inner.config_dir)
    storage = config["storage"]
    if not is_bucket(storage) and not os.path.isabs(storage):
        what = "a job runs elsewhere; valid: a folder that all nodes see, by its absolute path, or a bucket's URL"
        raise ConfigError([f"storage={storage}: {what}"])
    name = id or jobs.new_id(config["name"])
    place = join(storage, config["name"], name)
    modules = to_trust(config)
    package = collect(_root(inner.config_dir)) if modules or inner.config_dir else None
    return name, place, modules, package


def _root(config_dir: Path | None) -> Path:
    """The folder that holds the user's files: the working directory, or what their YAML is in if that is elsewhere."""
    here = Path.cwd()
    if config_dir is None or config_dir.resolve().is_relative_to(here):
        return here
    return config_dir.resolve().parent


def _from_root(words: list[str], inner: argparse.Namespace, package: Any) -> list[str]:
    """The words with the folder of the user's YAML as the job sees it."""
    config_dir = getattr(inner, "config_dir", None)
    if config_dir is None or package is None:
        return words
    there = str(config_dir.resolve().relative_to(package.root))
    given = str(config_dir)
    joined = [word.replace(f"--config-dir={given}", f"--config-dir={there}") for word in words]
    return [there if i and words[i - 1] == "--config-dir" else word for i, word in enumerate(joined)]
