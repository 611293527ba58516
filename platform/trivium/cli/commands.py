"""The command `trivium`. Nothing heavy is imported before a sub-command needs it."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import gc
import importlib.util
import itertools
import logging
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trivium.boundary import output, strict_json
from trivium.cli.arguments import FIGURE, KINDS, UsageError, parse, print_help
from trivium.config.import_places import beside, look_in

OF_THE_DISK = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
)
MOST_LINES = 30  # of errors that are shown
KNOWN = ("NonFiniteLoss", "CheckpointError", "Refused", "UserCodeError", "WorkersLost")  # told in a line, exit code 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 when a run failed, 2 for the user's mistakes, 128 + signal."""
    output.open_missing()
    stdout, stderr = sys.stdout, sys.stderr
    try:
        with contextlib.redirect_stderr(output.Lasting(stderr)):
            return _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        for stream in (stdout, stderr):
            output.failure(stream)


def _run(typed: Sequence[str]) -> int:
    of_a_run = False
    try:
        if not typed:
            print_help()
            return 0
        options = parse(typed)
        logging.basicConfig(handlers=[_warnings()], level=logging.WARNING)
        # What is printed is the product of a command, or tells of one: of `train` and `resume` that is the run.
        of_a_run, stdout = options.command in ("train", "resume"), output.Lasting(sys.stdout)
        with contextlib.redirect_stdout(stdout) if of_a_run else contextlib.nullcontext():
            result = COMMANDS[options.command](options)
            if options.json:
                print(strict_json.dumps(result))
            sys.stdout.flush()
        if stdout.problem:
            print(f"trivium: error: standard output: {stdout.problem.strerror}", file=sys.stderr)
        return 1 if stdout.problem or (of_a_run and result["lost"]) else 0
    except (Exception, KeyboardInterrupt) as error:
        unread = output.failure(sys.stdout) if isinstance(error, OSError) and not of_a_run else None
        if unread is None and isinstance(error, BrokenPipeError) and not of_a_run:
            unread = error  # of a `print`, after which nothing may be left that a flush could fail to write
        if unread is None:
            return _failed(error, trace="--trace" in typed, as_json="--json" in typed)
        if unread.errno in output.GONE:  # the reader, such as head, has enough
            return 141
        print(f"trivium: error: standard output: {unread.strerror}", file=sys.stderr)
        return 1


def _failed(error: BaseException, *, trace: bool, as_json: bool) -> int:
    """Say what went wrong, a line each, on stderr; a trace only when asked for, or for a fault of Trivium's own.

    Args:
        as_json: on stdout too, as `{"error": {"kind", "lines", "exit_code"}}`.
    """
    from trivium.boundary.credentials import mask

    kind, lines, code, known = _described(error, trace=trace)
    if trace or not known:
        print(mask("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
    lines = [_printable(mask(line)) for line in lines]
    for line in lines:
        prefix = "trivium: " if kind == "Interrupted" else "trivium: error: "
        print(prefix + line, file=sys.stderr)
    if as_json:
        with contextlib.suppress(OSError):  # nobody reads; the exit code says it all the same
            print(strict_json.dumps({"error": {"kind": kind, "lines": lines, "exit_code": code}}), flush=True)
    return code


def _described(error: BaseException, *, trace: bool) -> tuple[str, list[str], int, bool]:
    """The kind of an error, its lines, the exit code, and whether it is one that a user is told without a trace."""
    kind = type(error).__name__  # by which errors are known here without importing what defines them
    if isinstance(error, KeyboardInterrupt):
        return kind, [], 130, True
    if isinstance(error, UsageError):
        return kind, error.lines, 2, True
    if kind == "ConfigError":
        return kind, list(getattr(error, "errors", [])), 2, True
    if kind == "Interrupted":
        number, checkpoint, arguments = (getattr(error, name) for name in ("signal", "checkpoint", "arguments"))
        line = f"stopped by signal {number}; to continue from {checkpoint}: {shlex.join(['trivium', *arguments])}"
        return kind, [line], 128 + number, True
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return kind, [f"{error.filename or 'the run folder'}: {error.strerror}"], 1, True
    kinds = {one.__name__ for one in type(error).__mro__}
    if not kinds.isdisjoint(KNOWN):
        where = " (--trace shows where)" if "UserCodeError" in kinds and error.__cause__ and not trace else ""
        return kind, [f"{error}{where}"], 1, True
    return kind, [f"{kind}: {' '.join(str(error).split())}" if str(error) else kind], 1, False


def _warnings() -> logging.Handler:
    """Shows what is logged on stderr, a line each."""

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            from trivium.boundary.credentials import mask

            return _printable(mask(super().format(record)))

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("trivium: %(message)s"))
    return handler


def _printable(line: str) -> str:
    """A line in which nothing moves the cursor or changes the terminal: it may quote a stranger's file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


# ------------------------------------------------------------------------------------------- sub-commands


def _train(options: argparse.Namespace) -> Any:
    from trivium.config.composing import compose
    from trivium.run_folder.place import require_writable

    look_in(os.getcwd())
    with _importing(), _linking_torch():
        config = compose(options.overrides, options.config_dir, options.dir)
        require_writable(config, options.dir and Path(options.dir))
        from trivium import launch  # torch: not before the config is known to be right

    dir = None if options.dir is None else Path(options.dir)
    return _show_result(
        launch.train(config, dir=dir, config_dir=options.config_dir, display=_display(options)), options
    )


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Python's garbage collector would look through what imports make again and again: a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _linking_torch() -> Iterator[None]:
    """Meanwhile another core links torch's library, which takes C 0.2 s of `import torch` and no lock of Python's."""

    def link() -> None:
        with contextlib.suppress(Exception):  # `import torch` will say what is wrong
            package = importlib.util.find_spec("torch").origin  # type: ignore[union-attr]
            library = Path(str(package)).with_name("lib") / "libtorch_cpu.so"
            ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_LAZY)

    thread = threading.Thread(target=link)
    if sys.platform == "linux":
        thread.start()
    try:
        yield
    finally:
        if thread.ident:
            thread.join()


def _resume(options: argparse.Namespace) -> Any:
    with _importing(), _linking_torch():
        run = _open_run(options)
        if options.overrides or not (run.dir / "result.json").exists():
            _check_learner(run, options)
        if options.overrides:
            from trivium.config.composing import apply_overrides

            apply_overrides(run.config, options.overrides)
        from trivium import launch

    result = launch.resume(
        run, options.overrides, trusted=options.trust, config_dir=options.config_dir, display=_display(options)
    )
    return _show_result(result, options)


def _open_run(options: argparse.Namespace) -> Any:
    from trivium.run_folder.place import open_run

    run = open_run(options.run)
    if options.trust:
        look_in(os.getcwd(), *(beside(options.config_dir) if options.config_dir else ()))
    return run


def _check_learner(run: Any, options: argparse.Namespace) -> None:
    """What can be found wrong with a run before torch is imported."""
    from trivium.run_folder.place import require_checkpoint
    from trivium.training.builder import check_learner

    check_learner(run.config, trusted=options.trust)
    if hasattr(options, "checkpoint"):
        require_checkpoint(run, options.checkpoint)


def _evaluate(options: argparse.Namespace) -> Any:
    with _importing(), _linking_torch():
        run = _open_run(options)
        _check_learner(run, options)
        from trivium import trained

    result = trained.evaluate(
        run,
        checkpoint=options.checkpoint,
        episodes=options.episodes,
        deterministic=options.deterministic,
        trusted=options.trust,
    )
    if not options.json:
        print(f"{result['checkpoint']} of {result['dir']}")
        _print_table([(name, f"{value:.6g}") for name, value in result["metrics"].items()])
    return result


def _play(options: argparse.Namespace) -> Any:
    to = _where_to_play(options.to)
    with _importing(), _linking_torch():
        run = _open_run(options)
        _check_learner(run, options)
        from trivium import trained

    if to == Path(FIGURE):
        to = run.dir / FIGURE

    def tell(number: int, episode: Any) -> None:
        if not options.json:
            print(
                f"  episode {number}: return {episode.total:.6g}, {episode.length:,} steps, {episode.ended}", flush=True
            )

    result = trained.play(
        run,
        to=to,
        episodes=options.episodes,
        deterministic=options.deterministic,
        seed=options.seed,
        max_steps=options.max_steps,
        size=options.size,
        checkpoint=options.checkpoint,
        trusted=options.trust,
        tell=tell,
    )
    if not options.json:
        rows = [("mean return", f"{result['return_mean']:.6g}")] if options.episodes > 1 else []
        rows += [("checkpoint", result["checkpoint"]), ("file", result["file"] or "none: it was shown in a window")]
        _print_table(rows)
    return result


def _where_to_play(to: str | None) -> Path | None:
    """A file, or None for a window; not said: a window where there is a display, else `FIGURE` of the run."""
    display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if to is None:
        return None if display else Path(FIGURE)
    if to == "window":
        if not display:
            raise UsageError("play: --to window: there is no display here; --to FILE.gif writes a file")
        return None
    if Path(to).suffix not in (".gif", ".mp4"):
        raise UsageError(f"play: --to {to}: valid are window, FILE.gif, FILE.mp4")
    return Path(to).absolute()


def _status(options: argparse.Namespace) -> Any:
    from trivium.run_folder.state import describe, runs_below

    found: list[dict[str, Any]] = []
    for place in options.places or [Path("runs")]:
        runs = runs_below(place)
        if not runs:
            raise UsageError(f"status: {place}: there is no run folder")
        found += map(describe, runs)
    if not options.json:
        for run in found:
            said = [run["state"], run["progress"], str(run["error"] or "").partition("\n")[0]]
            print(_printable("  ".join([run["dir"], *filter(None, said)])))
    return found


def _list(options: argparse.Namespace) -> Any:
    from trivium.config.library import Library

    library = Library(options.config_dir and options.config_dir.resolve())
    if problem := library.folder_problem():
        raise UsageError(problem)
    listed: dict[str, dict[str, str]] = {}
    for kind in [options.kind] if options.kind else KINDS:
        listed[kind] = {}
        for group in KINDS[kind]:
            results = {name: f"Result: {text}" for name, text in library.results(group).items()}
            for name, what in library.options(group).items():
                listed[kind][f"{group}={name}"] = "\n".join(filter(None, [what, results.get(name)]))
    if options.kind == "envs":
        from trivium.config import env_ids

        listed["envs"] |= {f"env.id={name}": text for name, text in env_ids.described().items()}
    if not options.json:
        for kind, rows in listed.items():
            print(f"{kind}:")
            _print_table(list(rows.items()))
        if not options.kind:
            print("every environment that gymnasium knows, and what it needs: trivium list envs")
    return listed


def _show(options: argparse.Namespace) -> Any:
    import yaml

    from trivium.boundary.credentials import masked
    from trivium.config.composing import compose, read

    config: Any
    if len(options.overrides) == 1 and Path(options.overrides[0]).is_dir():
        config = masked(read(Path(options.overrides[0])))
    else:
        look_in(os.getcwd())
        config = compose(options.overrides, options.config_dir)
    if not options.json:
        print(yaml.safe_dump(config, sort_keys=False), end="")
    return strict_json.finite(config, as_text=True)


def _doctor(options: argparse.Namespace) -> Any:
    from trivium.boundary.credentials import mask
    from trivium.run_folder.environment import doctor

    found, problems = doctor()
    if not options.json:
        _print_table([(name, mask(shown)) for name, _, shown in found])
        print("\n".join(f"problem: {mask(p)}" for p in problems) or "nothing is wrong")
    return {**{name: value for name, value, _ in found}, "problems": problems}


# ------------------------------------------------------------------------------------------- showing


def _display(options: argparse.Namespace) -> Any:
    from trivium.tracking.progress import Display

    return Display(quiet=options.quiet)


def _show_result(result: Any, options: argparse.Namespace) -> Any:
    if not options.json:
        print(f"ended: {result.reason}, after {result.elapsed_s:.1f} s of training")
        names = [n for n in result.metrics if n.startswith("test/")]
        _print_table([(n, f"{result.metrics[n]:.6g}") for n in names])
        _print_table([("run", str(result.dir)), ("report", str(result.dir / "report.html"))])
    for sentence in result.lost:
        print(f"trivium: error: {sentence}", file=sys.stderr)
    return result.as_json()


def _print_table(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        for first, line in zip(itertools.chain([name], itertools.repeat("")), value.splitlines() or [""], strict=False):
            print(f"  {first:<{width}}  {line}".rstrip())


COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "play": _play,
    "status": _status,
    "list": _list,
    "show": _show,
    "doctor": _doctor,
}
