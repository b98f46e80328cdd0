"""`tag2mask study superpixels` on demo scenes with the pretrained networks."""

import json
from pathlib import Path

import cv2
import pytest

from tag2mask.cli import main
from tag2mask.data.demo import write_demo_data

CONFIG = """\
superpixels: {tau: 0.6, long_side: 336, crf: {iterations: 5}}
features:
  RGB: {kind: rgb, long_side: 336}
  CNN: {kind: features, long_side: 224, backbone: {name: tf_efficientnet_lite0, output_stride: 8, weights: package}}
  lost: {kind: keys, backbone: {name: vit_base_patch8_224.dino, output_stride: 8, weights: package}}
match_photographs: 2
lsc_sizes: [100]
iterations: 5
pictures: 2
"""


def test_the_study_of_drawn_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demo_data(tmp_path / "scenes", train=3, val=1)
    (tmp_path / "study.yaml").write_text(CONFIG)
    words = ["study", "superpixels", "--data", str(tmp_path / "scenes"), "--workspace", str(tmp_path / "workspace")]
    words += ["--out", str(tmp_path / "out"), "--config", str(tmp_path / "study.yaml"), "--photographs", "2"]
    assert main([*words, "--tau", "0.3", "0.6", "--device", "cpu", "--threads", "1"]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out

    tables = json.loads((tmp_path / "out" / "study.json").read_text())["tables"]
    algorithms, features, rules = tables.values()
    ours = {row["setting"]: row["scores"]["labelled"] for row in algorithms if row["name"] == "Ours"}
    assert ours["tau 0.3"]["superpixels"] < ours["tau 0.6"]["superpixels"]
    assert ours["tau 0.6"]["achievable_accuracy"] > 0.9
    # The transformer's keys group objects as colours do not.
    (rgb,) = (row["scores"]["labelled"] for row in features if row["name"] == "RGB")
    assert rgb["achievable_accuracy"] < ours["tau 0.6"]["achievable_accuracy"]
    (lost,) = (row for row in features if row["name"] == "lost")
    assert lost["note"].startswith("not run: weights (no installed package carries weights")
    assert {row["name"] for row in rules} == {"Ours", "Highest degree first", "Ncut"}
    if hasattr(cv2, "ximgproc"):
        assert sum(row["name"] == "SLIC" for row in algorithms) == 4
    assert (tmp_path / "out" / "report.html").stat().st_size > 1e5
