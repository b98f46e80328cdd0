"""Settings: plain dataclasses, and their form as plain values."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

OMIT = {"fingerprint": False}
"""Metadata of a settings field that cannot change a result (``field(metadata=OMIT)``): it stays out of fingerprints."""

FINGERPRINT_AS = "fingerprint_as"
"""Key in the metadata of a settings field: function of its value that gives what fingerprints know of it, for a setting
of which not every letter counts. Records keep the value itself."""


LATER = {"omit_default": True}
"""Metadata of a settings field that was added later and whose default is what happened before: while it has its default
it stays out of fingerprints, so that a new version goes on with what an older one made."""

UNSEEN = {**LATER, "unseen_default": True}
"""The same of a field whose default stays out of records too: model files keep their bytes."""


def canonical(value: Any, *, for_fingerprint: bool = False) -> Any:
    """Settings as plain JSON values: dataclasses become dictionaries, without the fields marked with `OMIT`
    and those with a default that is `UNSEEN`.

    Args:
        value: the settings, or a container of such.
        for_fingerprint: take what `FINGERPRINT_AS` gives of a field, where it has that, instead of its value.

    Raises:
        TypeError: a value has no canonical form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {}
        for field in dataclasses.fields(value):
            if field.metadata.get("fingerprint", True):
                entry = getattr(value, field.name)
                hidden = "unseen_default" in field.metadata or (for_fingerprint and "omit_default" in field.metadata)
                if hidden and entry == _default(field):
                    continue
                if for_fingerprint and FINGERPRINT_AS in field.metadata:
                    entry = field.metadata[FINGERPRINT_AS](entry)
                entries[field.name] = canonical(entry, for_fingerprint=for_fingerprint)
        return entries
    if isinstance(value, Mapping):
        return {str(key): canonical(item, for_fingerprint=for_fingerprint) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, for_fingerprint=for_fingerprint) for item in value]
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _default(field: dataclasses.Field[Any]) -> Any:
    """Default of a dataclass's field; `dataclasses.MISSING` where it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
