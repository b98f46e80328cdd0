import dataclasses
from functools import lru_cache
from typing import Any

import pytest

from tag2mask.engine.plan import Plan
from tag2mask.errors import SettingsError
from tag2mask.methods.ssdd import SsddSettings, ssdd

MASKS = ["classifier", "cams", "confident_maps", "affinity_net", "walked_maps", "walked_labels", "crf_labels"]
STATIC = ["difference_net", "difference_maps", "difference_seeds"]


@lru_cache  # building the networks takes a second
def chain(stages: Any) -> tuple[Plan, list[str]]:
    plan = ssdd(dataclasses.replace(SsddSettings(), stages=stages))
    alone = dataclasses.replace(plan, results={}, pictures={}, exports={})
    return plan, [stage.name for stage in alone.stages()]


def test_both_parts() -> None:
    plan, names = chain("both")
    assert names == [*MASKS, *STATIC, "segmenter_dynamic", "predictions"]
    assert plan.model.inputs["labels"].name == "difference_seeds"
    assert plan.exports == {"static": plan.results["seeds"].inputs["labels"].inputs["maps"].inputs["nets"]} | {
        "dynamic": plan.model
    }


def test_the_static_part_ends_with_seeds_and_a_plain_segmenter() -> None:
    plan, names = chain("static")
    assert names == [*MASKS, *STATIC, "segmenter", "predictions"]
    assert list(plan.results)[-3:] == ["seeds", "differences", "val"]
    assert list(plan.exports) == ["static"]


def test_the_dynamic_part_alone_starts_from_masks_after_the_crf() -> None:
    plan, names = chain("dynamic")
    assert not {*STATIC} & {*names}
    assert plan.model.inputs["labels"].name == "crf_labels"
    assert "seeds" not in plan.results
    assert list(plan.exports) == ["dynamic"]


def test_columns_are_those_of_the_papers_figure() -> None:
    plan, _ = chain("both")
    columns = plan.pictures["train"]
    assert [stage.name for stage in columns.values()] == [
        "walked_labels",
        "difference_maps",
        "crf_labels",
        "difference_maps",
        "difference_seeds",
        "grown_labels",
    ]
    shown = [stage.shown for stage in columns.values() if stage.name == "difference_maps"]  # type: ignore[attr-defined]
    assert shown == ["before", "after"]


def test_other_parts_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown stages 'sub'; choices: both, static, dynamic"):
        SsddSettings(stages="sub")  # type: ignore[arg-type]
