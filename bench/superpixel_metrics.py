"""Superpixel metrics of one image of 500x375 pixels: undersegmentation error, boundary recall and precision, accuracy.

Superpixels by SLIC on photographs and masks brought to this size; labelled pixels beside unlabelled ones count as
boundary of the truth. The peer is put together from scikit-image (contingency table, boundaries) and scipy (distance
transform).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.metrics import contingency_table
from skimage.segmentation import find_boundaries, slic

from bench.harness import PHOTOGRAPHS, Contender, Photo, Row, Setting, side_by_side
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.demo.scenes import render_scene
from tag2mask.data.images import read_image
from tag2mask.data.masks import read_mask
from tag2mask.evaluation.superpixels import SuperpixelScores, score_superpixels

TITLE = "Superpixel metrics"
PACKAGES = ("numpy", "scipy", "scikit-image")
SIZE = (375, 500)
SEGMENTS = (60, 600)
TOLERANCE = 2.0


Labels = npt.NDArray[np.integer[Any]]


def examples(count: int) -> list[tuple[Photo, Labels]]:
    """Photographs of PASCAL VOC with their masks, or the demo's scenes where they are not at hand."""
    if PHOTOGRAPHS.is_dir():
        names = (PHOTOGRAPHS / "ImageSets" / "Segmentation" / "train_2007.txt").read_text().split()
        chosen = [names[index * len(names) // count] for index in range(count)]
        folders = PHOTOGRAPHS / "JPEGImages", PHOTOGRAPHS / "SegmentationClass"
        pairs = [(read_image(folders[0] / f"{name}.jpg"), read_mask(folders[1] / f"{name}.png")) for name in chosen]
    else:
        scenes = [render_scene(0, index) for index in range(count)]
        pairs = [(scene.image, scene.mask) for scene in scenes]

    def resized(pixels: npt.NDArray[np.uint8], how: Image.Resampling) -> npt.NDArray[np.uint8]:
        return np.array(Image.fromarray(pixels).resize((SIZE[1], SIZE[0]), how))

    return [
        (resized(photo, Image.Resampling.BICUBIC), resized(mask, Image.Resampling.NEAREST)) for photo, mask in pairs
    ]


def by_libraries(superpixels: Labels, truth: Labels) -> SuperpixelScores:
    """The same scores from scikit-image's and scipy's functions."""
    overlaps = contingency_table(truth, superpixels, ignore_labels=[UNLABELLED]).toarray()
    labelled = truth != UNLABELLED
    leaks = np.minimum(overlaps, overlaps.sum(0) - overlaps).sum()
    parts = find_boundaries(superpixels, connectivity=1)
    true = find_boundaries(truth, connectivity=1) & labelled
    recall = (distance_transform_edt(~parts)[true] < TOLERANCE).mean()
    precision = (distance_transform_edt(~true)[parts & labelled] < TOLERANCE).mean()
    pixels = labelled.sum()
    return SuperpixelScores(
        leaks / pixels, recall, precision, overlaps.max(0).sum() / pixels, len(np.unique(superpixels))
    )


def agreement(ours: SuperpixelScores, theirs: SuperpixelScores) -> str:
    """Largest difference of a score."""
    pairs = zip(vars(ours).values(), vars(theirs).values(), strict=True)
    return f"max. difference {max(abs(one - other) for one, other in pairs):.1e}"


def rows(setting: Setting) -> Iterator[Row]:
    for number, (photo, truth) in enumerate(examples(3), start=1):
        for segments in SEGMENTS:
            superpixels = slic(photo, segments, start_label=0)
            run = partial(score_superpixels, superpixels, truth, tolerance=TOLERANCE, unlabelled_borders=True)
            peer = Contender("scikit-image and scipy", partial(by_libraries, superpixels, truth), agreement)
            case = f"photograph {number}, {superpixels.max() + 1} superpixels"
            yield from side_by_side(case, Contender("tag2mask", run), [peer], setting)
