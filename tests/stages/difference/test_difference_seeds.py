from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tag2mask.data.masks import read_mask
from tag2mask.refine.difference import refine_pair
from tag2mask.stages.difference.difference_maps import DifferenceMaps
from tag2mask.stages.difference.difference_seeds import DifferenceSeeds
from tag2mask.stages.difference.difference_settings import PairSettings
from tests.stages.conftest import FinishedPairs


def test_seeds_are_the_refined_pair_at_the_photographs_size(finished_pairs: FinishedPairs) -> None:
    env, made = finished_pairs.env, finished_pairs.made
    for sample in env.dataset.train.samples:
        before, after = (
            torch.from_numpy(stage.load(env, sample.id))[None].long() for stage in (made.net.before, made.net.after)
        )
        d = F.interpolate(made.maps.load(env, sample.id)[None], before.shape[1:], mode="bilinear")[0]
        present = torch.tensor([[index == 0 or index in sample.tags for index in range(3)]])
        expected = refine_pair(before, after, d[:1], d[1:], present, bias=0.1, background_bias=0.1)
        np.testing.assert_array_equal(made.seeds.load(env, sample.id), expected[0].numpy())
        assert set(np.unique(made.seeds.load(env, sample.id)).tolist()) <= {0, *sample.tags}


def seeds(pairs: FinishedPairs, monkeypatch: pytest.MonkeyPatch, settings: PairSettings, d: float) -> DifferenceSeeds:
    """Seeds of a network that finds the change `d` more likely from the mask before than from the one after."""
    logits = torch.logit(torch.tensor([0.5 + d / 2, 0.5 - d / 2]))[:, None, None].expand(2, 5, 7)
    monkeypatch.setattr(DifferenceMaps, "load", lambda *_: logits)
    return DifferenceSeeds(pairs.made.maps, settings)


@pytest.mark.parametrize(
    ("d", "settings", "grown", "lost"),
    [
        (0.3, PairSettings(), "after", "before"),  # growing is predictable; a class that is lost stays
        (0.3, PairSettings(class_terms=False), "after", "after"),
        (0.3, PairSettings(lost_below=0.0), "after", "after"),
        (-0.05, PairSettings(), "before", "before"),  # background gives up its bias where the box grows
        (-0.05, PairSettings(background_bias=0.0, class_terms=False), "after", "after"),
        (-0.15, PairSettings(background_bias=0.0, class_terms=False), "before", "before"),
    ],
)
def test_biases_decide(
    finished_pairs: FinishedPairs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    d: float,
    settings: PairSettings,
    grown: str,
    lost: str,
) -> None:
    env = finished_pairs.env
    stage = seeds(finished_pairs, monkeypatch, settings, d)
    make = stage.open(env)
    for sample in stage.samples(env):
        (tmp_path / "mask.png").write_bytes(make(sample))
        expected = {"before": stage.before, "after": stage.after}[lost if sample.id == "shape_04" else grown]
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), expected.load(env, sample.id))


def test_other_settings_are_other_seeds(finished_pairs: FinishedPairs) -> None:
    env, made = finished_pairs.env, finished_pairs.made
    assert DifferenceSeeds(made.maps, PairSettings(0.4, 0.0)).fingerprint(env) != made.seeds.fingerprint(env)
    assert DifferenceSeeds(made.maps.showing("after"), PairSettings()).fingerprint(env) == made.seeds.fingerprint(env)
    assert made.seeds.estimate(env).seconds > 0
