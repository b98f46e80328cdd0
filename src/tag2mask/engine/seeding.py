"""Random numbers that depend on what they are for, not on what was drawn before."""

import hashlib

import numpy as np
import torch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from the run's seed and what the draw is for, for example ``(seed, "order", epoch)``.

    Unlike Python's ``hash`` it is the same in every process.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator seeded with `derived_seed`."""
    return np.random.default_rng(derived_seed(*parts))


def seed_torch(*parts: int | str) -> None:
    """Seeds torch's generators of all devices with `derived_seed`.

    Called at the start of every training step, it makes dropout a function of (seed, step), so that a resumed training
    needs no stored random state.
    """
    torch.manual_seed(derived_seed(*parts))
