import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask.data.resizing import resize_scores
from tag2mask.errors import SettingsError
from tag2mask.stages.labels import read_truth
from tag2mask.study.dcp.graph import build_study
from tag2mask.study.dcp.stages import PixelPlanes, PixelSettings, at_pixels
from tests.builders import write_shapes
from tests.study.dcp.conftest import Done, opened, tiny_settings


def test_values_at_pixels_are_those_of_the_resized_grid() -> None:
    grid = torch.randn(3, 4, 2)
    size = (23, 30)
    whole = resize_scores(grid.permute(2, 0, 1)[None], size)[0].flatten(1).T
    pixels = np.random.default_rng(0).permutation(size[0] * size[1])
    torch.testing.assert_close(at_pixels(grid, pixels, size), whole[pixels], atol=1e-5, rtol=0)


def test_pixels_have_a_place_on_every_blocks_plane_and_their_true_class(done: Done) -> None:
    study, env = done.reopened()
    stage = study.pixels
    sample = next(sample for sample in stage.samples(env) if len(sample.tags) == 2)
    found = stage.load(env, sample.id)
    assert found.class_ids.tolist() == [1, 2]
    assert found.points.shape == (2, 2, stage.settings.pixels, 2)
    assert np.isfinite(found.points).all()
    assert found.points.std(axis=2).min() > 0
    # The drawn pixels are an even sample of the mask.
    shares = [(values == 0).mean() for values in (found.truth, read_truth(sample, 2))]
    assert shares[0] == pytest.approx(shares[1], abs=0.2)
    assert set(found.truth) <= {0, 1, 2}


def test_pixels_of_a_class_are_those_of_its_photographs(done: Done) -> None:
    study, env = done.reopened()
    stage = study.pixels
    tagged = [sample.id for sample in stage.samples(env) if 2 in sample.tags]
    assert 0 < len(tagged) < 6
    plane = stage.of_class(env, 2)
    assert plane.points.shape == (2, 1, len(tagged) * stage.settings.pixels, 2)
    first = stage.load(env, tagged[0])
    index = first.class_ids.tolist().index(2)
    np.testing.assert_array_equal(plane.points[:, 0, : stage.settings.pixels], first.points[:, index])


def test_without_masks_no_true_class_is_known(unmasked: Done) -> None:
    study, env = unmasked.reopened()
    stage = study.pixels
    assert set(stage.of_class(env, 1).truth) == {255}


def test_pixels_are_estimated_by_their_photographs(done: Done) -> None:
    study, env = done.reopened()
    estimate = study.pixels.estimate(env)
    assert estimate.seconds > 0
    assert estimate.bytes == 6 * 80 * 2 * 2 * 4


def test_photographs_of_each_class_are_few_and_pixels_follow_the_seed(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data")
    env = opened(tmp_path)
    whole = build_study(tiny_settings(), env).pixels
    one = PixelPlanes(whole.patterns, PixelSettings((1, 2), photographs=1, pixels=10))
    assert len(whole.samples(env)) == 6
    assert 1 <= len(one.samples(env)) <= 2
    drawn = one._draw(env, "a", (20, 30))
    assert len(set(drawn.tolist())) == 10
    assert drawn.max() < 600
    np.testing.assert_array_equal(drawn, one._draw(env, "a", (20, 30)))
    assert (drawn != one._draw(env, "b", (20, 30))).any()
    assert len(one._draw(env, "a", (2, 3))) == 6


@pytest.mark.parametrize("changed", [{"class_ids": ()}, {"photographs": 0}, {"pixels": 0}])
def test_impossible_settings_are_told(changed: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(changed)).replace("class_ids", "classes")):
        dataclasses.replace(PixelSettings((1,)), **changed)  # type: ignore[arg-type]
