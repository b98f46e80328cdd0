import pytest
import torch

from tag2mask.evidence.saliency import refine_saliency

# Eq. 2.6 at tau_1 = 0.75 and tau_2 = 0.25, which floats hold exactly: B, O, R, and R by the two other ways.
CASES = [
    (0.0, False, 0, 0, 0),
    (0.25, False, 0, 0, 0),
    (0.5, False, 0, 0, 0),
    (0.75, False, 0, 0, 0),
    (0.751, False, 1, 1, 1),
    (1.0, False, 1, 1, 1),
    (0.0, True, 255, 0, 1),
    (0.249, True, 255, 0, 1),
    (0.25, True, 1, 1, 1),
    (0.5, True, 1, 1, 1),
    (0.75, True, 1, 1, 1),
    (1.0, True, 1, 1, 1),
]


@pytest.mark.parametrize("column", [2, 3, 4])
def test_all_cases(column: int) -> None:
    low = ("unlabelled", "background", "keep")[column - 2]
    cam = torch.tensor([[case[0] for case in CASES]])
    salient = torch.tensor([[case[1] for case in CASES]])
    found = refine_saliency(cam, salient, foreground_above=0.75, background_below=0.25, low=low)  # type: ignore[arg-type]
    assert found.dtype == torch.uint8
    assert found.tolist() == [[case[column] for case in CASES]]
    assert salient.tolist() == [[case[1] for case in CASES]]


def test_the_papers_thresholds_are_the_defaults() -> None:
    cam = torch.tensor([[0.79, 0.81, 0.29, 0.31]])
    assert refine_saliency(cam, torch.tensor([[False, False, True, True]])).tolist() == [[0, 1, 255, 1]]


def test_maps_of_two_photographs() -> None:
    with pytest.raises(ValueError, match=r"a CAM of shape \(2, 3\) and saliency of shape \(3, 2\)"):
        refine_saliency(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool))
