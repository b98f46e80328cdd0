import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tag2mask.data.masks import write_mask
from tag2mask.errors import DataError
from tag2mask.evaluation.segmentation import ConfusionMatrix, ThresholdCurve, evaluate_folders

CLASSES = ("background", "cat", "dog", "eel")
Array = npt.NDArray[np.uint8]

ids = hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@settings(deadline=None, max_examples=200)
@given(truth=ids, prediction=ids)
def test_scores_equal_a_plain_loop(truth: Array, prediction: Array) -> None:
    matrix = ConfusionMatrix(CLASSES)
    matrix.add(truth, prediction)
    pairs = [(int(t), int(p)) for t, p in zip(truth.ravel(), prediction.ravel(), strict=True) if t != 255]
    if not pairs:
        with pytest.raises(DataError, match="nothing to score"):
            matrix.scores()
        return
    scores = matrix.scores()
    iou = []
    for c in range(4):
        both = sum(t == p == c for t, p in pairs)
        iou.append(ratio(both, sum(c in pair for pair in pairs)))
        assert scores.iou[c] == pytest.approx(iou[c])
        assert scores.precision[c] == pytest.approx(ratio(both, sum(p == c for _, p in pairs)))
        assert scores.recall[c] == pytest.approx(ratio(both, sum(t == c for t, _ in pairs)))
    defined = [value for value in iou if value is not None]
    right, labelled = sum(t == p for t, p in pairs), sum(p != 255 for _, p in pairs)
    assert scores.mean_iou == pytest.approx(sum(defined) / len(defined))
    assert scores.pixel_accuracy == pytest.approx(right / len(pairs))
    assert scores.labelled_share == pytest.approx(labelled / len(pairs))
    assert scores.labelled_precision == pytest.approx(ratio(right, labelled))
    assert scores.pixels == len(pairs)


def test_absent_class_is_left_out_and_shown_so() -> None:
    matrix = ConfusionMatrix(CLASSES)
    matrix.add([[0, 0, 1, 1]], [[0, 1, 1, 255]])
    scores = matrix.scores()
    assert scores.iou == (1 / 2, 1 / 3, None, None)
    assert scores.mean_iou == pytest.approx(5 / 12)
    assert (scores.labelled_share, scores.labelled_precision) == (3 / 4, 2 / 3)
    stored = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert stored["iou"] == {"background": 1 / 2, "cat": 1 / 3, "dog": None, "eel": None}
    assert stored["mean_iou"] == scores.mean_iou
    lines = scores.table().splitlines()
    assert lines[0].split() == ["class", "IoU", "precision", "recall"]
    assert lines[2].split() == ["cat", "33.3", "50.0", "50.0"]
    assert lines[3].split() == ["dog", "-", "-", "-"]
    assert lines[5].split() == ["mean", "41.7"]
    assert "labelled 75.0 %" in lines[6]


def test_a_class_predicted_but_not_there_counts_as_zero() -> None:
    matrix = ConfusionMatrix(CLASSES)
    matrix.add([0, 0], [0, 3])
    assert matrix.scores().iou == (1 / 2, None, None, 0.0)


def test_prediction_without_a_label() -> None:
    matrix = ConfusionMatrix(CLASSES)
    matrix.add([0, 1], [255, 255])
    scores = matrix.scores()
    assert scores.labelled_precision is None
    assert (scores.labelled_share, scores.mean_iou) == (0, 0)
    assert "- % of those right" in scores.table()


def test_adding_up_equals_merging() -> None:
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 4, (6, 6)), rng.integers(0, 4, (6, 6))) for _ in range(4)]
    whole, first, second = (ConfusionMatrix(CLASSES) for _ in range(3))
    for index, (truth, prediction) in enumerate(parts):
        whole.add(truth, prediction)
        (first if index < 2 else second).add(truth, prediction)
    first.merge(second)
    assert np.array_equal(first.counts, whole.counts)
    assert whole.counts.dtype == np.int64
    assert ConfusionMatrix(CLASSES, whole.counts.copy()).scores() == whole.scores()
    with pytest.raises(ValueError, match="cannot be merged"):
        first.merge(ConfusionMatrix(CLASSES[:2]))


def test_arguments_are_checked() -> None:
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(ValueError, match="shape"):
        matrix.add(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(DataError, match="class id 4 in the truth, but there are 4"):
        matrix.add([4], [0])
    with pytest.raises(DataError, match="class id 7 in the prediction"):
        matrix.add([0, 0], [0, 7])
    with pytest.raises(DataError, match="class id -1 in the prediction"):
        matrix.add([0], [-1])
    assert matrix.counts.sum() == 0
    for classes in ((), ("a", "a"), tuple(map(str, range(256)))):
        with pytest.raises(ValueError, match="different class names"):
            ConfusionMatrix(classes)
    with pytest.raises(ValueError, match="counts"):
        ConfusionMatrix(CLASSES, np.zeros((4, 4), np.int64))


THRESHOLDS = [0.3, 0.0, 0.5, 1.0, 0.15]
levels = st.sampled_from([0.0, 0.1, 0.15, 0.3, 0.45, 0.5, 0.9, 1.0])


@settings(deadline=None, max_examples=100)
@given(
    images=st.lists(st.tuples(ids, st.permutations([1, 2, 3]), st.integers(0, 3), st.data()), min_size=1, max_size=3)
)
def test_threshold_curve_equals_one_matrix_per_threshold(
    images: list[tuple[Array, list[int], int, st.DataObject]],
) -> None:
    curve = ThresholdCurve(CLASSES, THRESHOLDS)
    plain = [ConfusionMatrix(CLASSES) for _ in THRESHOLDS]
    for truth, order, present, data in images:
        class_ids = order[:present]
        cams = data.draw(hnp.arrays(np.float32, (present, 4, 5), elements=levels.map(np.float32)))
        curve.add(truth, cams, class_ids)
        for threshold, matrix in zip(sorted(THRESHOLDS), plain, strict=True):
            maps = np.full((4, 4, 5), -1, dtype=np.float32)
            maps[0] = threshold
            for class_id, cam in zip(class_ids, cams, strict=True):
                maps[class_id] = cam
            matrix.add(truth, maps.argmax(axis=0))
    for found, expected in zip(curve.matrices(), plain, strict=True):
        assert np.array_equal(found.counts, expected.counts)
    if plain[0].counts.sum():
        expected_scores = [m.scores().mean_iou for m in plain]
        assert curve.scores() == list(zip(sorted(THRESHOLDS), expected_scores, strict=True))


def test_threshold_curves_are_merged() -> None:
    rng = np.random.default_rng(0)
    whole, first, second = (ThresholdCurve(CLASSES, THRESHOLDS) for _ in range(3))
    for part in (first, second):
        truth, cams = rng.integers(0, 4, (5, 5)), rng.random((2, 5, 5))
        part.add(truth, cams, [1, 3])
        whole.add(truth, cams, [1, 3])
    first.merge(second)
    assert first.scores() == whole.scores()
    with pytest.raises(ValueError, match="cannot be merged"):
        first.merge(ThresholdCurve(CLASSES, [0.3]))


def test_threshold_curve_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="at least one threshold"):
        ThresholdCurve(CLASSES, [])
    curve = ThresholdCurve(CLASSES, [0.3])
    with pytest.raises(ValueError, match="maps of shape"):
        curve.add(np.zeros((2, 2)), np.zeros((1, 2, 3)), [1])
    with pytest.raises(ValueError, match="maps of shape"):
        curve.add(np.zeros((2, 2)), np.zeros((1, 2, 2)), [1, 2])
    with pytest.raises(DataError, match="in the tags"):
        curve.add(np.zeros((2, 2)), np.zeros((1, 2, 2)), [4])
    with pytest.raises(DataError, match="in the tags"):
        curve.add(np.zeros((2, 2)), np.zeros((1, 2, 2)), [0])
    with pytest.raises(DataError, match="in the truth"):
        curve.add(np.full((2, 2), 9), np.zeros((1, 2, 2)), [1])


def write(folder: Path, **masks: list[list[int]]) -> Path:
    for name, mask in masks.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, np.array(mask, dtype=np.uint8))
    return folder


def test_folders_are_paired_by_path_or_name(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", a=[[0, 1]], sub__b=[[1, 255]], sub__c=[[2, 2]])
    predictions = write(tmp_path / "predictions", a=[[0, 0]], sub__b=[[1, 2]], elsewhere__c=[[2, 0]], unasked=[[9, 9]])
    scores = evaluate_folders(predictions, truth, CLASSES)
    assert scores.classes == CLASSES
    assert scores.iou == (1 / 3, 1 / 2, 1 / 2, None)
    numbered = evaluate_folders(str(predictions), str(truth))
    assert numbered.classes == ("background", "class 1", "class 2")
    assert numbered.iou == scores.iou[:3]
    assert numbered.mean_iou == scores.mean_iou
    some = evaluate_folders(predictions, truth, CLASSES, ids=["sub/b"])
    assert (some.pixels, some.mean_iou) == (1, 1)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", **{name: [[0, 1]] for name in "abcde"})
    predictions = write(tmp_path / "predictions", a=[[0, 1]])
    with pytest.raises(DataError, match=r"no prediction for 4 of 5 true masks: b, c, d, \.\.\."):
        evaluate_folders(predictions, truth)
    write(predictions, **{name: [[0, 1]] for name in "bcde"})
    assert evaluate_folders(predictions, truth).mean_iou == 1
    with pytest.raises(DataError, match=r"a\.png against .*a\.png: class id 1 in the truth"):
        evaluate_folders(predictions, truth, ["background"])
    write(predictions, b=[[0, 1, 1]])
    with pytest.raises(DataError, match=r"predictions/b\.png: size \(1, 3\), but .*truth/b\.png has \(1, 2\)"):
        evaluate_folders(predictions, truth)
    (predictions / "b.png").unlink()
    write(predictions, x__b=[[0, 1]], y__b=[[0, 1]])
    with pytest.raises(DataError, match="several predictions are called so"):
        evaluate_folders(predictions, truth)
    with pytest.raises(DataError, match=r"no true mask z\.png"):
        evaluate_folders(predictions, truth, ids=["z"])
    with pytest.raises(DataError, match="there is no such folder"):
        evaluate_folders(tmp_path / "gone", truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no PNG masks"):
        evaluate_folders(predictions, tmp_path / "empty")
    Image.new("RGB", (2, 1)).save(predictions / "b.png")
    with pytest.raises(DataError, match="palette PNG"):
        evaluate_folders(predictions, truth)


def test_unlabelled_predictions_and_the_highest_id_survive_numbering(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", a=[[0, 254, 3]])
    predictions = write(tmp_path / "predictions", a=[[0, 255, 3]])
    scores = evaluate_folders(predictions, truth)
    assert len(scores.classes) == 255
    assert scores.iou[254] == 0
    assert scores.labelled_share == pytest.approx(2 / 3)
