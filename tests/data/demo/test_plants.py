import numpy as np

from tag2mask.data.demo import plants
from tag2mask.data.demo.canvas import Light, Patch, rgb

LIGHT = Light((0.0, 0.0, 1.0), rgb(0.8, 0.8, 0.8), rgb(0.3, 0.3, 0.3), 0.4)


def patch(seed: int, extent: float) -> Patch:
    return Patch(np.random.default_rng(seed), (201, 201), (100.5, 100.5), 60.0, LIGHT, extent=extent)


def test_flower_is_closed_at_its_disc_and_open_between_petals() -> None:
    fullness = []
    for seed in range(12):
        p = patch(seed, plants.FLOWER_EXTENT)
        plants.draw_flower(p, np.random.default_rng(seed))
        assert p.alpha[np.hypot(p.u, p.v) < 0.12].min() > 0.9
        assert p.alpha[np.hypot(p.u, p.v) > 1.1].max() < 0.01
        inside = p.alpha > 0.5
        rows, columns = inside.any(axis=1).sum(), inside.any(axis=0).sum()
        fullness.append(inside.sum() / (np.pi / 4 * rows * columns))
    # share of the ellipse round the blossom that petals fill
    assert max(fullness) < 1.02
    assert np.mean(fullness) < 0.95
    assert min(fullness) < 0.85


def test_leaf_has_a_blade_and_a_stalk() -> None:
    for seed in range(12):
        p = patch(seed, plants.LEAF_EXTENT)
        plants.draw_leaf(p, np.random.default_rng(seed))
        widths = (p.alpha > 0.5).sum(axis=1) / 60.0
        v = p.v[:, 0]
        assert widths[(v > -0.6) & (v < 0.3)].max() > 0.4
        assert widths[v < -1.05].max() == 0
        stalk = widths[(v > 0.85) & (v < 0.88)] if widths[v > 1.0].any() else widths[(v > 0.5) & (v < 0.6)]
        assert 0 < stalk.max() < 0.3


def test_mushroom_cap_is_wider_than_its_stem() -> None:
    for seed in range(12):
        p = patch(seed, plants.MUSHROOM_EXTENT)
        plants.draw_mushroom(p, np.random.default_rng(seed))
        widths = (p.alpha > 0.5).sum(axis=1) / 60.0
        v = p.v[:, 0]
        stem = widths[(v > 0.4) & (v < 0.8)]
        assert stem.min() > 0.05
        assert widths[v < 0.1].max() > 1.25 * stem.mean()
        assert widths[v > 1.15].max() == 0
