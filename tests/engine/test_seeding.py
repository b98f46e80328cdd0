import subprocess
import sys

import torch

from tag2mask.engine.seeding import derived_seed, generator, seed_torch


def test_the_same_in_every_process() -> None:
    code = "from tag2mask.engine.seeding import derived_seed; print(derived_seed(1, 'order', 2))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(other) == derived_seed(1, "order", 2)


def test_parts_are_kept_apart() -> None:
    assert derived_seed(1, "a", 23) != derived_seed(1, "a2", 3)
    assert 0 <= derived_seed("x") < 2**63


def test_draws_do_not_depend_on_earlier_draws() -> None:
    first = generator(0, "crop", 5).random(3)
    generator(0, "crop", 4).random(100)
    assert (generator(0, "crop", 5).random(3) == first).all()
    seed_torch(0, "step", 1)
    drawn = torch.rand(3)
    torch.rand(100)
    seed_torch(0, "step", 1)
    assert torch.equal(torch.rand(3), drawn)
