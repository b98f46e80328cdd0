"""Lists to choose from: methods and backbones."""

from tag2mask.methods.registry import METHODS, Method
from tag2mask.networks.backbones import BackboneInfo
from tag2mask.networks.backbones import list_backbones as _list_backbones


def list_methods() -> list[Method]:
    """The methods there are."""
    return list(METHODS.values())


def list_backbones(pattern: str = "*") -> list[BackboneInfo]:
    """Backbones whose name fits a pattern, those that are tested first."""
    return _list_backbones(pattern)
