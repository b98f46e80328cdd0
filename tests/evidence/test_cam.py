import pytest
import torch
import torch.nn.functional as F

from tag2mask.evidence.cam import background_power, cam_labels, merge_score_maps, with_background_power


def test_a_map_and_its_mirror_image_fall_on_each_other() -> None:
    scores = torch.tensor([[[1.0, 2.0, -3.0, 0.0]]])
    both = torch.stack([scores, scores.flip(-1)])
    merged = merge_score_maps([both], (1, 4))
    assert torch.allclose(merged, torch.tensor([[[0.5, 1.0, 0.0, 0.0]]]))


@pytest.mark.parametrize("rule", ["sum", "max"])
def test_equals_the_definition(rule: str) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 8, 9), torch.randn(1, 3, 2, 2)]
    parts = []
    for scores in maps:
        views = [scores[0]] + ([scores[1].flip(-1)] if len(scores) == 2 else [])
        for view in views:
            parts.append(F.interpolate(view.clamp(min=0)[None], size=(7, 6), mode="bilinear")[0])
    stacked = torch.stack(parts)
    expected = stacked.sum(0) if rule == "sum" else stacked.max(0).values
    expected = expected / expected.amax((1, 2), keepdim=True)
    assert torch.allclose(merge_score_maps(maps, (7, 6), rule), expected, atol=1e-6)  # type: ignore[arg-type]


def test_a_class_with_no_positive_score_is_zero_not_nan() -> None:
    merged = merge_score_maps([torch.full((2, 1, 3, 3), -1.0)], (3, 3))
    assert not merged.any()
    with pytest.raises(ValueError, match="at least one"):
        merge_score_maps([], (3, 3))


def test_thresholds() -> None:
    cams = torch.tensor([[[0.9, 0.30, 0.05, 0.1, 0.0]], [[0.2, 0.31, 0.02, 0.5, 0.1]]])
    labels = cam_labels(cams, [4, 7], foreground_threshold=0.3, background_threshold=0.1)
    assert labels.tolist() == [[4, 7, 0, 7, 0]]
    between = cam_labels(cams, [4, 7], foreground_threshold=0.5, background_threshold=0.1)
    assert between.tolist() == [[4, 255, 0, 255, 0]]


def test_equal_thresholds_label_every_pixel() -> None:
    torch.manual_seed(0)
    cams = torch.rand(3, 20, 20)
    cams[0, 0, 0] = 0.2
    labels = cam_labels(cams, [1, 2, 3], foreground_threshold=0.2, background_threshold=0.2)
    assert not (labels == 255).any()


def test_without_classes_everything_is_background() -> None:
    assert not cam_labels(torch.zeros(0, 3, 4), [], foreground_threshold=0.2, background_threshold=0.2).any()
    assert torch.equal(background_power(torch.zeros(0, 3, 4), 4), torch.ones(3, 4))


def test_thresholds_the_wrong_way_round() -> None:
    with pytest.raises(ValueError, match="above"):
        cam_labels(torch.zeros(1, 2, 2), [1], foreground_threshold=0.1, background_threshold=0.2)


def test_background_power() -> None:
    cams = torch.tensor([[[0.5, 1.0]], [[0.2, 0.0]]])
    assert torch.allclose(background_power(cams, 4), torch.tensor([[0.5**4, 0.0]]))


def test_background_stands_in_front_of_the_cams_it_is_made_of() -> None:
    cams = torch.tensor([[[0.0, 0.5, 1.0]], [[0.25, 0.0, 0.0]]])
    found = with_background_power(cams, 2.0)
    assert found[0].tolist() == [[0.5625, 0.25, 0.0]]
    assert torch.equal(found[1:], cams)
    assert with_background_power(cams[:0], 2.0).tolist() == [[[1.0, 1.0, 1.0]]]
