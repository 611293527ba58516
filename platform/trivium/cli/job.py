"""What runs on the cluster for `trivium submit`: the command, or the continuation of the run that it began.

    python -m trivium.cli.job --run PLACE train experiment=...

A job whose driver died with its node is submitted again by the same command: the run at PLACE then continues from its
newest checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trivium.boundary.places import is_bucket


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: `--run PLACE`, a folder or a bucket's URL, for a command that begins a run; `--trust MODULE` for each
            of the user's modules that its config names; then the words after `trivium`.

    Returns:
        The exit code.
    """
    from trivium.cli import main as command

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run")
    parser.add_argument("--trust", action="append", default=[])
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    place, words = options.run, options.words
    if place is None:
        return command(words)
    if _holds_a_run(place):
        print(f"{place} holds a run: it is resumed", flush=True)
        trusted = [word for module in options.trust for word in ("--trust", module)]
        return command(["resume", place, *_of_resume(words), *trusted])
    dir = "/".join(("runs", *place.partition("?")[0].split("/")[-2:])) if is_bucket(place) else place
    return command([*words, "--dir", dir])


def _holds_a_run(place: str) -> bool:
    if not is_bucket(place):
        return (Path(place) / "config.yaml").is_file()
    from trivium.checkpoints.storage import Bucket

    return "config.yaml" in Bucket(place).own_files()


def _of_resume(words: Sequence[str]) -> list[str]:
    """The options of `train` that `resume` accepts too."""
    kept = []
    for i, word in enumerate(words):
        if word in ("--quiet", "--json", "--trace") or word.startswith("--config-dir="):
            kept.append(word)
        elif word == "--config-dir":
            kept += [word, words[i + 1]]
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
