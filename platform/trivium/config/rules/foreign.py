"""Rules for constructors of other libraries, whose annotations state no ranges."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trivium.config.rules.kinds import LearningRate, NotNegative, Positive
from trivium.config.rules.rule import Rule, rule_of_type

_KINDS: Mapping[str, Mapping[str, Any]] = {
    "torch.optim": {"lr": LearningRate, "weight_decay": NotNegative, "momentum": NotNegative, "eps": Positive},
}


def foreign_rules(target: Any) -> Mapping[str, Rule]:
    """The rules of a constructor, by keyword, from the package that a `_target_` begins with."""
    module = str(target).rpartition(".")[0]
    found = {name: rule_of_type(kind) for name, kind in _KINDS.get(module, {}).items()}
    return MappingProxyType({name: rule for name, rule in found.items() if rule is not None})
