import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.coco import CocoMask, has_annotations, read_coco
from tag2mask.data.problems import Problem
from tag2mask.errors import DataError

rle = pytest.importorskip("pycocotools.mask")

H, W = 12, 16
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "emu"}]
"""Classes cat, dog, emu: 1, 2, 3."""


def image(number: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number:03}.jpg", "height": H, "width": W, **more}


def annotation(number: int, image_id: int, category: int = 3, segmentation: Any = None, **more: Any) -> dict[str, Any]:
    outline = {} if segmentation is None else {"segmentation": segmentation}
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": [0, 0, 1, 1], **outline, **more}


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """The pixels of columns left..right - 1 and rows top..bottom - 1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(region: npt.NDArray[Any], *, compressed: bool) -> dict[str, Any]:
    """Run-length code of a region, by its definition; compressed by pycocotools."""
    if compressed:
        code = rle.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": list(region.shape), "counts": code["counts"].decode()}
    pixels, counts = region.astype(int).ravel(order="F").tolist(), [0]
    for before, pixel in zip([0, *pixels], pixels, strict=False):
        if pixel != before:
            counts.append(0)
        counts[-1] += 1
    return {"size": list(region.shape), "counts": counts}


def write(path: Path, images: Any, annotations: Any = (), categories: Any = CATEGORIES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": categories}))
    return path


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


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


def test_tags_and_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train2017/001.jpg", "train2017/in/002.v1.png", "train2017/003.jpg", "val2017/004.jpg")
    write(
        tmp_path / "annotations/instances_train2017.json",
        [image(1), image(2, "in/002.v1.png"), image(3)],
        [annotation(9, 1, 90), annotation(7, 1, 18), annotation(8, 1, 90), annotation(5, 2, 3, iscrowd=1)],
    )
    write(tmp_path / "annotations/instances_val2017.json", [image(4)], [annotation(1, 4, 18)], CATEGORIES[::-1])
    write(tmp_path / "annotations/person_keypoints_train2017.json", [])
    data = read_coco(tmp_path)
    assert (data.classes, data.layout, data.root) == (("cat", "dog", "emu"), "coco", tmp_path)
    assert [(split.name, {s.id: s.tags for s in split}) for split in data.splits] == [
        ("train2017", {"001": (2, 3), "in/002.v1": (1,), "003": ()}),
        ("val2017", {"004": (2,)}),
    ]
    assert data.sample("in/002.v1").image == tmp_path / "train2017/in/002.v1.png"
    assert read_coco(tmp_path, train_list="train2017", val_list="val2017") == data
    assert read_coco(tmp_path, val_list=None).val is None
    by_path = read_coco(tmp_path, train_list="annotations/instances_train2017.json", val_list=None)
    assert by_path == read_coco(tmp_path, val_list=None)
    assert read_coco(tmp_path, train_list=str(tmp_path / "annotations/instances_val2017.json")).train.name == "val2017"


@pytest.mark.parametrize("place", ["", "images/", "train/", "images/train/", "annotations/"])
def test_where_photographs_are(tmp_path: Path, place: str) -> None:
    touch(tmp_path, f"{place}in/a.jpg")
    write(tmp_path / "annotations/instances_train.json", [image(1, "in\\a.jpg")])
    data = read_coco(touch(tmp_path), report=lambda problem: pytest.fail(problem.message))
    assert (data.train.samples[0].id, data.train.samples[0].image) == ("in/a", tmp_path / f"{place}in/a.jpg")


@pytest.mark.parametrize("val", ["valid", "val"])
def test_exports_of_annotation_tools(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "train/1.jpg", f"{val}/1.jpg")
    write(tmp_path / "train/_annotations.coco.json", [image(1, "1.jpg")], [annotation(1, 1)])
    write(tmp_path / f"{val}/_annotations.coco.json", [image(1, "1.jpg")])
    assert has_annotations(tmp_path)
    data = read_coco(tmp_path)
    assert [(split.name, [s.id for s in split]) for split in data.splits] == [
        ("train", ["train/1"]),
        (val, [f"{val}/1"]),
    ]
    assert data.sample(f"{val}/1").image == tmp_path / f"{val}/1.jpg"


@pytest.mark.parametrize("name", ["export.json", "annotations/instances_default.json", "_annotations.coco.json"])
def test_the_only_annotation_file(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "001.jpg")
    write(tmp_path / name, [image(1)])
    (tmp_path / "package.json").write_text('{"images": []}')
    assert has_annotations(tmp_path)
    data = read_coco(tmp_path)
    assert ([s.id for s in data.train], data.val) == (["001"], None)
    write(tmp_path / "annotations/more.json", [image(1)])
    with pytest.raises(
        DataError, match=r"several files could be the list 'train', give one as --train_list: .*more\.json"
    ):
        read_coco(tmp_path)
    assert read_coco(tmp_path, train_list=name) == data


def test_which_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown list 'train'; choices: no annotation file is there"):
        read_coco(touch(tmp_path, "001.jpg"))
    assert not has_annotations(tmp_path)
    assert has_annotations(tmp_path, "elsewhere.json")
    write(tmp_path / "annotations/instances_val2014.json", [image(1)])
    with pytest.raises(DataError, match="unknown list 'train'; choices: val2014"):
        read_coco(tmp_path)
    write(tmp_path / "annotations/instances_train2014.json", [image(1)])
    assert [split.name for split in read_coco(tmp_path).splits] == ["train2014", "val2014"]
    with pytest.raises(DataError, match="unknown list 'minival'; choices: train2014, val2014"):
        read_coco(tmp_path, val_list="minival")
    write(tmp_path / "annotations/instances_train2017.json", [image(1)])
    with pytest.raises(
        DataError, match=r"list 'train', give one as --train_list: .*train2014\.json, .*train2017\.json"
    ):
        read_coco(tmp_path)
    assert read_coco(tmp_path, train_list="train2017").train.name == "train2017"


@pytest.mark.parametrize(
    "categories",
    [CATEGORIES[:2], [*CATEGORIES, {"id": 4, "name": "fox"}], [*CATEGORIES[:2], {"id": 90, "name": "elk"}]],
)
def test_the_categories_of_both_lists_agree(tmp_path: Path, categories: Any) -> None:
    touch(tmp_path, "001.jpg")
    write(tmp_path / "annotations/instances_train.json", [image(1)])
    write(tmp_path / "annotations/instances_val.json", [image(1)], [], categories)
    with pytest.raises(DataError, match=r"instances_val\.json: category (90|4) is '.*', but '.*' in .*train\.json"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not proper JSON"),
        (b"\xff\xff\xff", "not proper JSON"),
        ("[" * 100_000, "not proper JSON"),
        ("[]", "no instance annotations; the lists images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "no instance annotations"),
        ('{"images": [], "annotations": [], "categories": [3]}', "a category needs an 'id' of its own"),
        ('{"images": [], "annotations": [], "categories": [{"id": "3", "name": "a"}]}', "a category needs"),
        (json.dumps({"images": [], "annotations": [], "categories": CATEGORIES[:1] * 2}), "an 'id' of its own"),
        (json.dumps({"images": [], "annotations": [], "categories": CATEGORIES}), "'train' names no photograph"),
        (json.dumps({"images": []}), "missing: annotations, categories"),
        (
            json.dumps({"images": [], "annotations": [], "categories": [*CATEGORIES, {"id": 4, "name": "dog"}]}),
            r"instances_train\.json: the categories 18 and 4 are both called 'dog'",
        ),
        (
            json.dumps({"images": [], "annotations": [], "categories": [*CATEGORIES, {"id": 0, "name": "Background"}]}),
            r"instances_train\.json: category 0: 'Background' is class 0 already",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 3, "name": " "}]}', "category 3: its name is empty"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "instances_train.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path, report=lambda problem: None)


def test_a_list_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "instances_train.json", [image(1)])

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=rf"{path}: cannot be read \(Permission denied\)"):
        read_coco(tmp_path)


def test_all_problems_are_found_in_one_pass(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number:03}.jpg" for number in range(1, 10)))
    images = [
        image(1),
        image(1, "002.jpg"),
        image(3, "001.jpg"),
        {"id": 4},
        {"id": 5.5, "file_name": "005.jpg"},
        image(6, "gone.jpg"),
        image(7, "../007.jpg"),
        image(8),
        image(9),
        image(10, "."),
    ]
    annotations = [
        annotation(1, 1, 3, box(0, 0, 2, 2)),
        annotation(2, 77),
        annotation(3, 8, 77, box(0, 0, 2, 2)),
        annotation(4, 8, 18, box(0, 0, 2, 2)),
        {"image_id": 1},
        annotation(5, 9, 90, {"size": [W, H], "counts": [H * W]}),
    ]
    write(tmp_path / "instances_train.json", images, annotations)
    found: list[Problem] = []
    data = read_coco(tmp_path, report=found.append)
    assert [(s.id, s.tags, s.mask is not None) for s in data.train] == [
        ("001", (1,), True),
        ("008", (2,), False),
        ("009", (3,), False),
    ]
    path = tmp_path / "instances_train.json"
    assert [(problem.kind, problem.message.removeprefix(f"{path}: ").split(";")[0]) for problem in found] == [
        ("duplicate-id", "two images have the id 1: 001.jpg and 002.jpg"),
        ("bad-row", "images[3]: an 'id' and a 'file_name' are expected"),
        ("bad-row", "images[4]: an 'id' and a 'file_name' are expected"),
        ("bad-row", "annotations[1]: there is no image 77"),
        ("unknown-class", "annotations[2]: unknown category '77'"),
        ("bad-row", "annotations[4]: an 'image_id' and a 'category_id' are expected"),
        ("missing-photograph", "image 6: there is no photograph 'gone.jpg'"),
        ("unsafe-id", "image 7: '../007.jpg' must be a path inside the folder of the photographs"),
        ("bad-row", "image 9: an outline of size [16, 12], but the image has [12, 16] (height, width)"),
        ("unsafe-id", "image 10: '.' must be a path inside the folder of the photographs"),
        ("duplicate-row", f"image 3: '001' is listed already ({path}: image 1)"),
    ]
    with pytest.raises(DataError, match="two images have the id 1"):
        read_coco(tmp_path)


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
