"""How far a search is, for the user: a table that is drawn again in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from trivium.boundary.output import Lasting
from trivium.search.results import ranked, short
from trivium.search.settings import Search
from trivium.search.trial import evaluations, seed_folders

EVERY_S = 1.0  # how often the table is drawn at most


class Watching:
    """Shows the trials of a search on a stream, as long as it can be written.

    Args:
        search: whose trials.
        stream: where to; a table if it is a terminal.
        quiet: whether nothing is shown.
    """

    def __init__(self, search: Search, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.search, self.quiet = search, quiet
        self.stream = Lasting(stream or sys.stderr)
        self.live = self.stream.isatty() and not quiet
        self._height = 0  # lines of the table that stands on the terminal
        self._drawn = -EVERY_S
        self._ended: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune pickles what its callbacks hold; such a copy shows nothing."""
        return functools.partial(Watching, quiet=True), (self.search,)

    def say(self, text: str) -> None:
        """A line of its own, above the table."""
        if not self.quiet:
            self._wipe()
            print(text, file=self.stream, flush=True)

    def show(self, records: Sequence[Mapping[str, Any]], number: int) -> None:
        """Show how the trials are: on a terminal the table, elsewhere a line for each that has ended.

        Args:
            records: see `trivium.search.trial.read_records`.
            number: of trials that there will be.
        """
        if self.live:
            if time.monotonic() - self._drawn >= EVERY_S:
                self.draw(records, number)
            return
        for record in records:
            if record["state"] != "running" and record["name"] not in self._ended:
                self._ended.add(record["name"])
                self.say(line(record, len(self._ended), number))

    def draw(self, records: Sequence[Mapping[str, Any]], number: int) -> None:
        """Draw the table over the one before."""
        size = shutil.get_terminal_size()
        lines = table(self.search, records, number, rows=max(3, size.lines - 4))
        self._wipe()
        self.stream.write("".join(f"{text[: size.columns - 1]}\n" for text in lines))
        self.stream.flush()
        self._height, self._drawn = len(lines), time.monotonic()

    def close(self) -> None:
        """Take the table away: what follows is the ranking."""
        self._wipe()

    def _wipe(self) -> None:
        if self._height:
            self.stream.write(f"\x1b[{self._height}F\x1b[J")
            self.stream.flush()
        self._height = 0


def table(search: Search, records: Sequence[Mapping[str, Any]], number: int, *, rows: int) -> list[str]:
    """The trials that run, then the best of those that have ended, under a line of counts and one of headings.

    Args:
        rows: the most trials that are shown.

    Returns:
        Lines of equal columns: trial, the settings that differ, the first metric so far, age, state.
    """
    running = [record for record in records if record["state"] == "running"]
    ended = ranked([dict(record) for record in records if record["state"] != "running"], search.settings.modes)
    failed = [record for record in records if record["state"] != "running" and not record["scores"]]
    shown = [*running, *ended, *failed][:rows]
    keys = list(dict.fromkeys(key for record in shown for key in record["values"]))
    cells = [["trial", *keys, search.settings.metrics[0], "age", "state"]]
    for record in shown:
        age = (record["ended"] or time.time()) - record["began"]
        state = record["state"] if not record["reason"] else f"{record['state']}: {record['reason']}"
        values = [short(record["values"].get(key, "")) for key in keys]
        cells.append([record["name"], *values, _metric(search, record), f"{age:.0f} s", state])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    counts = f"{len(records) - len(running)} of {number} trials have ended, {len(running)} running"
    return [
        counts + (f", {len(failed)} without a score" if failed else ""),
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells),
    ]


def _metric(search: Search, record: Mapping[str, Any]) -> str:
    """The score, or of a trial that runs its last evaluation."""
    if record["scores"]:
        return f"{record['scores'][0]:.4g}"
    folders = seed_folders(Path(record["dir"]), search.settings.seeds)
    values = [value for run in folders for value in evaluations(run, search.settings.metrics[0])]
    return f"{values[-1]:.4g}" if values else ""


def line(record: Mapping[str, Any], index: int, number: int) -> str:
    """`trial 3/20  agent.lr=0.0012  0.981  12 s  finished` and why it failed, if it did."""
    values = "  ".join(f"{key}={short(value)}" for key, value in record["values"].items())
    score = "  ".join(f"{score:.4g}" for score in record["scores"])
    took = f"{record['ended'] - record['began']:.0f} s" if record["ended"] else ""
    parts = (f"trial {index}/{number}", values, score, took, record["state"], record["reason"])
    return "  ".join(filter(None, parts))
