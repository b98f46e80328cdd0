import pytest
import torch

from tag2mask.errors import SettingsError
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.refine.difference import refine_pair
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings, PairSettings

BACKBONE = BackboneSettings(weights="none", block="blocks.2", frozen_until="blocks.1")


@pytest.mark.parametrize(
    ("settings", "low"),
    [
        (DifferenceNetSettings(), "stem"),
        (DifferenceNetSettings(low_block="blocks.1"), "blocks.1"),
        (DifferenceNetSettings(low_level=False), ""),
    ],
)
def test_the_net_fits_the_segmenter(settings: DifferenceNetSettings, low: str) -> None:
    assert settings.low(BACKBONE, cached=True) == low
    network = Segmenter(BACKBONE.create(0), 5, HeadSettings(kind="dilated", width=6, dilations=(2,)))
    net = settings.create(network, low)
    channels = {"": 0, "stem": 32, "blocks.1": 24}[low]
    assert net.arguments == {"high": 6, "low": channels, "classes": 5, "width": 256, "frozen_norm": False}
    levels = network.eval().levels(torch.randn(1, 3, 64, 64), early=low or None)
    assert net.shared(levels.hidden, levels.early).shape[1] == 256


def test_kept_features_are_of_frozen_blocks() -> None:
    settings = DifferenceNetSettings(low_block="blocks.2")
    assert settings.low(BACKBONE) == "blocks.2"
    with pytest.raises(SettingsError, match=r"low_block: 'blocks\.2' is trained.*stem, blocks\.0, blocks\.1$"):
        settings.low(BACKBONE, cached=True)
    with pytest.raises(SettingsError, match=r"layer1.*stem"):
        DifferenceNetSettings(low_block="layer1").low(BACKBONE)


def test_a_head_of_several_branches_is_refused() -> None:
    network = Segmenter(BACKBONE.create(0), 3, HeadSettings(kind="aspp", width=0, dilations=(1, 2)))
    with pytest.raises(SettingsError, match="aspp"):
        DifferenceNetSettings().create(network, "")


def test_a_net_has_channels() -> None:
    with pytest.raises(SettingsError, match=r"difference\.width: 0"):
        DifferenceNetSettings(width=0)


def test_impossible_shares() -> None:
    with pytest.raises(SettingsError, match=r"lost_below: 1\.5"):
        PairSettings(lost_below=1.5)


def test_every_setting_of_a_pair_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randint(0, 3, (2, 1, 20, 20), generator=generator)
    after[after == 2] = torch.where(torch.rand(int((after == 2).sum()), generator=generator) < 0.6, 0, 2)
    d = torch.randn(2, 1, 20, 20, generator=generator)
    present = torch.tensor([[True, True, True]])
    own = {"bias": 0.05, "background_bias": 0.2, "class_bias": 1.0, "share": 0.7}
    refined = PairSettings(0.05, 0.2, lost_below=0.7).refine(before, after, *d, present)
    assert torch.equal(refined, refine_pair(before, after, *d, present, **own))
    for other in (
        PairSettings(0.9, 0.2, lost_below=0.7),
        PairSettings(0.05, 0.8, lost_below=0.7),
        PairSettings(0.05, 0.2, class_terms=False, lost_below=0.7),
        PairSettings(0.05, 0.2, lost_below=0.1),
    ):
        assert not torch.equal(other.refine(before, after, *d, present), refined)
