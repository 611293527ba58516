"""Sizes that must be multiples of others, as a learner's class declares them.

    class PPO:
        shared = ("minibatch_size", "env.num_envs")
        divides = {
            "minibatch_size": "num_steps * env.num_envs",
            "num_steps": "minibatch_size / workers if memory",
        }

`shared` names the sizes of the whole run of which each worker holds an equal share. `divides` maps a size to what it
must divide: a product of sizes; ` / workers` means each worker's share of it, ` if memory` only where that keyword is
not null. Names with a dot are keys of another part. Both are literals, which the config check reads from the source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trivium.config.problems import Kind, Problem


def indivisible(
    divides: Mapping[str, str], values: Mapping[str, Any], *, group: str, workers: int = 1
) -> Iterator[Problem]:
    """The declared divisions that leave a remainder. A division is skipped if one of its sizes is not among the values,
    null, or 0, which means none.

    Args:
        divides: what a class declares.
        values: by dotted key.
        group: of the learner, `learner` or `agent`.
        workers: of the run.
    """

    def key(name: str) -> str:
        return name if "." in name else f"{group}.{name}"

    for size, rest in divides.items():
        product, _, condition = rest.partition(" if ")
        product, each, _ = product.partition(" / workers")
        names = [key(name) for name in product.split(" * ")]
        factors = [values.get(name) for name in (key(size), *names)]
        if not all(isinstance(factor, int) and factor > 0 for factor in factors):
            continue
        if condition and values.get(key(condition)) is None:
            continue
        divisor, *others = (int(factor) for factor in factors if factor is not None)
        share = math.prod(others) // (workers if each else 1)
        if share % divisor:
            of = " * ".join(names) + (" / launch.workers" if each and workers > 1 else "")
            where = f", for {key(condition)}={values[key(condition)]}" if condition else ""
            details = {"of": of, "share": share, "condition": where}
            yield Problem(Kind.DIVISION, key(size), divisor, details=details)


def require_divisible(divides: Mapping[str, str], values: Mapping[str, Any], *, group: str, workers: int = 1) -> None:
    """For constructors.

    Raises:
        ValueError: see `indivisible`.
    """
    for problem in indivisible(divides, values, group=group, workers=workers):
        raise ValueError(str(problem))


def not_shared(key: str, size: int, workers: int) -> Problem | None:
    """The problem that a size of the whole run can't be divided among its workers, or None."""
    whole = size >= 1 and size % workers == 0
    return None if whole else Problem(Kind.SHARE, key, size, details={"workers": workers})
