"""The methods by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tag2mask.engine.plan import Plan
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.methods.aalr import AalrSettings, aalr
from tag2mask.methods.cam import CamSettings, cam
from tag2mask.methods.dcp import DcpSettings, dcp
from tag2mask.methods.dsrg import DsrgSettings, dsrg
from tag2mask.methods.masking import MaskingSettings, masking
from tag2mask.methods.psa import PsaSettings, psa
from tag2mask.methods.rrm import RrmSettings, rrm
from tag2mask.methods.sec import SecSettings, sec
from tag2mask.methods.ssdd import SsddSettings, ssdd
from tag2mask.methods.superpixel import SuperpixelMethodSettings, superpixel
from tag2mask.methods.supervised import SupervisedSettings, supervised


@dataclass(frozen=True)
class Method:
    """A published system.

    Args:
        name: as the command line knows it.
        title: one line on what it does.
        source: where it comes from.
        settings: its settings' dataclass; every method's has `segmenter` and `prediction`.
        build: makes its graph of stages.
        tags_only: whether it sees nothing but images and tags in training.
        sees_masks: in a few words, whether anything that it needs has seen masks, of these or other images.
    """

    name: str
    title: str
    source: str
    settings: type[Any]
    build: Callable[[Any], Plan]
    tags_only: bool = True
    sees_masks: str = "no"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "cam",
            "class activation maps, thresholds and dense CRF as pseudo-labels",
            "Zhou et al., CVPR 2016; Kim, dissertation 2022, chapter 1",
            CamSettings,
            cam,
        ),
        Method(
            "sec",
            "seed, expand and constrain: sparse seeds, weighted rank pooling and a loss that follows edges",
            "Kolesnikov and Lampert, ECCV 2016",
            SecSettings,
            sec,
        ),
        Method(
            "dsrg",
            "seeds that grow over what the segmenter is sure of, at every training step; then retraining",
            "Huang et al., CVPR 2018",
            DsrgSettings,
            dsrg,
            sees_masks="no, but its saliency detector did",
        ),
        Method(
            "psa",
            "CAMs that walk over affinities of neighbouring pixels, which a network learns from the CAMs",
            "Ahn and Kwak, CVPR 2018",
            PsaSettings,
            psa,
        ),
        Method(
            "ssdd",
            "masks before and after a CRF made one by what can be predicted of their difference, in training too",
            "Shimoda and Yanai, ICCV 2019",
            SsddSettings,
            ssdd,
        ),
        Method(
            "dcp",
            "class patterns: the direction in which features of a class's photographs vary most, signed by the CAMs",
            "Luo and Yang, AAAI 2020",
            DcpSettings,
            dcp,
        ),
        Method(
            "masking",
            "saliency for what is background, and a classifier that must not find what the segmenter has masked",
            "Kim, dissertation 2022, chapter 2",
            MaskingSettings,
            masking,
            sees_masks="no, but its saliency detector did",
        ),
        Method(
            "superpixel",
            "seeds that grow over superpixels discovered in a self-supervised transformer",
            "Kim, dissertation 2022, chapter 3",
            SuperpixelMethodSettings,
            superpixel,
        ),
        Method(
            "rrm",
            "one network in one stage: its classification branch labels reliable pixels for the other at every step",
            "Zhang et al., AAAI 2020",
            RrmSettings,
            rrm,
        ),
        Method(
            "aalr",
            "rrm with an affinity loss that weighs confidence, and labels reassigned by embeddings (our own reading)",
            "Zhang et al., ACM MM 2021",
            AalrSettings,
            aalr,
        ),
        Method(
            "supervised",
            "the same segmenter on true masks: the upper bound (needs masks)",
            "Chen et al., DeepLab, TPAMI 2018",
            SupervisedSettings,
            supervised,
            tags_only=False,
            sees_masks="yes",
        ),
    )
}

DEFAULT_METHOD = "superpixel"
"""The method of a run that names none."""


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        SettingsError: there is none, with the choices.
    """
    if name not in METHODS:
        raise SettingsError(unknown_choice("method", name, METHODS))
    return METHODS[name]


def methods_table(pages: str) -> str:
    """The methods as a Markdown table, for README and the documentation.

    Args:
        pages: path of the folder of their pages, as links have it.
    """
    rows = [f"| [`{one.name}`]({pages}/{one.name}.md) | {one.title} | {one.sees_masks} |" for one in METHODS.values()]
    return "\n".join(["| method | what it does | sees masks? |", "|---|---|---|", *rows])
