from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tag2mask.data.label_maps import draw_label_map, encode_label_map, read_label_map
from tag2mask.errors import DataError


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.uint16])
def test_maps_survive_the_disk(dtype: type[np.integer[Any]], tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [200, 17, 3]], dtype)
    path = tmp_path / "map.png"
    path.write_bytes(encode_label_map(labels, "photo.jpg"))
    read = read_label_map(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)
    assert path.read_bytes() == encode_label_map(labels.copy(order="F"), "other.jpg")
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "I;16")


def test_as_many_labels_as_16_bits_hold(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    labels = np.arange(2**16).reshape(256, 256)
    path.write_bytes(encode_label_map(labels, "photo.jpg"))
    np.testing.assert_array_equal(read_label_map(path), labels)
    with pytest.raises(DataError, match=r"photo\.jpg: 65537 labels; a 16-bit PNG holds 65536"):
        encode_label_map(labels + 1, "photo.jpg")


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros(4, int), np.array([[0, -1]])])
def test_what_is_no_map_is_refused(labels: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="a label map has integers from 0"):
        encode_label_map(labels, "photo.jpg")


def test_other_images_are_refused(tmp_path: Path) -> None:
    for name, mode in (("rgb.png", "RGB"), ("palette.png", "P"), ("grey.jpg", "L")):
        Image.new(mode, (3, 2)).save(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: .* a 16-bit greyscale PNG of labels is expected"):
            read_label_map(tmp_path / name)
    (tmp_path / "cut.png").write_bytes(encode_label_map(np.eye(90, dtype=int), "x")[:-30])
    for name in ("cut.png", "missing.png"):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_label_map(tmp_path / name)


def test_lines_run_between_labels_and_tints_tell_them_apart() -> None:
    image = np.full((6, 8, 3), 100, np.uint8)
    labels = np.zeros((6, 8), np.int32)
    labels[:, 3:] = 1
    labels[4:, 3:] = 2
    labels[4:, 6:] = 0  # not connected with the rest of its superpixel
    drawn = draw_label_map(image, labels)
    white = (drawn == 255).all(2)
    expected = np.zeros_like(white)
    expected[:, 3] = expected[4, 3:] = expected[4:, 6] = True
    np.testing.assert_array_equal(white, expected)
    colours = [{tuple(pixel) for pixel in drawn[(labels == label) & ~white].tolist()} for label in range(3)]
    assert [len(of_label) for of_label in colours] == [1, 1, 1]
    assert len(set.union(*colours)) == 3
    assert (image == 100).all()


def test_opacity_mixes_tint_and_photograph() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    labels = np.zeros((5, 7), int)
    np.testing.assert_array_equal(draw_label_map(image, labels, opacity=0), image)
    tint = draw_label_map(image, labels, opacity=1)[0, 0]
    assert (draw_label_map(image, labels, opacity=1) == tint).all()
    assert abs(draw_label_map(image, labels, opacity=0.5) - (image / 2 + tint / 2)).max() <= 1


def test_lines_are_wider_on_larger_photographs() -> None:
    labels = np.zeros((20, 1600), int)
    labels[:, 800:] = 1
    drawn = draw_label_map(np.zeros((20, 1600, 3), np.uint8), labels)
    assert (drawn == 255).all(2).sum(1).tolist() == [4] * 20


def test_many_labels_have_different_colours() -> None:
    labels = np.arange(60).repeat(2)[None]
    drawn = draw_label_map(np.zeros((1, 120, 3), np.uint8), labels, opacity=1)[0, 1::2].astype(int)
    apart = abs(drawn[:, None] - drawn).max(2) + 255 * np.eye(60, dtype=int)
    assert apart.min() > 3
    assert (apart[:20, :20]).min() > 20


def test_a_picture_needs_a_map_of_its_photograph() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="do not belong together"):
        draw_label_map(image, np.zeros((5, 4), int))
    with pytest.raises(ValueError, match="opacity"):
        draw_label_map(image, np.zeros((4, 5), int), opacity=1.5)
