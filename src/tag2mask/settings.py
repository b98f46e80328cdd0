"""Settings: plain dataclasses, and their form as plain values."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

OMIT = {"fingerprint": False}
"""Metadata of a settings field that cannot change a result (``field(metadata=OMIT)``): it stays out of fingerprints."""


def canonical(value: Any) -> Any:
    """Settings as plain JSON values: dataclasses become dictionaries, without the fields marked with `OMIT`.

    Raises:
        TypeError: a value has no canonical form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: canonical(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.metadata.get("fingerprint", True)
        }
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")
