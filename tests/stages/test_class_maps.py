import io

import numpy as np
import torch

from tag2mask.stages.class_maps import ClassMaps, encode_maps, largest_class, sum_to_one


def test_the_largest_score_wins_and_background_wins_a_tie() -> None:
    scores = torch.tensor([[[0.4, 0.2, 0.5]], [[0.3, 0.1, 0.5]], [[0.3, 0.7, 0.0]]])
    found = largest_class(scores, (0, 4, 9))
    assert found.dtype == torch.uint8
    assert found.tolist() == [[0, 9, 0]]


def test_masks_are_made_at_the_photographs_size() -> None:
    maps = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert ClassMaps((0, 3), maps, (2, 4)).largest().tolist() == [[0, 0, 3, 3]] * 2


def test_sums_are_one_and_nothing_is_divided_by_zero() -> None:
    found = sum_to_one(torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]]))
    assert found.tolist() == [[[0.25, 0.0]], [[0.75, 0.0]]]


def test_a_file_holds_ids_size_and_maps_in_half_precision() -> None:
    content = encode_maps((0, 2), (30, 40), one=torch.rand(2, 3, 4), two=torch.zeros(2, 3, 4))
    assert content == encode_maps((0, 2), (30, 40), **_again(content))
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        assert set(found) == {"class_ids", "size", "one", "two"}
        assert (found["class_ids"].tolist(), found["size"].tolist()) == ([0, 2], [30, 40])
        assert found["one"].dtype == np.float16


def _again(content: bytes) -> dict[str, torch.Tensor]:
    with np.load(io.BytesIO(content)) as found:
        return {name: torch.from_numpy(found[name]) for name in ("one", "two")}
