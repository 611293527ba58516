"""JSON that every reader accepts: it has no NaN and no infinity, which Python's own writes all the same."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(node: Any, *, indent: int | None = None) -> str:
    """Plain data as JSON text, on one line unless `indent` is given; a number that is not finite becomes null.

    Raises:
        TypeError: something is neither a dict, list, tuple, string, number, boolean nor None.
    """
    return json.dumps(finite(node), indent=indent, allow_nan=False)


def finite(node: Any, *, as_text: bool = False) -> Any:
    """A copy of plain data with null in place of each number that is not finite; its keys are strings.

    Args:
        as_text: write such a number as YAML does instead, `.inf`, `-.inf` or `.nan`: for configs, in which null means
            something else.
    """
    if isinstance(node, dict):
        return {str(key): finite(value, as_text=as_text) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value, as_text=as_text) for value in node]
    if not isinstance(node, float) or math.isfinite(node):
        return node
    if not as_text:
        return None
    return ".nan" if math.isnan(node) else ".inf" if node > 0 else "-.inf"
