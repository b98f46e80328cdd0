import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.coco import read_coco
from tag2mask.data.coco_masks import CocoMask
from tag2mask.errors import DataError
from tests.data.coco_files import H, W, annotation, box, image, rle, runs, touch, write


def true_mask(root: Path, *annotations: dict[str, Any], **more: Any) -> CocoMask | None:
    """Mask of a photograph with these annotations."""
    write(touch(root, "001.jpg") / "all.json", [image(1, **more)], annotations)
    mask = read_coco(root).train.samples[0].mask
    assert mask is None or isinstance(mask, CocoMask)
    return mask


def drawn(root: Path, *annotations: dict[str, Any]) -> npt.NDArray[np.uint8]:
    mask = true_mask(root, *annotations)
    assert mask is not None
    return mask.read()


def test_rectangles_with_known_pixels(tmp_path: Path) -> None:
    mask = drawn(
        tmp_path,
        annotation(1, 1, 18, box(2, 1, 5, 4)),
        annotation(2, 1, 90, box(8, 0, 16, 12)),
        annotation(3, 1, 3, [*box(0, 10, 1, 12), *box(3, 10, 4, 12)]),
    )
    expected = np.zeros((H, W), np.uint8)
    expected[1:4, 2:5] = 2
    expected[:, 8:] = 3
    expected[10:, [0, 3]] = 1
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)
    mask[0, 0] = 1


def test_more_runs_than_a_byte_counts(tmp_path: Path) -> None:
    region = np.indices((2 * H, 2 * W)).sum(0) % 2
    one = annotation(1, 1, 3, runs(region, compressed=True))
    mask = true_mask(tmp_path, one, height=2 * H, width=2 * W)
    assert mask is not None
    assert np.array_equal(mask.read(), region)


@pytest.mark.parametrize("first", [1, 9])
def test_the_smaller_object_covers_the_larger_one(tmp_path: Path, first: int) -> None:
    mask = drawn(tmp_path, annotation(first, 1, 3, box(4, 4, 6, 6)), annotation(5, 1, 18, box(0, 0, 9, 9)))
    assert (mask[4:6, 4:6] == 1).all()
    assert (mask == 2).sum() == 81 - 4


def test_among_equals_the_later_id_covers_the_earlier_one(tmp_path: Path) -> None:
    mask = drawn(tmp_path, annotation(8, 1, 3, box(2, 0, 6, 4)), annotation(5, 1, 18, box(0, 0, 4, 4)))
    assert [(mask == label).sum() for label in (1, 2)] == [16, 8]


def test_crowds_are_unlabelled_where_nobody_stands(tmp_path: Path) -> None:
    crowd = np.zeros((H, W), bool)
    crowd[2:4, 2:9] = True
    mask = drawn(
        tmp_path,
        annotation(1, 1, 3, box(0, 0, 16, 3)),
        annotation(9, 1, 18, runs(crowd, compressed=False), iscrowd=1),
        annotation(10, 1, 18, box(4, 8, 6, 9), iscrowd=1),
    )
    expected = np.zeros((H, W), np.uint8)
    expected[:3] = 1
    expected[3, 2:9] = expected[8, 4:6] = UNLABELLED
    assert np.array_equal(mask, expected)


def test_no_annotation_is_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert not drawn(tmp_path).any()


@pytest.mark.parametrize("segmentation", [None, [], [[]], [[1, 1, 5, 5]]])
def test_an_object_without_outline_leaves_the_truth_unknown(tmp_path: Path, segmentation: Any) -> None:
    whole = annotation(2, 1, 18, box(0, 0, 4, 4))
    assert true_mask(tmp_path, annotation(1, 1, 3, segmentation), whole) is None
    assert read_coco(tmp_path).train.samples[0].tags == (1, 2)


@pytest.mark.parametrize("size", [{"height": None}, {"width": 0}, {"width": "16"}])
def test_without_size_there_is_no_mask(tmp_path: Path, size: Any) -> None:
    assert true_mask(tmp_path, annotation(1, 1, 3, box(0, 0, 4, 4)), **size) is None


@pytest.mark.parametrize(
    "segmentation",
    [{"counts": [1]}, {"size": [H, W], "counts": None}, [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6, 7]], "x"],
)
def test_outlines_of_no_known_kind(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(DataError, match="image 1: an outline is neither polygons nor a run-length code"):
        true_mask(tmp_path, annotation(1, 1, 3, segmentation))


@pytest.mark.parametrize(
    "counts",
    [
        [],
        [1],
        [H * W, 1],
        [-1, H * W + 1],
        [2.5, H * W - 2.5],
        ["a"],
        [10**30],
        [2**62] * 4,
        "",
        "é",
        "zzzz~",
        "0" * 99,
    ],
)
def test_damaged_run_lengths(tmp_path: Path, counts: Any) -> None:
    mask = true_mask(tmp_path, annotation(1, 1, 3, {"size": [H, W], "counts": counts}))
    assert mask is not None
    with pytest.raises(DataError, match=r"all\.json: image 001\.jpg: a run-length code is not one of 12 x 16 pixels"):
        mask.read()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e9, -100, "3", None])
def test_damaged_polygons(tmp_path: Path, number: Any) -> None:
    mask = true_mask(tmp_path, annotation(1, 1, 3, [[0, 0, 5, 0, 5, number]]))
    assert mask is not None
    with pytest.raises(DataError, match=r"image 001\.jpg: an outline has points that are not in or near the image"):
        mask.read()


def test_run_lengths_need_no_pycocotools_polygons_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = np.eye(H, W, dtype=bool)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert np.array_equal(drawn(tmp_path, annotation(1, 1, 3, runs(region, compressed=False))), region)
    mask = true_mask(tmp_path, annotation(1, 1, 3, box(0, 0, 4, 4)))
    assert mask is not None
    with pytest.raises(DataError, match=r"pip install 'tag2mask\[coco\]'"):
        mask.read()


regions = st.one_of(
    st.tuples(st.just("polygons"), st.lists(st.tuples(*[st.integers(-4, 40)] * 8), min_size=1, max_size=2)),
    st.tuples(st.sampled_from(["runs", "compressed"]), st.binary(min_size=H * W // 8, max_size=H * W // 8)),
)
objects = st.lists(
    st.tuples(regions, st.sampled_from([3, 18, 90]), st.booleans(), st.integers(0, 99)),
    max_size=6,
    unique_by=lambda o: o[3],
)


@settings(deadline=None, max_examples=60)
@given(objects=objects)
def test_masks_equal_painting_by_the_definition(objects: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    annotations, painted = [], []
    for (kind, content), category, crowd, number in objects:
        if kind == "polygons":
            outline = [[value / 2 for value in polygon] for polygon in content]
            pixels = {
                (int(y), int(x))
                for polygon in outline
                for y, x in np.argwhere(rle.decode(rle.frPyObjects([polygon], H, W))[..., 0])
            }
        else:
            region = np.unpackbits(np.frombuffer(content, np.uint8)).reshape(H, W)
            outline = runs(region, compressed=kind == "compressed")
            pixels = {(int(y), int(x)) for y, x in np.argwhere(region)}
        annotations.append(annotation(number, 1, category, outline, iscrowd=int(crowd)))
        painted.append((crowd, len(pixels), -number, {3: 1, 18: 2, 90: 3}[category], pixels))
    # A pixel belongs to the first object that holds it, from what is drawn last to what is drawn first.
    expected = np.zeros((H, W), np.uint8)
    taken: set[tuple[int, int]] = set()
    for crowd, _, _, label, pixels in sorted(painted):
        for y, x in pixels - taken:
            expected[y, x] = 255 if crowd else label
        taken |= pixels
    assert np.array_equal(drawn(tmp_path_factory.mktemp("coco"), *annotations), expected)


@settings(deadline=None, max_examples=60)
@given(content=st.binary(min_size=4 * H * W // 8, max_size=4 * H * W // 8))
def test_both_run_length_codes_say_the_same(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    region = np.unpackbits(np.frombuffer(content, np.uint8)).reshape(2 * H, 2 * W)
    folder = tmp_path_factory.mktemp("coco")
    for compressed in (True, False):
        one = annotation(1, 1, 3, runs(region, compressed=compressed))
        mask = true_mask(folder, one, height=2 * H, width=2 * W)
        assert mask is not None
        assert np.array_equal(mask.read(), region)


def test_digests(tmp_path: Path) -> None:
    def digest(*annotations: dict[str, Any], **more: Any) -> str:
        mask = true_mask(tmp_path, *annotations, **more)
        assert mask is not None
        return mask.digest(lambda path: pytest.fail("the mask depends on no file"))

    one, other = annotation(1, 1, 3, box(0, 0, 4, 4)), annotation(7, 1, 18, box(2, 0, 4, 4))
    first = digest(one, other)
    assert digest(other, one) == first
    assert digest({**one, "id": 2, "bbox": [1, 1, 1, 1]}, other) == first
    changed = [
        digest(one),
        digest(one, {**other, "category_id": 90}),
        digest(one, {**other, "iscrowd": 1}),
        digest({**one, "id": 8}, other),
        digest(one, annotation(7, 1, 18, box(2, 0, 4, 5))),
        digest(one, other, height=H + 1),
    ]
    assert len({first, *changed}) == 7


def test_a_mask_is_small_and_hides_nothing(tmp_path: Path) -> None:
    mask = true_mask(tmp_path, *(annotation(number, 1, 3, box(0, 0, 4, 4)) for number in range(50)))
    assert mask is not None
    assert len(mask.packed) < 200
    assert str(mask) == f"{tmp_path / 'all.json'}: image 001.jpg"
    assert dataclasses.replace(mask) == mask
