from __future__ import annotations

import json
import math

import pytest

from trivium.boundary.strict_json import dumps, finite

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"a": NAN, "b": [INF, {"c": -INF}], "d": (1, 0.5)}, '{"a": null, "b": [null, {"c": null}], "d": [1, 0.5]}'),
        ({1: True, None: "NaN"}, '{"1": true, "None": "NaN"}'),
        (1e308, "1e+308"),
        (0.1 + 0.2, "0.30000000000000004"),
        (10**400, str(10**400)),
    ],
)
def test_what_is_written_every_reader_accepts(node: object, text: str) -> None:
    assert dumps(node) == text
    json.loads(text, parse_constant=pytest.fail)


def test_in_a_config_infinity_is_not_null() -> None:
    config = {"max_grad_norm": INF, "low": [-INF], "x": NAN, "lr": 0.1, "none": None}
    assert finite(config, as_text=True) == {
        "max_grad_norm": ".inf",
        "low": ["-.inf"],
        "x": ".nan",
        "lr": 0.1,
        "none": None,
    }
    assert config["max_grad_norm"] == INF
