import math

import numpy as np

from tag2mask.data.demo import animals
from tag2mask.data.demo.canvas import Light, Patch, rgb

LIGHT = Light((0.0, 0.0, 1.0), rgb(0.8, 0.8, 0.8), rgb(0.3, 0.3, 0.3), 0.4)


def patch(seed: int, extent: float) -> Patch:
    return Patch(np.random.default_rng(seed), (201, 201), (100.5, 100.5), 60.0, LIGHT, extent=extent)


def test_butterfly_has_wings_on_both_sides() -> None:
    for seed in range(10):
        p = patch(seed, animals.BUTTERFLY_EXTENT)
        animals.draw_butterfly(p, np.random.default_rng(seed))
        left, right = (float(p.alpha[side].sum()) for side in (p.u < -0.1, p.u > 0.1))
        assert 0.5 < left / right < 2.0
        assert (p.alpha[np.abs(p.u) < 0.03] > 0.5).any()  # and a body between them


def test_ladybird_is_spotted_on_a_bright_shell() -> None:
    for seed in range(10):
        p = patch(seed, animals.LADYBIRD_EXTENT)
        animals.draw_ladybird(p, np.random.default_rng(seed))
        shell = np.hypot(p.u / 0.7, (p.v - 0.14) / 0.75) < 1
        red = p.rgb[0][shell]
        assert (p.alpha[shell] > 0.99).all()
        assert 0.03 < (red < 0.2).mean() < 0.7
        assert (red > 0.45).mean() > 0.25


def test_snail_shell_winds_inwards() -> None:
    p = patch(3, animals.SNAIL_EXTENT)
    animals.draw_snail(p, np.random.default_rng(3))
    # walking out from the hub, dark seams are crossed again and again
    red = p.rgb[0]
    row = red[np.abs(p.v[:, 0] + 0.02).argmin()]
    walk = row[(p.u[0] > -0.75) & (p.u[0] < 0.45)]
    crossings = np.abs(np.diff(np.sign(walk - walk.mean()))).sum() / 2
    assert crossings >= 4
    # the sole is flat and below the shell
    covered = np.nonzero(p.alpha > 0.5)
    assert math.isclose(p.v[covered].max(), 0.77, abs_tol=0.05)
