from collections.abc import Callable
from typing import Any

import pytest

from tag2mask.errors import SettingsError
from tag2mask.networks.segmenter import HeadSettings
from tag2mask.stages.single_stage.single_stage_settings import (
    AdaptiveAffinitySettings,
    DenseEnergySettings,
    OnlineCamSettings,
    ReassignSettings,
    SingleStageSettings,
)
from tests.stages.conftest import Finished
from tests.stages.single_stage.parts import stage_of


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"segmenter": {"head": HeadSettings(kind="aspp", dilations=(2, 4))}}, r"segmenter\.head\.kind"),
        ({"online_cams": OnlineCamSettings()}, r"online_cams\.scales.*segmenter\.cache_features"),
        (
            {"affinity": AdaptiveAffinitySettings(), "settings": SingleStageSettings(grid_stride=6)},
            r"single_stage\.grid_stride: 6 must be a multiple of segmenter\.label_stride",
        ),
        ({"dense_energy": DenseEnergySettings()}, r"dense_energy\.stride: 2 must be a multiple"),
    ],
)
def test_settings_that_do_not_go_together(finished: Finished, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        stage_of(finished, made=False, **wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineCamSettings(scales=(0.5,)), r"online_cams\.scales"),
        (lambda: OnlineCamSettings(low_alpha=3, high_alpha=2), "low_alpha <= high_alpha"),
        (lambda: OnlineCamSettings(share=0), r"online_cams\.share"),
        (lambda: OnlineCamSettings(probability_above=1.5), r"online_cams\.probability_above"),
        (lambda: AdaptiveAffinitySettings(groups="three"), r"affinity\.groups.*four, published"),  # type: ignore[arg-type]
        (lambda: AdaptiveAffinitySettings(distance=0), "affinity"),
        (lambda: ReassignSettings(temperature=0), "reassign"),
        (lambda: SingleStageSettings(start="nothing"), r"single_stage\.start"),  # type: ignore[arg-type]
        (lambda: SingleStageSettings(segmentation_from=1), r"single_stage\.segmentation_from"),
        (lambda: SingleStageSettings(dropout=1), r"single_stage\.dropout"),
        (lambda: SingleStageSettings(grid_stride=0), r"single_stage\.grid_stride"),
        (lambda: DenseEnergySettings(stride=0), r"dense_energy\.stride"),
        (lambda: DenseEnergySettings(weight=-1), r"dense_energy\.weight"),
    ],
)
def test_impossible_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()
