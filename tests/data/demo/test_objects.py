import numpy as np
import pytest

from tag2mask.data.demo.canvas import Layer, Light, rgb
from tag2mask.data.demo.objects import DEMO_CLASSES, draw_object, object_kind

LIGHT = Light((-0.5, -0.5, 0.707), rgb(0.8, 0.8, 0.75), rgb(0.3, 0.32, 0.36), 0.4)


def draw(name: str, seed: int = 0, centre: tuple[float, float] = (80.0, 80.0), scale: float = 45.0) -> Layer:
    return draw_object(name, np.random.default_rng(seed), (160, 160), centre, scale, LIGHT)


def test_classes_are_distinct_and_enough() -> None:
    assert len(set(DEMO_CLASSES)) == len(DEMO_CLASSES) >= 6
    assert list(DEMO_CLASSES) == sorted(DEMO_CLASSES)


def test_unknown_class() -> None:
    with pytest.raises(KeyError):
        object_kind("teapot")


@pytest.mark.parametrize("name", DEMO_CLASSES)
def test_object_fills_its_unit_and_is_textured(name: str) -> None:
    for seed in range(8):
        layer = draw(name, seed)
        inside = layer.alpha > 0.5
        area = inside.sum() / 45.0**2
        assert 0.15 < area < 3.2
        assert layer.alpha.min() >= 0.0
        assert layer.alpha.max() <= 1.0 + 1e-5
        assert np.isfinite(layer.rgb).all()
        # light, shade and pattern: no flat clip-art
        assert layer.rgb[:, inside].std(axis=1).max() > 0.05


@pytest.mark.parametrize("name", DEMO_CLASSES)
def test_object_stays_within_the_extent_it_claims(name: str) -> None:
    kind = object_kind(name)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layer = draw_object(name, rng, (300, 300), (150.0, 150.0), 60.0, LIGHT, angle=seed * 0.5)
        y, x = np.nonzero(layer.alpha > 0.05)
        reach = max(np.abs(y + layer.top - 150).max(), np.abs(x + layer.left - 150).max())
        assert reach < kind.extent * 60.0 + 1, f"seed {seed} is cut off by its own patch"


@pytest.mark.parametrize("name", DEMO_CLASSES)
def test_objects_of_a_class_differ(name: str) -> None:
    first, second = draw(name, 1), draw(name, 2)
    assert (np.abs(first.alpha - second.alpha) > 0.5).mean() > 0.005


@pytest.mark.parametrize("name", DEMO_CLASSES)
@pytest.mark.parametrize("centre", [(0.0, 0.0), (159.0, 80.0), (-30.0, 170.0), (400.0, 400.0)])
@pytest.mark.parametrize("scale", [1.5, 5.0, 90.0])
def test_cropped_and_tiny_objects(name: str, centre: tuple[float, float], scale: float) -> None:
    layer = draw(name, 0, centre, scale)
    rows, columns = layer.region
    assert rows.stop <= 160
    assert columns.stop <= 160
    assert np.isfinite(layer.rgb).all()
