import dataclasses
from typing import Any

import pytest

from tag2mask.errors import SettingsError
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.difference.difference_settings import DynamicSegmenterSettings
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.views import ViewSettings

FROZEN = BackboneSettings(frozen_until="blocks.1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "dice"}, "dice.*cross_entropy, balanced_seed"),
        ({"label_stride": 0}, "label_stride: 0"),
        ({"cache_features": True, "views": ViewSettings(whole=True)}, "frozen_until"),
        ({"cache_features": True, "backbone": FROZEN}, "views.whole"),
        ({"cache_features": True, "backbone": FROZEN, "views": ViewSettings(whole=True, colour=0.1)}, "colour"),
        ({"cache_features": True, "backbone": FROZEN, "views": ViewSettings(whole=True), "scales": (1, 0.5)}, "scale"),
        ({"scales": (0.5, 1.0)}, "scales"),
        ({"scales": ()}, "scales"),
    ],
)
def test_settings_that_do_not_go_together(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SegmenterSettings(**wrong)


def test_the_bound_has_the_same_network_and_a_loss_for_whole_masks() -> None:
    given = SegmenterSettings(label_stride=8, scales=(1.0, 0.5), loss="balanced_seed")
    assert SegmenterSettings.on_whole_masks(given) == dataclasses.replace(given, loss="cross_entropy")
    without = DynamicSegmenterSettings(label_stride=2)
    bound = SegmenterSettings.on_whole_masks(without)
    assert (bound.head, bound.label_stride, bound.scales) == (without.head, 2, (1.0,))
