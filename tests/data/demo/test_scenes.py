import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.data.demo import DEMO_CLASSES, Scene, render_scene
from tag2mask.data.demo.scenes import MIN_TAG_SHARE


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, index, long_side=96) for index in range(100)]


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.mask.tobytes()).hexdigest()


def test_scene_is_a_pure_function_of_seed_and_index() -> None:
    first = render_scene(7, 3, long_side=96)
    render_scene(1, 1, long_side=64)
    assert digest(render_scene(7, 3, long_side=96)) == digest(first)
    assert digest(render_scene(7, 4, long_side=96)) != digest(first)
    assert digest(render_scene(8, 3, long_side=96)) != digest(first)


def test_sizes_vary_within_the_long_side(scenes: list[Scene]) -> None:
    shapes = Counter(scene.mask.shape for scene in scenes)
    assert all(max(shape) == 96 and min(shape) >= 64 for shape in shapes)
    assert any(h > w for h, w in shapes)
    assert any(h < w for h, w in shapes)
    for scene in scenes:
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        assert scene.image.shape == (*scene.mask.shape, 3)


def test_tags_are_what_the_mask_shows(scenes: list[Scene]) -> None:
    for scene in scenes:
        counts = np.bincount(scene.mask.ravel(), minlength=len(DEMO_CLASSES) + 1)
        assert len(counts) == len(DEMO_CLASSES) + 1
        shown = tuple(name for name, count in zip(DEMO_CLASSES, counts[1:], strict=True) if count)
        assert scene.classes == shown
        assert 1 <= len(shown) <= 3
        assert all(count == 0 or count >= MIN_TAG_SHARE * scene.mask.size for count in counts[1:])


def test_classes_are_balanced(scenes: list[Scene]) -> None:
    counts = Counter(name for scene in scenes for name in scene.classes)
    assert set(counts) == set(DEMO_CLASSES)
    assert min(counts.values()) >= 25
    assert max(counts.values()) <= 50
    foreground = np.mean([(scene.mask > 0).mean() for scene in scenes])
    assert 0.1 < foreground < 0.4


def test_objects_come_small_large_and_cropped(scenes: list[Scene]) -> None:
    shares = [
        (scene.mask == c + 1).mean()
        for scene in scenes
        for c in range(len(DEMO_CLASSES))
        if (scene.mask == c + 1).any()
    ]
    assert min(shares) < 0.03
    assert max(shares) > 0.2
    cropped = [np.concatenate([s.mask[0], s.mask[-1], s.mask[:, 0], s.mask[:, -1]]).any() for s in scenes]
    assert 0.1 < np.mean(cropped) < 0.9


def test_context_goes_with_the_class(scenes: list[Scene]) -> None:
    """Round flowers it is greener than round snails: a classifier can learn a tag from its surroundings."""

    def green(name: str) -> float:
        pixels = [s.image[s.mask == 0].mean(axis=0) for s in scenes if s.classes == (name,)]
        colours = np.array(pixels)
        return float((colours[:, 1] - colours[:, 0]).mean())

    assert green("flower") > green("snail")


def test_every_class_differs_from_its_surroundings(scenes: list[Scene]) -> None:
    """The mask lies where the object was drawn: colours change at its contour more than elsewhere."""
    for c, name in enumerate(DEMO_CLASSES):
        across, beside = [], []
        for scene in scenes:
            mask = scene.mask == c + 1
            grey = scene.image.astype(np.float32)
            step = np.abs(np.diff(grey, axis=1)).sum(axis=2)
            edge = mask[:, 1:] != mask[:, :-1]
            if edge.any():
                across.append(step[edge].mean())
                beside.append(step[~edge].mean())
        assert np.mean(across) > 1.5 * np.mean(beside), name


def test_pictures_are_well_exposed(scenes: list[Scene]) -> None:
    means = np.array([scene.image.mean() for scene in scenes])
    assert 60 < means.mean() < 170
    assert means.min() > 25
    assert np.mean([scene.image.std() for scene in scenes]) > 30


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), index=st.integers(0, 10**4), long_side=st.sampled_from((32, 64, 101)))
def test_any_seed_gives_an_honest_scene(seed: int, index: int, long_side: int) -> None:
    scene = render_scene(seed, index, long_side=long_side)
    assert max(scene.mask.shape) == long_side
    assert scene.classes
    assert set(np.unique(scene.mask)) - {0} == {DEMO_CLASSES.index(name) + 1 for name in scene.classes}
    for name in scene.classes:
        assert (scene.mask == DEMO_CLASSES.index(name) + 1).mean() >= MIN_TAG_SHARE


def test_too_small_a_picture() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        render_scene(0, 0, long_side=31)
