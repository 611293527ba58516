"""The rules of what every run has, whatever it trains: the keys of configs/config.yaml and of the group `launch`."""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

from trivium.config.rules.kinds import Count, CountOrZero, Form, NotNegative, Positive, Range
from trivium.config.rules.rule import Rule, rule_of_type

TARGET = re.compile(r"^\s*([\w/.]+)\s*(>=|<=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")
SCHEMES = "s3://, gs://, gcs://, abfs://, abfss://, hdfs://, viewfs:// or file://"  # what pyarrow.fs knows

Name = Annotated[
    str, Form(r"\w[\w.-]*", "a name of letters, digits, '_', '-' and '.', not beginning with the last two")
]
Storage = Annotated[
    str,
    Form(
        rf"(?s)(?!.*://)[^\0]*[^\s\0][^\0]*|({SCHEMES.replace(', ', '|').replace(' or ', '|')}|fsspec\+\w+://).+",
        f"a folder, or the URL of a bucket, which begins with {SCHEMES}",
    ),
]
Project = Annotated[
    str,
    Form(
        r"(?=.*\S)[^/\\#?%:\x00-\x1f]{1,128}",
        "the name of a W&B project, of at most 128 characters and without / \\ # ? % : (WANDB_ENTITY names a team)",
    ),
]
Shown = Annotated[str, Form(r"[^\x00-\x1f]{1,128}", "a text of one line and at most 128 characters")]


class Run:
    name: Name
    storage: Storage
    seed: Annotated[int, Range(ge=0, le=2**63 - 1)]
    device: Literal["auto", "cpu", "cuda", "mps"] | Annotated[str, Form(r"cuda:\d+", "cuda:<n>")]
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool | Literal["auto"]
    deterministic: bool
    threads: Literal["auto"] | Annotated[int, Range(ge=1, le=999)]
    search: Mapping[str, object] | None  # checked by `trivium.search.settings`


class Budget:
    epochs: Positive | None
    minutes: Positive | None
    samples: Count | None
    env_steps: Count | None
    updates: Count | None
    target: Annotated[str, Form(TARGET.pattern, "a comparison such as eval/accuracy>=0.97")] | None


class Cadence:
    every_updates: Count | None
    every_s: Positive | None


class Checkpoint(Cadence):
    keep: Count


class Monitor:
    metric: Annotated[str, Form(r"eval/[\w/]+", "a metric of the evaluation, such as eval/loss")] | None
    mode: Literal["min", "max"] | None
    patience: Count | None
    min_delta: NotNegative


class Tracking:
    wandb: bool
    tensorboard: bool
    project: Project
    entity: Annotated[str, Form(r"[\w.-]{1,128}", "the name of a user or team of W&B")] | None
    group: Shown | None
    job_type: Shown | None
    tags: Sequence[Annotated[str, Form(r"[^\x00-\x1f]{1,64}", "a tag of at most 64 characters")]]
    notes: str | None
    artifacts: bool


class Launch:
    engine: Literal["inline", "ray"]
    workers: Count
    cpus_per_worker: Positive
    gpus_per_worker: Literal["auto", 0, 1]
    max_failures: CountOrZero


GROUPS: Mapping[str, type] = {
    "": Run,
    "budget": Budget,
    "log": Cadence,
    "evaluation": Cadence,
    "checkpoint": Checkpoint,
    "monitor": Monitor,
    "tracking": Tracking,
    "launch": Launch,
}


@functools.cache
def rules_of_settings() -> Mapping[str, Rule]:
    """The rules by dotted key."""
    found = {}
    for group, settings in GROUPS.items():
        for name, kind in typing.get_type_hints(settings, include_extras=True).items():
            rule = rule_of_type(kind)
            assert rule is not None
            found[f"{group}.{name}" if group else name] = rule
    return MappingProxyType(found)
