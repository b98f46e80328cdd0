from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tag2mask.data.classes import BACKGROUND, UNLABELLED, voc_palette
from tag2mask.data.masks import MaskFile, colour_mask, encode_mask, overlay, read_mask, write_mask
from tag2mask.errors import DataError

Array = npt.NDArray[np.uint8]
MASK = np.array([[0, 1, 2], [20, 254, UNLABELLED]], dtype=np.uint8)

masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


@settings(deadline=None)
@given(mask=masks)
def test_masks_survive_the_disk(mask: Array, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("masks") / "a.png"
    write_mask(path, mask)
    read = read_mask(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, mask)
    assert path.read_bytes() == encode_mask(mask.copy(order="F"))


def test_a_mask_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_mask(path, MASK)
    mask = MaskFile(path)
    assert np.array_equal(mask.read(), MASK)
    assert mask.digest(lambda file: f"digest of {file}") == f"digest of {path}"
    assert str(mask) == str(path)


def test_written_masks_have_vocs_colours(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        colours = np.array(image.convert("RGB"))
    assert colours[0].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert colours[1, 2].tolist() == [224, 224, 192]
    assert np.array_equal(colours, colour_mask(MASK))


def test_any_palette_and_grey_are_read_by_index(tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "grey.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png"), MASK)
    small = MASK % 3
    image = Image.fromarray(small, mode="P")
    image.putpalette([200, 1, 1, 3, 3, 3, 9, 9, 9])
    image.save(tmp_path / "palette.png", bits=2)
    assert np.array_equal(read_mask(tmp_path / "palette.png"), small)
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "deep.png")
    deep = read_mask(tmp_path / "deep.png")
    assert deep.dtype == np.uint8
    assert np.array_equal(deep, MASK)
    deep[0, 0] = 1


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (Image.new("RGB", (2, 2)), "a.png", "palette PNG of class ids is expected"),
        (Image.new("RGBA", (2, 2)), "a.png", "palette PNG of class ids is expected"),
        (Image.new("1", (2, 2)), "a.png", "colour mode 1;"),
        (Image.new("L", (2, 2)), "a.jpg", "JPEG changes class ids"),
        (Image.fromarray(np.full((2, 2), 256, np.uint16)), "a.png", "ids 256 to 256"),
    ],
)
def test_unusable_masks_are_named(tmp_path: Path, image: Image.Image, name: str, message: str) -> None:
    image.save(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_mask(tmp_path / name)


def test_damaged_mask_is_named(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:1500])
    with pytest.raises(DataError, match=r"a\.png"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")


@pytest.mark.parametrize("mask", [np.zeros((2, 2), int), np.zeros((1, 2, 2), np.uint8)])
def test_only_bytes_in_two_dimensions_are_masks(mask: Array) -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W\)"):
        encode_mask(mask)
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W\)"):
        colour_mask(mask)


@settings(deadline=None)
@given(mask=hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 255])), opacity=st.floats(0, 1))
def test_overlay_equals_a_plain_loop(mask: Array, opacity: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    result = overlay(image, mask, opacity)
    palette = voc_palette()
    for y in range(5):
        for x in range(6):
            near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            border = any(0 <= v < 5 and 0 <= u < 6 and mask[v, u] != mask[y, x] for v, u in near)
            if mask[y, x] == BACKGROUND:
                expected = image[y, x].astype(float)
            elif border:
                expected = np.array([255.0, 255.0, 255.0])
            else:
                expected = (1 - opacity) * image[y, x] + opacity * palette[mask[y, x]]
            assert np.abs(result[y, x] - expected).max() <= 0.5 + 1e-6


def test_overlay_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        overlay(np.zeros((3, 2, 3), np.uint8), MASK)
    with pytest.raises(ValueError, match="opacity"):
        overlay(np.zeros((2, 3, 3), np.uint8), MASK, opacity=1.5)
