import dataclasses
from pathlib import Path

import pytest

from tag2mask.base.settings import canonical
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.errors import SettingsError
from tag2mask.stages.difference.difference_settings import PairSettings
from tag2mask.stages.difference.static_refinement import StaticSettings, static_refinement
from tag2mask.stages.difference.train_dynamic import DynamicSettings
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.seeds import MakeSeeds, RefineSeeds
from tag2mask.stages.train_classifier import TrainClassifier
from tests.builders import file_bytes, shapes_environment, write_shapes
from tests.stages.conftest import Boxes, Finished, FinishedPairs, pair_settings, run_with_inputs


def test_any_two_stages_of_masks_can_be_refined(finished: Finished) -> None:
    """CAMs' thresholds and their CRF, from the trained classifier; crops by chance, features not kept."""
    env = finished.env
    segmenter = pair_settings().segmenter
    views = dataclasses.replace(segmenter.views, whole=False, long_side=(48, 80))
    training = dataclasses.replace(segmenter.training, epochs=1)
    settings = dataclasses.replace(
        pair_settings(),
        start="classifier",
        segmenter=dataclasses.replace(segmenter, views=views, cache_features=False, training=training),
    )
    before, after = finished.stage(MakeSeeds), finished.stage(RefineSeeds)
    made = static_refinement(before, after, finished.stage(TrainClassifier), settings)
    run_with_inputs(made.scores, env)
    evaluation = evaluate_labels(made.seeds)
    evaluation.run(env)
    assert evaluation.headline(env).startswith("mIoU")
    assert made.net.inputs["start"] is finished.stage(TrainClassifier)
    for sample in made.seeds.samples(env):
        refined, first, second = (stage.load(env, sample.id) for stage in (made.seeds, before, after))
        assert ((refined == first) | (refined == second)).all()
        assert set(made.maps.layers(env, sample.id)) == {""}


def test_no_mask_is_opened_but_to_score(finished_pairs: FinishedPairs, tmp_path: Path) -> None:
    write_shapes(tmp_path / "data")
    for mask in (tmp_path / "data" / "SegmentationClass").iterdir():
        mask.write_bytes(b"unreadable")
    env = shapes_environment(tmp_path, threads=1)
    made = static_refinement(Boxes(8), Boxes(12, lost="shape_04"), None, pair_settings())
    run_with_inputs(made.seeds, env)
    for own, theirs in zip(made[:3], finished_pairs.made[:3], strict=True):
        assert "masks" not in own.reads
        assert file_bytes(own.folder(env)) == file_bytes(theirs.folder(finished_pairs.env))


def test_the_biases_of_seeds_train_nothing_anew(finished_pairs: FinishedPairs) -> None:
    env, settings = finished_pairs.env, finished_pairs.settings
    other = dataclasses.replace(settings, seeds=PairSettings(0.4, 0.0, class_terms=False))
    made = static_refinement(Boxes(8), Boxes(12, lost="shape_04"), None, other)
    assert made.maps.complete(env)
    assert not made.seeds.complete(env)
    looser = dataclasses.replace(settings, seeds=PairSettings(lost_below=0.3))
    assert not static_refinement(Boxes(8), Boxes(12, lost="shape_04"), None, looser).net.complete(env)


def test_where_it_starts_from(finished: Finished) -> None:
    with pytest.raises(SettingsError, match=r"static\.start 'scratch'.*classifier, pretrained"):
        StaticSettings(start="scratch")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no classifier"):
        static_refinement(Boxes(8), Boxes(9), None, StaticSettings())
    made = static_refinement(Boxes(8), Boxes(9), finished.stage(TrainClassifier), pair_settings())
    assert "start" not in made.net.inputs
    assert fingerprint(StaticSettings()) != fingerprint(pair_settings())


def test_both_parts_have_one_network_by_default() -> None:
    """The head and the grid of SSDD's code; on a grid of stride 1 DD-Net would take minutes a step."""
    static = canonical(StaticSettings().segmenter)
    assert static == {**canonical(DynamicSettings().segmenter), "loss": "cross_entropy"}
    assert (StaticSettings().segmenter.head.width, StaticSettings().segmenter.label_stride) == (512, 4)
