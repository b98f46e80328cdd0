import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tag2mask.data.images import read_image
from tag2mask.data.layers import LabelMap
from tag2mask.engine.stage import map_threads
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.evidence.cam import background_power
from tag2mask.stages.affinity.confident_maps import ConfidenceSettings, confident_maps
from tests.stages.conftest import FinishedMasks

UNTAGGED = "shape_05"


def test_files_do_not_depend_on_how_many_photographs_are_worked_on_at_a_time(finished_masks: FinishedMasks) -> None:
    env, made = finished_masks.env, finished_masks.made
    for stage in (made.confident, made.walked, made.cam_labels, made.walked_labels, made.crf_labels):
        files: dict[str, bytes] = {}
        make, samples = stage.open(env), list(stage.samples(env))
        map_threads(lambda sample: files.update({sample.id: make(sample)}), samples, 3, lambda _: None)  # noqa: B023
        assert files == {sample.id: stage.path(env, sample.id).read_bytes() for sample in samples}


def test_maps_are_the_crfs_of_both_backgrounds(finished_masks: FinishedMasks) -> None:
    env, stage, settings = finished_masks.env, finished_masks.made.confident, finished_masks.settings.confidence
    sample = env.dataset.sample("shape_00")
    cams = finished_masks.made.cams.load(env, sample.id)
    found = stage.load(env, sample.id)
    assert found.class_ids == (0, 1, 2)
    for alpha, maps in ((0.2, found.amplified), (1.0, found.suppressed)):
        maps_at_size = cams.at_size()
        scores = torch.cat([background_power(maps_at_size, alpha)[None], maps_at_size])
        refined = settings.crf.apply(read_image(sample.image), (scores / scores.sum(0)).numpy())
        expected = F.interpolate(torch.from_numpy(refined)[None], (12, 16), mode="area")[0]
        torch.testing.assert_close(maps, expected, atol=1e-3, rtol=0)
        torch.testing.assert_close(maps.sum(0), torch.ones(12, 16), atol=2e-3, rtol=0)
    assert not torch.equal(found.amplified, found.suppressed)


def test_labels_follow_the_rule_cell_by_cell(finished_masks: FinishedMasks) -> None:
    env, stage = finished_masks.env, finished_masks.made.confident
    kinds = set()
    for sample in env.dataset.train:
        maps = stage.load(env, sample.id)
        labels = maps.labels()
        for cell in np.ndindex(*labels.shape):
            strong, weak = (
                maps.class_ids[int(scores[:, *cell].argmax())] for scores in (maps.amplified, maps.suppressed)
            )
            assert labels[cell] == (0 if weak == 0 else strong if strong else 255)
        layer = stage.layers(env, sample.id)[""]
        assert isinstance(layer, LabelMap)
        # A pixel shows the cell under its centre.
        rows, columns = (
            ((np.arange(side) + 0.5) * cells / side).astype(int)
            for side, cells in zip(maps.size, labels.shape, strict=True)
        )
        assert np.array_equal(layer.ids, labels.numpy()[rows[:, None], columns])
        kinds |= set(labels.unique().tolist())
    assert kinds > {0, 255}
    assert kinds <= {0, 1, 2, 255}


def test_a_photograph_without_tags_is_background(finished_masks: FinishedMasks) -> None:
    maps = finished_masks.made.confident.load(finished_masks.env, UNTAGGED)
    assert maps.class_ids == (0,)
    assert not maps.labels().any()


def test_masks_are_not_read(finished_masks: FinishedMasks) -> None:
    for stage in finished_masks.made:
        assert "masks" not in stage.reads
        assert all(sample.mask is None for sample in stage.samples(finished_masks.env))


def test_a_missing_file_is_told(finished_masks: FinishedMasks) -> None:
    twin = confident_maps(finished_masks.made.cams, ConfidenceSettings(1.0, 3.0))
    with pytest.raises(WorkspaceError):
        twin.load(finished_masks.env, "shape_00")


def test_estimates(finished_masks: FinishedMasks) -> None:
    for stage in finished_masks.made[2:]:
        assert stage.estimate(finished_masks.env).seconds > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"background_low_alpha": 0.0}, "background_low_alpha"),
        ({"background_low_alpha": 5.0, "background_high_alpha": 4.0}, "background_low_alpha <= background_high_alpha"),
        ({"map_stride": 0}, "map_stride"),
    ],
)
def test_impossible_settings(wrong: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ConfidenceSettings(**wrong)
