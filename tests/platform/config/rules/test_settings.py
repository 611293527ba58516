"""The rules of what every run has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from trivium.config.library import GROUPS, Library
from trivium.config.rules.settings import SCHEMES, rules_of_settings
from trivium.config.tree import leaves


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("seed", [0, 2**63 - 1, 1e6], [-1, 2**63, 1.5, "1", None, True]),
        ("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"], ["gpu", "cuda:", "cuda:-1", 0, None]),
        ("compile", [True, False, "auto"], ["yes", 1, None]),
        ("threads", ["auto", 1, 64, 999], [0, -1, 1.5, 1000, "an integer >= 1", None]),
        ("budget.epochs", [1, 0.5, None], [0, -1, math.inf, math.nan, "1"]),
        ("budget.updates", [1, 1e6, None], [0, 2.5]),
        ("budget.target", ["eval/loss<=1e-3", "eval/accuracy >= 0.97", None], ["accuracy", "a=1", 3]),
        ("monitor.metric", ["eval/loss", None], ["loss", "train/loss"]),
        ("monitor.patience", [1, None], [0, -1]),
        ("checkpoint.keep", [1, 9], [0, None]),
        ("launch.workers", [1, 9], [0, None, "auto"]),
        ("launch.gpus_per_worker", ["auto", 0, 1], [2, True, "0"]),
        ("launch.max_failures", [0, 9], [-1, None]),
        ("tracking.project", ["trivium", "a b"], ["", "a/b", "a" * 129, None]),
        ("name", ["run", "a.b-c_1"], ["..", "a/b", "-a", ""]),
        ("storage", ["runs", "/a b/c", "s3://b/x?y=z", "gs://b", "fsspec+memory://x"],
         ["", " ", "s3://", "zz://x", "a\0b", None]),
    ],
)  # fmt: skip
def test_values(path: str, good: list[Any], bad: list[Any]) -> None:
    rule = rules_of_settings()[path]
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []


def test_every_key_that_is_not_a_constructors_has_a_rule() -> None:
    own = Library().own
    keys = {key for key, _ in leaves(yaml.safe_load((own / "config.yaml").read_text()))} - {"defaults"}
    for path in own.glob("launch/*.yaml"):
        keys |= {f"launch.{key}" for key in yaml.safe_load(path.read_text()) if key != "defaults"}
    assert {key for key in keys if key.partition(".")[0] not in set(GROUPS) - {"launch"}} <= set(rules_of_settings())
    assert set(rules_of_settings()) <= keys


def test_the_buckets_are_those_that_arrow_knows() -> None:
    fs = pytest.importorskip("pyarrow.fs")
    for scheme in [*SCHEMES.replace(" or", ",").split(", "), "zz://"]:
        problem = ""
        try:
            fs.FileSystem.from_uri(scheme)
        except Exception as error:  # of the empty address
            problem = str(error)
        assert ("Unrecognized filesystem type" in problem) == (scheme == "zz://"), problem
