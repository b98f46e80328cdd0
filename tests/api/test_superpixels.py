"""`superpixels` with a small random transformer; tests/end_to_end has it with real weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tag2mask
import tag2mask.api.superpixels
from tag2mask.data.label_maps import read_label_map
from tag2mask.errors import DataError, SettingsError

OPTIONS: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "weights": "none",
    "long_side": 48,
    "tau": 0.05,
    "device": "cpu",
    "threads": 1,
}


def write_noise(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_label_maps_and_pictures_are_named_like_the_photographs(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.png", (60, 40))
    write_noise(tmp_path / "below" / "b.jpg", (30, 50))
    written = tag2mask.superpixels(tmp_path, tmp_path / "out", **OPTIONS, quiet=True)
    assert [item.photograph for item in written] == [tmp_path / "a.png", tmp_path / "below" / "b.jpg"]
    for item, name in zip(written, ("a", "below/b"), strict=True):
        assert item.labels == tmp_path / "out" / "labels" / f"{name}.png"
        assert item.boundaries == tmp_path / "out" / "boundaries" / f"{name}.jpg"
        labels = read_label_map(item.labels)
        assert item.count == labels.max() + 1 == len(np.unique(labels))
        with Image.open(item.photograph) as photograph, Image.open(item.boundaries) as picture:
            assert photograph.size == picture.size == labels.shape[::-1]
    again = tag2mask.superpixels([tmp_path], tmp_path / "out", **OPTIONS, quiet=True)
    assert again == written  # what the first call wrote are no photographs


def test_threads_do_not_change_results(tmp_path: Path) -> None:
    for index in range(4):
        write_noise(tmp_path / "photos" / f"{index}.png", (40 + index, 50), index)
    one, several = (
        tag2mask.superpixels(
            tmp_path / "photos",
            tmp_path / str(threads),
            **{**OPTIONS, "threads": threads},
            quiet=True,
        )
        for threads in (1, 3)
    )
    for first, second in zip(one, several, strict=True):
        assert first.labels.read_bytes() == second.labels.read_bytes()


def test_without_crf_borders_follow_patches(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.png", (48, 48))
    (item,) = tag2mask.superpixels(tmp_path / "a.png", tmp_path, **OPTIONS, use_crf=False, quiet=True)
    labels = read_label_map(item.labels)
    np.testing.assert_array_equal(labels, labels[8::16, 8::16].repeat(16, 0).repeat(16, 1))


def test_photographs_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("dot", (1, 1)), ("line", (200, 1)), ("large", (1300, 900))):
        Image.new("RGB", size, (220, 60, 40)).save(tmp_path / f"{name}.png")
    for item in tag2mask.superpixels(tmp_path, tmp_path / "out", **OPTIONS):
        with Image.open(item.photograph) as photograph:
            assert read_label_map(item.labels).shape == photograph.size[::-1]
    assert "large.png: 1300x900 was worked on at 1000000 pixels" in capsys.readouterr().err
    tag2mask.superpixels(tmp_path / "large.png", tmp_path / "out", **OPTIONS, use_crf=False)
    assert "worked on at" not in capsys.readouterr().err


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    with pytest.raises(DataError, match=r"broken\.jpg: not an image"):
        tag2mask.superpixels(tmp_path, tmp_path / "out", **OPTIONS, quiet=True)
    write_noise(tmp_path / "broken.png", (8, 8))
    with pytest.raises(DataError, match=r"would both give"):
        tag2mask.superpixels(tmp_path, tmp_path / "out", **OPTIONS, quiet=True)


def test_the_patch_follows_from_the_name() -> None:
    for name, stride in (("vit_base_patch8_224.dino", 8), ("vit_small_patch14_dinov2", 14)):
        settings = tag2mask.api.superpixels._transformer(name, "none")
        assert (settings.name, settings.output_stride) == (name, stride)
    with pytest.raises(SettingsError, match="vit_small_patch14_dinov2"):
        tag2mask.api.superpixels._transformer("vit_small_patch41_dinov2", "none")
