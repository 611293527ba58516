"""From what was typed to the exit code: parse it, run its command, print the result or the error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence

from trivium.boundary import output, strict_json
from trivium.cli import errors
from trivium.cli.parsing import parse, print_help


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `trivium`; None for those of this process.

    Returns:
        The exit code: 0; 1 when a run failed; 2 for the user's mistakes; 128 + n after signal n.
    """
    output.open_missing()
    typed = sys.argv[1:] if arguments is None else arguments
    streams = sys.stdout, sys.stderr
    of_a_run = False
    try:
        with contextlib.redirect_stderr(output.Lasting(sys.stderr)):
            try:
                if not typed:
                    print_help()
                    return 0
                command, options = parse(typed)
                logging.basicConfig(handlers=[errors.one_line_handler()], level=logging.WARNING)
                # What `train` and `resume` print is about the run, which goes on when nobody can read it; what other
                # commands print is their product.
                of_a_run, stdout = options.of_a_run, output.Lasting(sys.stdout)
                with contextlib.redirect_stdout(stdout) if of_a_run else contextlib.nullcontext():
                    result = command.run(options)
                    if options.json:
                        print(strict_json.dumps(result))
                    sys.stdout.flush()
                if stdout.problem:
                    print(f"trivium: error: standard output: {stdout.problem.strerror}", file=sys.stderr)
                return 1 if stdout.problem or (of_a_run and result["lost"]) else 0
            except (Exception, KeyboardInterrupt) as error:
                unread = None if of_a_run else errors.unread(error)
                if unread is None:
                    return errors.report(error, trace="--trace" in typed, as_json="--json" in typed)
                if unread.errno in output.GONE:  # the reader, such as head, has enough
                    return 141
                print(f"trivium: error: standard output: {unread.strerror}", file=sys.stderr)
                return 1
    finally:
        for stream in streams:
            output.failure(stream)
