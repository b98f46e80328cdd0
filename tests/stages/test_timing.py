import pytest

from tag2mask.networks.inference import ScaleSettings
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.timing import seconds_per_image
from tests.stages.conftest import Finished

EARLY = BackboneSettings(weights="none", block="blocks.0")


def test_more_pixels_take_longer(finished: Finished) -> None:
    few, many = (
        seconds_per_image(EARLY, ScaleSettings(long_side=side), finished.env, output_stride=16) for side in (32, 640)
    )
    assert 0 < few < many


def test_weights_need_not_be_there(finished: Finished) -> None:
    """An estimate before a download: the file is not opened."""
    missing = BackboneSettings(weights="/nowhere/weights.safetensors", block="stem")
    assert seconds_per_image(missing, ScaleSettings(long_side=32), finished.env, output_stride=32) > 0


def test_the_stride_is_the_one_asked_for(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    create = BackboneSettings.create
    monkeypatch.setattr(BackboneSettings, "create", lambda self, *a: built.append(self) or create(self, *a))
    seconds_per_image(EARLY, ScaleSettings(long_side=32), finished.env, output_stride=8)
    assert [settings.output_stride for settings in built] == [8]
