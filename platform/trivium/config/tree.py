"""Dotted keys of nested dicts, which configs are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a nested dict and their values; an empty dict is a leaf."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def has(tree: Any, path: str) -> bool:
    """Whether a dotted key is in a nested dict."""
    for name in path.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True


def get(tree: Any, path: str) -> Any:
    """The value at a dotted key, None if there is none."""
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted key that is there."""
    *parents, name = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[name] = value


def is_free(tree: Any, path: str) -> bool:
    """Whether a dotted key lies in what Trivium's own YAML leaves empty, `settings: {}`: its constructor decides."""
    parent = path.rpartition(".")[0]
    while parent and not has(tree, parent):
        parent = parent.rpartition(".")[0]
    return bool(parent) and get(tree, parent) == {}
