import io

import numpy as np
import pytest
import torch

from tag2mask.data.images import image_size
from tag2mask.data.layers import HeatMap
from tag2mask.data.resizing import resize_scores
from tag2mask.engine.stage import map_threads
from tag2mask.errors import SettingsError
from tag2mask.stages.patterns.pattern_maps import PatternMaps, pattern_maps
from tests.stages.conftest import Finished, run_with_inputs
from tests.stages.patterns.test_class_patterns import patterns_at


def maps_at(finished: Finished, block: str = "blocks.2") -> PatternMaps:
    stage = pattern_maps(patterns_at(finished), block)
    run_with_inputs(stage, finished.env)
    return stage


def maps_of(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an artifact's file."""
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def test_maps_are_the_tagged_classes_projections(finished: Finished) -> None:
    env, stage = finished.env, maps_at(finished)
    patterns = stage.patterns.load(env)
    counts = set()
    for sample in stage.samples(env):
        assert sample.mask is None
        found = stage.load(env, sample.id)
        counts.add(len(sample.tags))
        assert found.class_ids == sample.tags
        assert found.size == image_size(sample.image)
        assert found.at_size().shape == (len(sample.tags), *found.size)
        if sample.tags:
            (features,) = stage.patterns.open(env, ("blocks.2",))(sample)
            expected = torch.stack([patterns.project("blocks.2", features, tag) for tag in sample.tags])
            torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-4)
            assert torch.equal(found.at_size(), resize_scores(found.maps[None], found.size)[0])
    assert counts == {0, 1, 2}


def test_threads_do_not_matter(finished: Finished) -> None:
    env, stage, files = finished.env, maps_at(finished), {}
    make = stage.open(env)
    map_threads(lambda sample: files.update({sample.id: make(sample)}), list(stage.samples(env)), 3, lambda _: None)
    assert files == {image_id: stage.path(env, image_id).read_bytes() for image_id in files}


def test_large_projections_stay_finite(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    env, stage = finished.env, maps_at(finished)
    sample = stage.samples(env)[0]
    read = stage.patterns.open(env, ("blocks.2",))
    monkeypatch.setattr(stage.patterns, "open", lambda env, blocks: lambda sample: [1e9 * read(sample)[0]])
    assert np.isfinite(maps_of(stage.open(env)(sample))["maps"]).all()


def test_heat_maps_turn_half_way_where_q_changes_its_sign(finished: Finished) -> None:
    env, stage = finished.env, maps_at(finished)
    for sample in stage.samples(env):
        found, shown = stage.load(env, sample.id), stage.layers(env, sample.id)
        names = [env.dataset.classes[tag - 1] for tag in sample.tags]
        assert list(shown) == ["", *(names if len(names) > 1 else [])]
        layer = shown[""]
        assert isinstance(layer, HeatMap)
        if not sample.tags:
            assert layer.values.max() == 0
            continue
        assert ((layer.values > 0.5) == (found.maps > 0).any(0).numpy()).all()
        assert layer.values.min() >= 0
        assert layer.values.max() <= 1


def test_a_class_without_a_pattern_has_no_map(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    env, stage = finished.env, maps_at(finished)
    patterns = stage.patterns.load(env)
    patterns.seen[1] = False
    monkeypatch.setattr(stage.patterns, "load", lambda env: patterns)
    both = next(sample for sample in stage.samples(env) if sample.tags == (1, 2))
    made = maps_of(stage.open(env)(both))
    assert made["class_ids"].tolist() == [1]
    assert len(made["maps"]) == 1


def test_a_block_that_was_not_counted_is_told(finished: Finished) -> None:
    with pytest.raises(SettingsError, match=r"blocks\.3.*blocks\.4, blocks\.2"):
        pattern_maps(patterns_at(finished), "blocks.3")


def test_cost_is_estimated(finished: Finished) -> None:
    assert maps_at(finished).estimate(finished.env).seconds > 0
