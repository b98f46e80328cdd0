from pathlib import Path

import numpy as np

import tag2mask
from tag2mask.data.masks import write_mask


def test_evaluate_names_classes(tmp_path: Path) -> None:
    for folder, ids in (("truth", [0, 1, 2, 255]), ("predictions", [0, 1, 1, 1])):
        (tmp_path / folder).mkdir()
        write_mask(tmp_path / folder / "x.png", np.array([ids], dtype=np.uint8))
    scores = tag2mask.evaluate(tmp_path / "predictions", tmp_path / "truth", classes=["cat", "dog"])
    assert scores.classes == ("background", "cat", "dog")
    assert scores.iou == (1.0, 0.5, 0.0)
    assert tag2mask.evaluate(tmp_path / "predictions", tmp_path / "truth").mean_iou == 0.5
