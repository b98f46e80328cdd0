import io

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from tag2mask.data.classes import UNLABELLED, voc_palette
from tag2mask.data.layers import HeatMap, LabelMap, MapLayer, Picture, heat_overlay
from tag2mask.data.masks import overlay

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (30, 48, 3), dtype=np.uint8)
IDS = RNG.choice(np.array([0, 2, 7, UNLABELLED], np.uint8), (30, 48))
HEAT = RNG.random((10, 16), dtype=np.float32)


def decoded(layer: MapLayer, side: int = 10_000) -> tuple[str, np.ndarray]:
    """Media type and RGBA pixels, as a browser would have them."""
    media_type, data = layer.encode(side)
    with Image.open(io.BytesIO(data)) as image:
        assert Image.MIME[image.format or ""] == media_type
        return media_type, np.asarray(image.convert("RGBA"))


def test_heat_is_mixed_into_the_photograph() -> None:
    image = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    heat = np.linspace(-0.5, 1.5, 35, dtype=np.float32).reshape(5, 7)
    found = heat_overlay(image, heat, opacity=0.25)
    assert found.dtype == np.uint8
    for y, x in np.ndindex(5, 7):
        colour = np.array(colormaps["turbo"](float(min(max(heat[y, x], 0), 1)))[:3]) * 255
        assert np.abs(found[y, x] - (0.75 * image[y, x] + 0.25 * colour)).max() <= 0.51
    assert np.array_equal(heat_overlay(image, heat, opacity=0), image)


def test_labels_have_their_colours_and_let_the_rest_through() -> None:
    media_type, pixels = decoded(LabelMap(IDS))
    assert media_type == "image/png"
    assert pixels.shape == (30, 48, 4)
    for y, x in np.ndindex(30, 48):
        class_id, alpha = IDS[y, x], pixels[y, x, 3]
        if class_id == 0:
            assert alpha == 0
            continue
        assert tuple(pixels[y, x, :3]) == tuple(voc_palette()[class_id])
        assert 50 < alpha < 200 if class_id == UNLABELLED else alpha == 255


@pytest.mark.parametrize("ids", [[0], [UNLABELLED], list(range(20)), list(range(256))])
def test_any_set_of_classes_can_be_coded(ids: list[int]) -> None:
    pixels = decoded(LabelMap(np.array([ids], np.uint8)))[1]
    opaque = pixels[0, :, 3] > 0
    assert opaque.tolist() == [class_id != 0 for class_id in ids]
    assert np.array_equal(pixels[0, opaque, :3], voc_palette()[ids][opaque])


def test_shrunk_labels_hold_no_new_class() -> None:
    layer = LabelMap(IDS.repeat(20, 0).repeat(20, 1))
    pixels = decoded(layer, side=96)[1]
    assert pixels.shape == (60, 96, 4)
    known = {(0, 0, 0), *(tuple(voc_palette()[class_id].tolist()) for class_id in (2, 7, UNLABELLED))}
    assert {tuple(colour) for colour in pixels[..., :3].reshape(-1, 3).tolist()} == known
    assert np.array_equal(pixels[::2, ::2], decoded(LabelMap(IDS))[1])


def test_a_mask_is_a_small_file() -> None:
    ids = np.zeros((375, 500), np.uint8)
    ids[100:200, 50:300] = 15
    assert len(LabelMap(ids).encode(480)[1]) < 400


def test_heat_is_coloured_and_the_more_opaque_the_higher() -> None:
    ramp = np.linspace(0, 1, 256)[None].repeat(3, 0)
    media_type, pixels = decoded(HeatMap(ramp))
    assert media_type == "image/png"
    expected = colormaps["turbo"](ramp[0])[:, :3] * 255
    shown = pixels[0, 1:, :3]  # what is fully transparent may be of any colour
    assert np.abs(shown - expected[1:]).max() <= 0.51
    alpha = pixels[0, :, 3].astype(int)
    assert alpha[0] == 0
    assert alpha[-1] == 255
    assert (np.diff(alpha) >= 0).all()
    assert 80 < alpha[64] < 200


def test_heat_keeps_its_own_resolution_but_for_a_limit() -> None:
    assert decoded(HeatMap(HEAT), side=480)[1].shape == (10, 16, 4)
    assert decoded(HeatMap(HEAT.astype(np.float16)), side=8)[1].shape == (5, 8, 4)
    wild = np.array([[-3.0, 9.0]])
    assert np.array_equal(decoded(HeatMap(wild))[1], decoded(HeatMap(np.array([[0.0, 1.0]])))[1])


def test_a_picture_stays_as_it_is_within_jpegs_loss() -> None:
    flat = np.full((40, 60, 3), (200, 30, 90), np.uint8)
    media_type, pixels = decoded(Picture(flat))
    assert media_type == "image/jpeg"
    assert np.abs(pixels[..., :3].astype(int) - flat).max() <= 4
    assert decoded(Picture(flat), side=30)[1].shape == (20, 30, 4)


@pytest.mark.parametrize("layer", [LabelMap, HeatMap, Picture])
def test_a_long_strip_keeps_a_pixel_of_width(layer: type[MapLayer]) -> None:
    shape = (2000, 3, 3) if layer is Picture else (2000, 3)
    assert decoded(layer(np.zeros(shape, np.uint8)), side=100)[1].shape == (100, 1, 4)  # type: ignore[call-arg]


def test_layers_lie_over_their_photograph() -> None:
    assert np.array_equal(LabelMap(IDS).over(IMAGE), overlay(IMAGE, IDS))
    assert np.array_equal(HeatMap(np.ones((30, 48))).over(IMAGE), heat_overlay(IMAGE, np.ones((30, 48), np.float32)))
    stretched = HeatMap(np.array([[0.0, 1.0]], np.float32)).over(np.zeros((4, 8, 3), np.uint8))
    assert stretched.shape == (4, 8, 3)
    assert np.array_equal(
        stretched[:, 0], heat_overlay(np.zeros((4, 1, 3), np.uint8), np.zeros((4, 1), np.float32))[:, 0]
    )
    assert np.array_equal(Picture(IMAGE[:5]).over(IMAGE), IMAGE[:5])


@pytest.mark.parametrize("layer", [LabelMap(IDS), HeatMap(HEAT), Picture(IMAGE)], ids=["labels", "heat", "picture"])
def test_equal_layers_are_equal_files_of_the_right_kind(layer: MapLayer) -> None:
    assert layer.encode(20) == layer.encode(20)
    assert layer.kind == ("picture" if isinstance(layer, Picture) else "cover")
