"""Stages whose artifact is one mask per image."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.images import image_size
from tag2mask.data.layers import LabelMap, MapLayer
from tag2mask.data.masks import encode_mask, read_mask
from tag2mask.data.samples import Sample
from tag2mask.data.truth import read_true_mask
from tag2mask.data.view import LABELS, MapKind
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import PerImageStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import DataError
from tag2mask.refine.dense_crf import label_probabilities
from tag2mask.stages.saliency_used import saliency_source, saliency_used

CODE = Code("masks")


class LabelStage(PerImageStage):
    """One palette PNG per image: class ids, 255 unlabelled."""

    suffix = ".png"
    map_kind: ClassVar[MapKind] = LABELS

    def how(self) -> str:
        """Note on how the masks were made, for whoever reads their score; empty where the stage's name says it all.

        Saliency that went into them is always told: its maker learnt from masks of other data.
        """
        return f" ({saliency_used(self)})" if saliency_source(self) else ""

    def load(self, env: Environment, image_id: str) -> npt.NDArray[np.uint8]:
        """The mask of one image, uint8 (H, W).

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        path = self.path(env, image_id)
        with reading_artifact(path, self.folder(env)):
            return read_mask(path)

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        return {"": LabelMap(self.load(env, image_id))}


def encode_labels(sample: Sample, labels: npt.NDArray[np.uint8]) -> bytes:
    """The PNG of a mask; masks of tagged classes alone are an invariant of training labels that is checked here.

    Raises:
        AssertionError: the mask names a class the image is not tagged with.
    """
    allowed = {BACKGROUND, UNLABELLED, *sample.tags}
    found = set(np.unique(labels).tolist())
    assert found <= allowed, f"{sample.id}: labels {sorted(found - allowed)} are not among the tags"
    return encode_mask(labels)


def labels_as_probabilities(
    labels: npt.NDArray[np.uint8], class_ids: Sequence[int], confidence: float
) -> npt.NDArray[np.float32]:
    """A mask of a few classes as what the dense CRF starts from, `label_probabilities` of these classes alone.

    Args:
        labels: uint8 (H, W), one of the ids or 255 in every pixel.
        class_ids: the K ids, background among them, in the order wanted.
        confidence: probability of a pixel's label.

    Returns:
        float32 (K, H, W), summing to 1 over the classes.
    """
    index = np.full(UNLABELLED + 1, UNLABELLED, dtype=np.uint8)
    index[list(class_ids)] = np.arange(len(class_ids))
    return label_probabilities(index[labels], len(class_ids), confidence=confidence)


def read_truth(sample: Sample, classes: int) -> npt.NDArray[np.uint8]:
    """The true mask of an image.

    Args:
        sample: read with its mask.
        classes: number of foreground classes.

    Returns:
        uint8 (H, W), 255 where unknown.

    Raises:
        DataError: there is no mask, it is not of the image's size, or it holds an id that is no class.
    """
    if sample.mask is None:
        raise DataError(f"{sample.image}: has no true mask")
    truth = read_true_mask(sample, image_size(sample.image), classes)
    assert truth is not None
    return truth
