"""Fingerprints: a short name for everything a stage's result depends on."""

import hashlib
import json
from typing import Any

from tag2mask.base.settings import canonical


def fingerprint(value: Any) -> str:
    """Digest of a value's canonical form.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(canonical(value, for_fingerprint=True), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
