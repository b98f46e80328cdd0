import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.engine.environment import Environment
from tag2mask.stages.difference.difference_evaluation import DifferenceEvaluation
from tag2mask.stages.difference.static_refinement import static_refinement
from tests.builders import shapes_environment, write_shapes
from tests.stages.conftest import Boxes, FinishedPairs, pair_settings, run_with_inputs


def test_figures_are_counts_of_pixels(finished_pairs: FinishedPairs) -> None:
    env, made = finished_pairs.env, finished_pairs.made
    pooled: dict[str, list[np.ndarray]] = {name: [] for name in ("before", "after", "refined", "truth", "d", "e")}
    for sample in env.dataset.train.samples:
        truth = np.asarray(Image.open(env.dataset.root / "SegmentationClass" / f"{sample.id}.png"))
        pooled["truth"].append(truth.ravel())
        for name, stage in (("before", made.net.before), ("after", made.net.after), ("refined", made.seeds)):
            pooled[name].append(stage.load(env, sample.id).ravel())
        for name, logits in zip("de", made.maps.at_size(env, sample.id, truth.shape), strict=True):
            pooled[name].append(1 / (1 + np.exp(-logits.double().numpy().ravel())))
    before, after, refined, truth, d, e = (np.concatenate(pooled[name]) for name in pooled)
    differs, known = before != after, truth != 255
    figures = made.scores.metrics(env)
    assert figures["differing_share"] == pytest.approx(differs.mean())
    assert figures["after_taken_share"] == pytest.approx((refined == after)[differs].mean())
    for name, probabilities in (("before", d), ("after", e)):
        right = ((probabilities[differs] >= 0.5).mean(), (probabilities[~differs] < 0.5).mean())
        assert figures["maps"][name] == pytest.approx(
            {
                "right_where_differing": right[0],
                "right_where_agreeing": right[1],
                "balanced_accuracy": sum(right) / 2,
                "mean_where_differing": probabilities[differs].mean(),
                "mean_where_agreeing": probabilities[~differs].mean(),
            },
            rel=1e-4,
        )
    for name, mask in (("before", before), ("after", after)):
        changed = (refined != mask) & known
        better, worse = (refined == truth)[changed].mean(), (mask == truth)[changed].mean()
        assert figures["changes"][name] == pytest.approx(
            {"changed_share": changed.mean(), "better": better, "worse": worse, "neither": 1 - better - worse}, abs=1e-6
        )
        assert changed.any()


def test_figures_are_told(finished_pairs: FinishedPairs) -> None:
    env, scores = finished_pairs.env, finished_pairs.made.scores
    share = 100 * scores.metrics(env)["differing_share"]
    assert scores.headline(env).startswith(f"the masks differ on {share:.1f} % of the pixels")
    lines = scores.details(env)
    assert [line.partition(":")[0] for line in lines] == [
        "d told from the mask before",
        "d told from the mask after",
        "changed from the mask before",
        "changed from the mask after",
    ]
    assert scores.estimate(env).seconds > 0


def made_of(env: Environment, after: Boxes) -> dict:
    settings = pair_settings()
    segmenter = dataclasses.replace(settings.segmenter, cache_features=False)
    scores = static_refinement(Boxes(8), after, None, dataclasses.replace(settings, segmenter=segmenter)).scores
    run_with_inputs(scores, env)
    assert json.loads((scores.folder(env) / "result.json").read_text()) == scores.metrics(env)
    assert isinstance(scores, DifferenceEvaluation)
    assert "-" in scores.headline(env) + scores.details(env)[-1]
    return scores.metrics(env)


def test_without_truth_or_differences_there_are_no_verdicts(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", masks=False, train=3, val=1)
    env = shapes_environment(tmp_path, threads=1)
    assert set(made_of(env, Boxes(10))["changes"]["after"].values()) == {None}
    same = made_of(env, Boxes(8))
    assert same["differing_share"] == 0
    assert same["after_taken_share"] is None
    assert same["maps"]["before"]["right_where_differing"] is None
    assert same["maps"]["before"]["balanced_accuracy"] == same["maps"]["before"]["right_where_agreeing"]
