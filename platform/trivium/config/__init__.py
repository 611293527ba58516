"""The config: composed, checked and built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.config.composing import apply_overrides, compose, read
    from trivium.config.errors import Config, ConfigError

__all__ = ["Config", "ConfigError", "apply_overrides", "compose", "read"]


def __getattr__(name: str) -> Any:
    """What users import from here, found when it is asked for: composing needs Hydra, which most modules do not."""
    if name in ("Config", "ConfigError"):
        from trivium.config import errors

        return getattr(errors, name)
    if name in ("apply_overrides", "compose", "read"):
        from trivium.config import composing

        return getattr(composing, name)
    raise AttributeError(f"module 'trivium.config' has no attribute {name!r}")
