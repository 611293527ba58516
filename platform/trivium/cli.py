"""The command `trivium`. Nothing heavy is imported before a sub-command needs it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  trivium train                                   an MLP on digits, in seconds
  trivium train experiment=ppo_cartpole seed=1    an experiment, with a value changed
  trivium train experiment=vae_digits launch=ray launch.workers=2
  trivium resume runs/ppo_cartpole/20260101-120000-ab12
  trivium list experiments
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code: 0, 1 when a run failed, 2 for the user's mistakes, 128 + signal."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="trivium: %(message)s", level=logging.WARNING)
    try:
        result = options.command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        return _failed(error, trace=getattr(options, "trace", False))
    if getattr(options, "json", False):
        print(json.dumps(result))
    return 0


def _failed(error: Exception, *, trace: bool) -> int:
    """Say what went wrong in one line each; a trace only when asked for, or for a fault of Trivium's own."""
    from trivium.config import ConfigError

    kind = type(error).__name__
    code = {"ConfigError": 2, "Interrupted": 128 + getattr(error, "signal", 0)}.get(kind, 1)
    lines = error.errors if isinstance(error, ConfigError) else [str(error) or kind]
    known = kind in ("ConfigError", "Interrupted", "NonFiniteLoss", "CheckpointError")
    if trace or not known:
        logging.getLogger("trivium").error("%s", lines[0], exc_info=error)
    for line in lines if known else [f"{kind}: {lines[0]}"]:
        prefix = "trivium: " if kind == "Interrupted" else "trivium: error: "
        print(prefix + line, file=sys.stderr)
    return code


# ------------------------------------------------------------------------------------------- sub-commands


def _train(options: argparse.Namespace) -> Any:
    from trivium.config import compose

    config = compose(options.overrides, options.config_dir)
    from trivium import launch

    return _show_result(launch.train(config, dir=options.dir, display=_display(options)), options)


def _resume(options: argparse.Namespace) -> Any:
    from trivium import launch

    result = launch.resume(options.run, options.overrides, trusted=options.trust, display=_display(options))
    return _show_result(result, options)


def _evaluate(options: argparse.Namespace) -> Any:
    from trivium import launch

    result = launch.evaluate(options.run, checkpoint=options.checkpoint, trusted=options.trust)
    if not options.json:
        print(f"{result['checkpoint']} of {result['dir']}")
        _print_table([(name, f"{value:.6g}") for name, value in result["metrics"].items()])
    return result


def _list(options: argparse.Namespace) -> Any:
    from trivium.config import Library

    kinds = {
        "experiments": ["experiment"],
        "learners": ["learner", "agent"],
        "models": ["model"],
        "data": ["data"],
        "envs": ["env"],
    }
    library = Library(options.config_dir and options.config_dir.resolve())
    listed: dict[str, dict[str, str]] = {}
    for kind in [options.kind] if options.kind else kinds:
        listed[kind] = {
            f"{group}={name}": text for group in kinds[kind] for name, text in library.options(group).items()
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

    from trivium.config import compose

    if len(options.overrides) == 1 and (Path(options.overrides[0]) / "config.yaml").is_file():
        config = yaml.safe_load((Path(options.overrides[0]) / "config.yaml").read_text())
    else:
        config = compose(options.overrides, options.config_dir)
    if not options.json:
        print(yaml.safe_dump(config, sort_keys=False), end="")
    return config


def _doctor(options: argparse.Namespace) -> Any:
    from trivium.environment import doctor

    found, problems = doctor()
    if not options.json:
        _print_table(found)
        print("\n".join(f"problem: {p}" for p in problems) or "nothing is wrong")
    return {**dict(found), "problems": problems}


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trivium",
        description="Train supervised networks, generative models and reinforcement-learning agents, one way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        added.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON, the last of stdout"
        )
        added.add_argument("--trace", action="store_true", help="show where an error came from")
        return added

    def takes_config(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "overrides", nargs="*", metavar="key=value", help="experiment=..., group=option, dotted.key=value"
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

    train = command("train", _train, "train something new")
    takes_config(train)
    train.add_argument("--dir", type=Path, metavar="PATH", help="the run folder (default: a new one under storage)")
    resume = command("resume", _resume, "continue a run from its newest sound checkpoint")
    takes_run(resume)
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. budget.epochs=20")
    for added in (train, resume):
        added.add_argument("--quiet", action="store_true", help="no progress")
    evaluate = command("evaluate", _evaluate, "measure a run's checkpoint on held-out data or fresh episodes")
    takes_run(evaluate)
    evaluate.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or step-...")
    listing = command("list", _list, "list what there is to train")
    listing.add_argument("kind", nargs="?", choices=["experiments", "learners", "models", "data", "envs"])
    listing.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with YAML groups of your own")
    takes_config(command("show", _show, "print the resolved config of an experiment or a run"))
    command("doctor", _doctor, "tell what this machine offers and what is wrong with it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
