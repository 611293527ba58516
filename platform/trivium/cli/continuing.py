"""Texts that a model continues, for the commands that print them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trivium.cli.arguments import count

if TYPE_CHECKING:
    from trivium.loaded import Trained


def accepts_prompt(parser: argparse.ArgumentParser) -> None:
    of_texts = parser.add_argument_group("models of texts")
    of_texts.add_argument("--prompt", metavar="TEXT", help="continue this text")
    of_texts.add_argument("--length", type=count, default=200, metavar="N", help="tokens to add (default: 200)")
    of_texts.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0: the most probable token each time (default: 1)"
    )
    of_texts.add_argument("--top-k", type=count, metavar="K", help="draw from the K most probable tokens only")


def texts(model: Trained, options: argparse.Namespace, *, num: int, seed: int) -> list[str]:
    """As many texts as `num`; number i is drawn with the seed `seed + i`, so that it is the same whatever their number.

    Raises:
        ConfigError: the model does not continue texts, the prompt has an unknown character, or a number is out of
            range.
    """
    from trivium.config.errors import ConfigError

    prompt = options.prompt or ""
    how = {"length": options.length, "temperature": options.temperature, "top_k": options.top_k}
    try:
        return [model.continue_text(prompt, seed=seed + i, **how) for i in range(num)]
    except (TypeError, ValueError) as error:
        raise ConfigError([f"--prompt {prompt!r}: {error}" if prompt else str(error)]) from error
