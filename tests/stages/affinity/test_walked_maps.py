import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tag2mask.data.neighbours import pair_offsets
from tag2mask.data.view import IMAGE, View, to_view, whole_view
from tag2mask.errors import SettingsError
from tag2mask.evidence.affinity import pair_affinities
from tag2mask.evidence.cam import background_power
from tag2mask.networks.inference import normalise
from tag2mask.refine.random_walk import random_walk
from tag2mask.stages.affinity.walked_maps import WalkSettings, walked_maps
from tag2mask.stages.views import load_image
from tests.stages.conftest import FinishedMasks

UNTAGGED = "shape_05"


def test_maps_are_the_walk_by_dense_matrices(finished_masks: FinishedMasks) -> None:
    """T = row-stochastic W^(o beta) with 1 on the diagonal, applied step by step to background and CAMs."""
    env, made = finished_masks.env, finished_masks.made
    sample = env.dataset.sample("shape_00")
    image = load_image(sample)
    network = made.affinity_net.load(env)
    shown = to_view(image, whole_view((image.shape[1], image.shape[2]), long_side=64), IMAGE, fill=0)
    with torch.no_grad():
        features = network(normalise(shown, network.backbone)[None])
    affinities = pair_affinities(features, 3)[0]
    _, height, width = affinities.shape
    w = torch.eye(height * width, dtype=torch.float64)
    for weights, (dy, dx) in zip(affinities, pair_offsets(3), strict=True):
        for y, x in np.ndindex(height, width):
            if y + dy < height and 0 <= x + dx < width:
                one, other = y * width + x, (y + dy) * width + x + dx
                w[one, other] = w[other, one] = weights[y, x].double() ** 8
    transition = w / w.sum(1, keepdim=True)
    cams = made.cams.load(env, sample.id).at_size()
    start = torch.cat([background_power(cams, 1.0)[None], cams])
    start = F.interpolate(start[None], (height, width), mode="area")[0]
    walked = (torch.linalg.matrix_power(transition, 8) @ start.flatten(1).T.double()).T.reshape(start.shape)
    found = made.walked.load(env, sample.id)
    assert found.class_ids == (0, 1, 2)
    torch.testing.assert_close(found.maps, (walked / walked.sum(0)).float(), atol=1e-3, rtol=0)
    assert found.at_size().shape == (3, *image.shape[1:])


def test_cells_tile_photographs_of_any_size(finished_masks: FinishedMasks) -> None:
    """A photograph of 55 x 69 is seen as one of 48 x 64, of which cells of 8 and 16 pixels leave nothing over."""
    env, made = finished_masks.env, finished_masks.made
    sample = env.dataset.sample("shape_01")
    image = load_image(sample)
    assert image.shape == (3, 55, 69)
    found = made.walked.load(env, sample.id)
    assert found.maps.shape[1:] == (6, 8)
    network = made.affinity_net.load(env)
    shown = to_view(image, View((48, 64), False, (0, 0, 48, 64)), IMAGE, fill=0)
    with torch.no_grad():
        affinities = pair_affinities(network(normalise(shown, network.backbone)[None]), 3)[0]
    cams = made.cams.load(env, sample.id).at_size()
    start = F.adaptive_avg_pool2d(torch.cat([background_power(cams, 1.0)[None], cams]), (6, 8))
    walked = random_walk(start, affinities, radius=3, beta=8.0, steps=8)
    torch.testing.assert_close(found.maps, walked / walked.sum(0), atol=1e-3, rtol=0)


def test_maps_sum_to_one(finished_masks: FinishedMasks) -> None:
    env, stage = finished_masks.env, finished_masks.made.walked
    for sample in env.dataset.train:
        scores = stage.load(env, sample.id)
        assert scores.class_ids == (0, *sample.tags)
        assert scores.maps.dtype == torch.float32
        torch.testing.assert_close(scores.maps.sum(0), torch.ones(scores.maps.shape[1:]), atol=2e-3, rtol=0)


def test_a_photograph_without_tags_is_background(finished_masks: FinishedMasks) -> None:
    env, stage = finished_masks.env, finished_masks.made.walked
    scores = stage.load(env, UNTAGGED)
    assert scores.class_ids == (0,)
    assert torch.equal(scores.at_size(), torch.ones(1, *scores.size))
    assert not stage.layers(env, UNTAGGED)[""].values.any()


def test_the_layers_are_the_largest_map_and_those_of_several_classes(finished_masks: FinishedMasks) -> None:
    env, stage = finished_masks.env, finished_masks.made.walked
    maps = stage.load(env, "shape_00").maps.numpy()
    found = stage.layers(env, "shape_00")
    assert list(found) == ["", "disc", "square"]
    for layer, expected in zip(found.values(), (maps[1:].max(0), maps[1], maps[2]), strict=True):
        assert np.array_equal(layer.values, expected)
    assert list(stage.layers(env, "shape_01")) == [""]


def test_a_long_side_of_zero_takes_the_photographs_own(finished_masks: FinishedMasks) -> None:
    env, made = finished_masks.env, finished_masks.made
    sample = env.dataset.sample("shape_01")
    stage = walked_maps(made.cams, made.affinity_net, WalkSettings(steps=2))
    with np.load(io.BytesIO(stage.open(env)(sample))) as content:
        height, width = content["size"].tolist()
        # 55 x 69 pixels, seen as 48 x 64.
        assert (height, width) == (55, 69)
        assert content["maps"].shape[1:] == (6, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 0.0}, "alpha and beta"),
        ({"beta": -1.0}, "alpha and beta"),
        ({"steps": 0}, "steps"),
        ({"long_side": -1}, "long_side"),
    ],
)
def test_impossible_settings(wrong: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        WalkSettings(**wrong)
