import numpy as np
import pytest
import torch

from tag2mask.data.layers import HeatMap, Picture
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.stages.masking.attention_maps import AttentionMaps, attention_maps, erase
from tag2mask.stages.masking.train_masking import AttentionSettings, TrainMasking
from tag2mask.stages.views import load_image
from tests.stages.conftest import Boxes, Finished, run_with_inputs


@pytest.fixture(scope="module")
def maps(finished: Finished) -> AttentionMaps:
    stage = attention_maps(TrainMasking(Boxes(8), finished.settings.segmenter, AttentionSettings(enabled=False), None))
    run_with_inputs(stage, finished.env)
    return stage


def test_probabilities_of_the_tagged_classes_are_kept(finished: Finished, maps: AttentionMaps) -> None:
    env = finished.env
    for sample in env.dataset.train:
        class_ids, values, colour = maps.load(env, sample.id)
        assert class_ids == sample.tags
        height, width = load_image(sample).shape[1:]
        # Whole, its long side that of the training, a cell every label_stride pixels.
        assert values.shape == (len(sample.tags), -(-round(64 * height / width) // 4), 16)
        assert colour.tolist() == [0.5, 0.5, 0.5]
        assert values.numel() == 0 or 0 <= values.min() <= values.sum(0).max() <= 1.001


def test_pictures(finished: Finished, maps: AttentionMaps) -> None:
    env = finished.env
    two, none = env.dataset.sample("shape_00"), env.dataset.sample("shape_05")
    assert (len(two.tags), len(none.tags)) == (2, 0)
    _, values, colour = maps.load(env, two.id)
    layers = maps.layers(env, two.id)
    assert list(layers) == ["", "disc", "square"]
    found = {name: layer.values for name, layer in layers.items() if isinstance(layer, HeatMap)}
    assert np.allclose(found[""], found["disc"] + found["square"])
    assert np.array_equal(found["square"], values[1].numpy())
    masked = maps.showing("masked")
    assert masked.fingerprint(env) == maps.fingerprint(env)
    (picture,) = masked.layers(env, two.id).values()
    assert isinstance(picture, Picture)
    assert np.array_equal(picture.rgb, erase(load_image(two), values, colour))
    # A photograph without tags has nothing to erase.
    (empty,) = maps.layers(env, none.id).values()
    assert isinstance(empty, HeatMap)
    assert not empty.values.any()
    untouched = masked.layers(env, none.id)[""]
    assert isinstance(untouched, Picture)
    assert np.array_equal(untouched.rgb, load_image(none).permute(1, 2, 0).numpy())


def test_what_is_erased_takes_the_colour() -> None:
    torch.manual_seed(0)
    image = torch.randint(256, (3, 4, 8), dtype=torch.uint8)
    maps, colour = torch.zeros(2, 4, 8), torch.tensor([0.4, 0.2, 0.6])
    maps[0, :, :2] = maps[1, :, 6:] = 1
    maps[:, :, 2:4] = 0.25
    erased, own = erase(image, maps, colour), image.permute(1, 2, 0).numpy()
    assert np.array_equal(erased[:, :2], np.broadcast_to([102, 51, 153], (4, 2, 3)))
    assert np.array_equal(erased[:, 6:], np.broadcast_to([102, 51, 153], (4, 2, 3)))
    assert np.array_equal(erased[:, 4:6], own[:, 4:6])
    assert np.allclose(erased[:, 2:4], (own[:, 2:4] + np.array([102, 51, 153])) / 2, atol=1)


def test_errors(finished: Finished, maps: AttentionMaps) -> None:
    with pytest.raises(SettingsError, match="attention, masked"):
        maps.showing("mask")  # type: ignore[arg-type]
    with pytest.raises(WorkspaceError):
        maps.load(finished.env, "no_such")


def test_estimate(finished: Finished, maps: AttentionMaps) -> None:
    assert maps.estimate(finished.env).seconds > 0
