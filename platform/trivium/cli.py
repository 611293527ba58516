"""The command `trivium`. Nothing heavy is imported before a sub-command needs it."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import errno
import gc
import importlib.util
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trivium import output, strict_json

EPILOG = """\
examples:
  trivium train                                   an MLP on digits, in seconds
  trivium train experiment=ppo_cartpole seed=1    an experiment, with a value changed
  trivium train experiment=vae_digits launch=ray launch.workers=2
  trivium play runs/ppo_cartpole/20260101-120000-ab12
  trivium resume runs/ppo_cartpole/20260101-120000-ab12
  trivium list experiments
"""


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
KNOWN = ("ConfigError", "Interrupted", "NonFiniteLoss", "CheckpointError", "Refused", "UserCodeError")  # told in a line
KINDS = {
    "experiments": ["experiment"],
    "learners": ["learner", "agent"],
    "models": ["model"],
    "data": ["data"],
    "envs": ["env"],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code: 0, 1 when a run failed, 2 for the user's mistakes, 128 + signal."""
    output.open_missing()
    stderr = sys.stderr
    try:
        with contextlib.redirect_stderr(output.Lasting(stderr)):
            return _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        output.failure(stderr)


def _run(arguments: Sequence[str]) -> int:
    options = argparse.Namespace(trace=False, for_reader=True)
    try:
        options = _parse(arguments)
        logging.basicConfig(format="trivium: %(message)s", level=logging.WARNING)
        result = options.command(options)
        if options.json:
            print(strict_json.dumps(result))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except UsageError as error:
        print(f"trivium: error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        unread = output.failure(sys.stdout) if isinstance(error, OSError) else None
        if unread is None:
            return _failed(error, trace=options.trace)
        if unread.errno not in output.GONE:
            print(f"trivium: error: standard output: {unread.strerror}", file=sys.stderr)
            return 1
        return 141 if options.for_reader else 0  # the reader, such as head, has enough
    return 0


class UsageError(Exception):
    """The command line is not one of trivium's; one line says what is."""


def _failed(error: Exception, *, trace: bool) -> int:
    """Say what went wrong in one line each; a trace only when asked for, or for a fault of Trivium's own."""
    from trivium.config import ConfigError
    from trivium.credentials import mask

    kind = type(error).__name__
    code = {"ConfigError": 2, "Interrupted": 128 + getattr(error, "signal", 0)}.get(kind, 1)
    lines = error.errors if isinstance(error, ConfigError) else [str(error) or kind]
    kinds = {one.__name__ for one in type(error).__mro__}  # by name: to import some of them is to import torch
    known = not kinds.isdisjoint(KNOWN)
    if "UserCodeError" in kinds and error.__cause__ is not None and not trace:
        lines = [f"{lines[0]} (--trace shows where)"]
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        known, lines = True, [f"{error.filename or 'the run folder'}: {error.strerror}"]
    if trace or not known:
        print(mask("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    lines = lines if known else [f"{kind}: {lines[0]}"]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
    for line in lines:
        prefix = "trivium: " if kind == "Interrupted" else "trivium: error: "
        print(prefix + _printable(mask(line)), file=sys.stderr)
    return code


def _printable(line: str) -> str:
    """A line in which nothing moves the cursor or changes the terminal: it may quote a stranger's file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


# ------------------------------------------------------------------------------------------- sub-commands


def _train(options: argparse.Namespace) -> Any:
    from trivium.config import compose
    from trivium.run_place import require_writable

    _import_from_here()
    with _importing(), _linking_torch():
        config = compose(options.overrides, options.config_dir, options.dir)
        require_writable(config, options.dir and Path(options.dir))
        from trivium import launch  # torch: not before the config is known to be right

    dir = None if options.dir is None else Path(options.dir)
    return _show_result(launch.train(config, dir=dir, display=_display(options)), options)


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


def _import_from_here() -> None:
    """Let `_target_: mypackage.MyNet` mean the working directory's, as with `python -m`; last, so that a file there
    hides no installed module. Only for names that the user typed or trusts."""
    sys.path.append(os.getcwd())


def _resume(options: argparse.Namespace) -> Any:
    with _importing(), _linking_torch():
        run = _open_run(options)
        if options.overrides or not (run.dir / "result.json").exists():
            _check_learner(run, options)
        if options.overrides:
            from trivium.config import apply_overrides

            apply_overrides(run.config, options.overrides)
        from trivium import launch

    result = launch.resume(run, options.overrides, trusted=options.trust, display=_display(options))
    return _show_result(result, options)


def _open_run(options: argparse.Namespace) -> Any:
    from trivium.run_place import open_run

    run = open_run(options.run)
    if options.trust:
        _import_from_here()
    return run


def _check_learner(run: Any, options: argparse.Namespace) -> None:
    """What can be found wrong with a run before torch is imported."""
    from trivium.builder import check_learner
    from trivium.run_place import require_checkpoint

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


FIGURE = "figures/play.gif"


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


def _list(options: argparse.Namespace) -> Any:
    from trivium.library import Library

    library = Library(options.config_dir and options.config_dir.resolve())
    if problem := library.folder_problem():
        raise UsageError(problem)
    listed: dict[str, dict[str, str]] = {}
    for kind in [options.kind] if options.kind else KINDS:
        listed[kind] = {
            f"{group}={name}": text for group in KINDS[kind] for name, text in library.options(group).items()
        }
    if options.kind == "envs":
        listed["envs"] |= {f"env.id={name}": text for name, text in _gymnasium_ids().items()}
    if not options.json:
        for kind, rows in listed.items():
            print(f"{kind}:")
            _print_table(list(rows.items()))
        if not options.kind:
            print("every environment that gymnasium knows: trivium list envs")
    return listed


def _gymnasium_ids() -> dict[str, str]:
    import gymnasium

    specs = sorted(gymnasium.registry.items())
    return {name: f"{str(spec.entry_point).partition(':')[2] or 'environment'}, {_limit(spec)}" for name, spec in specs}


def _limit(spec: Any) -> str:
    return f"at most {spec.max_episode_steps} steps an episode" if spec.max_episode_steps else "no limit of steps"


def _show(options: argparse.Namespace) -> Any:
    import yaml

    from trivium.config import compose, read
    from trivium.credentials import masked

    config: Any
    if len(options.overrides) == 1 and Path(options.overrides[0]).is_dir():
        config = masked(read(Path(options.overrides[0])))
    else:
        _import_from_here()
        config = compose(options.overrides, options.config_dir)
    if not options.json:
        print(yaml.safe_dump(config, sort_keys=False), end="")
    return strict_json.finite(config, as_text=True)


def _doctor(options: argparse.Namespace) -> Any:
    from trivium.environment import doctor

    found, problems = doctor()
    if not options.json:
        _print_table([(name, shown) for name, _, shown in found])
        print("\n".join(f"problem: {p}" for p in problems) or "nothing is wrong")
    return {**{name: value for name, value, _ in found}, "problems": problems}


# ------------------------------------------------------------------------------------------- showing


def _display(options: argparse.Namespace) -> Any:
    from trivium.progress import Display

    return Display(quiet=options.quiet)


def _show_result(result: Any, options: argparse.Namespace) -> Any:
    if not options.json:
        print(f"ended: {result.reason}, after {result.elapsed_s:.1f} s of training")
        names = [n for n in result.metrics if n.startswith("test/")]
        _print_table([(n, f"{result.metrics[n]:.6g}") for n in names])
        _print_table([("run", str(result.dir)), ("report", str(result.dir / "report.html"))])
    return result.as_json()


def _print_table(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}".rstrip())


# ------------------------------------------------------------------------------------------- parsing


class _Version(argparse.Action):
    """argparse's own must be told the version beforehand, which takes an import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"trivium {version('trivium')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line with the nearest valid word, in place of argparse's usage and list of choices."""
        choice = re.search(r"argument (\w+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            what, got, valid = choice[1], choice[2], [c.strip(" '") for c in choice[3].split(",")]
            near = difflib.get_close_matches(got, valid, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid)}"
            message = f"{got}: there is no such {what}; {hint}"
        command = self.prog.partition(" ")[2]
        raise UsageError(f"{command}: {message}" if command else message)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options may stand anywhere among the overrides: argparse alone takes only the first unbroken series of them."""
    parser = _parser()
    if not arguments:
        raise UsageError("no command; valid: train, resume, evaluate, play, list, show, doctor (trivium --help)")
    options, rest = parser.parse_known_args(arguments)
    flags = [text for text in rest if text.startswith("-")]
    if flags:
        valid = [name for name in options.flags if name.startswith("--")]
        near = difflib.get_close_matches(flags[0], valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid)}"
        raise UsageError(f"{flags[0]}: there is no such option; {hint}")
    if rest and not hasattr(options, "overrides"):
        raise UsageError(f"{rest[0]}: one argument too many")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trivium",
        description="Train supervised networks, generative models and reinforcement-learning agents, one way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # What is printed is the product of a command, or tells of one: of `train` and `resume` that is the run.
        for_reader = function not in (_train, _resume)
        added.set_defaults(command=function, flags=added._option_string_actions, for_reader=for_reader)
        added.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON, the last of stdout"
        )
        added.add_argument("--trace", action="store_true", help="show where an error came from")
        return added

    def takes_config(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "overrides",
            nargs="*",
            default=[],
            metavar="key=value",
            help="experiment=..., group=option, dotted.key=value",
        )
        added.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with YAML groups of your own")

    def takes_run(added: argparse.ArgumentParser) -> None:
        added.add_argument("run", metavar="RUN", help="a run folder, or its URL in a bucket")
        added.add_argument(
            "--trust",
            action="append",
            default=[],
            metavar="MODULE",
            help="a module of yours that the run's config may build",
        )

    def takes_way_to_act(added: argparse.ArgumentParser) -> None:
        ways = added.add_mutually_exclusive_group()
        ways.set_defaults(deterministic=None)
        ways.add_argument("--deterministic", action="store_true", default=None, help="act by the policy's best guess")
        ways.add_argument(
            "--stochastic", action="store_false", dest="deterministic", default=None, help="sample the actions"
        )

    train = command("train", _train, "train something new")
    takes_config(train)
    train.add_argument("--dir", metavar="PATH", help="the run folder (default: a new one under storage)")
    resume = command("resume", _resume, "continue a run from its newest sound checkpoint")
    takes_run(resume)
    resume.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. budget.epochs=20")
    for added in (train, resume):
        added.add_argument("--quiet", action="store_true", help="no progress")
    evaluate = command("evaluate", _evaluate, "measure a run's checkpoint on held-out data or fresh episodes")
    takes_run(evaluate)
    evaluate.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or step-...")
    evaluate.add_argument(
        "--episodes", type=_count, metavar="K", help="how many an agent plays (default: as configured)"
    )
    takes_way_to_act(evaluate)
    play = command("play", _play, "watch an agent play, in a window or as a GIF or MP4")
    takes_run(play)
    play.add_argument(
        "--to",
        metavar="PLACE",
        help="window, FILE.gif or FILE.mp4 (default: a window where there is a "
        f"display, else {FIGURE} in the run folder)",
    )
    play.add_argument("--episodes", type=_count, default=1, metavar="K", help="how many (default: 1)")
    takes_way_to_act(play)
    play.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same episodes (default: 0)")
    play.add_argument("--max-steps", type=_count, metavar="N", help="cut an episode after so many steps")
    play.add_argument("--size", type=_count, default=640, metavar="PX", help="the picture's longer side, at most")
    play.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or step-...")
    listing = command("list", _list, "list what there is to train")
    listing.add_argument("kind", nargs="?", choices=list(KINDS))
    listing.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with YAML groups of your own")
    takes_config(command("show", _show, "print the resolved config of an experiment or a run"))
    command("doctor", _doctor, "tell what this machine offers and what is wrong with it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
