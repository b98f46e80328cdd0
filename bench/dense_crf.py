"""Dense CRF, default kernels, 10 iterations at 500x375 pixels, from probabilities to refined probabilities, lattices
included. Two photographs of scikit-image, cropped, and two of VOC, enlarged. With two threads, all four in one call.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
import torch.nn.functional as F
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_softmax

from bench.harness import Contender, Photo, Row, Setting, photographs, side_by_side
from tag2mask.refine import _permutohedral
from tag2mask.refine.dense_crf import dense_crf

TITLE = "Dense CRF"
PACKAGES = ("pydensecrf2", "numpy", "torch")
SIZE = (375, 500)
CLASSES = (21, 3)

Floats = npt.NDArray[np.float32]


def smooth_probabilities(classes: int) -> Floats:
    """Softmax of smooth random scores: regions of about 40 pixels, (classes, height, width)."""
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn((1, classes, SIZE[0] // 40, SIZE[1] // 40), generator=generator) * 2
    return F.interpolate(scores, size=SIZE, mode="bicubic").softmax(1)[0].numpy()


def pydensecrf(photo: Photo, probabilities: Floats) -> Floats:
    """The same CRF by pydensecrf2, called as its users do."""
    classes, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photo, compat=10)
    return np.array(crf.inference(10)).reshape(probabilities.shape)


def agreement(ours: Any, theirs: Any) -> str:
    """Equal best classes and the largest difference of a probability."""
    return f"{(ours.argmax(-3) == theirs.argmax(-3)).mean():.4%} equal argmax, max. {np.abs(ours - theirs).max():.1e}"


def at_level(level: str, photo: Photo, probabilities: Floats) -> Floats:
    """Ours with the instructions of one level only."""
    scores = np.log(np.clip(probabilities, 1e-5, 1))
    _permutohedral.mean_field(photo, scores, 10, 3.0, 3.0, 80.0, 13.0, 10.0, level)
    return scores


def first_of_its_size(photo: Photo, probabilities: Floats) -> Floats:
    """Ours where no photograph of this size came before: the position kernel's lattice is built, too."""
    _permutohedral.forget()
    return dense_crf(photo, probabilities)


def one_by_one(photos: Sequence[Photo], probabilities: Floats) -> Floats:
    """pydensecrf2 on a batch."""
    return np.stack([pydensecrf(photo, probabilities) for photo in photos])


def in_processes(pool: Any, photos: Sequence[Photo], probabilities: Floats) -> Floats:
    """pydensecrf2 on a batch in several processes: it holds the interpreter's lock."""
    return np.stack(pool.starmap(pydensecrf, [(photo, probabilities) for photo in photos]))


def single(photos: dict[str, Photo], classes: int, setting: Setting) -> Iterator[Row]:
    """Photographs one by one."""
    probabilities = smooth_probabilities(classes)
    for index, (name, photo) in enumerate(photos.items()):
        ours = Contender("tag2mask", partial(dense_crf, photo, probabilities))
        contenders = [Contender("pydensecrf2", partial(pydensecrf, photo, probabilities), agreement)]
        if index == 0:
            first = partial(first_of_its_size, photo, probabilities)
            contenders.append(Contender("tag2mask, first photograph of this size", first, agreement))
            for level in _permutohedral.levels()[1:]:
                run = partial(at_level, level, photo, probabilities)
                contenders.append(Contender(f"tag2mask, {level} only", run, agreement))
        yield from side_by_side(f"{name}, {classes} classes", ours, contenders, setting)


def batch(photos: dict[str, Photo], classes: int, setting: Setting) -> Iterator[Row]:
    """All photographs in one call."""
    stack, probabilities = list(photos.values()), smooth_probabilities(classes)
    maps = [probabilities] * len(stack)

    def ours(threads: int) -> Floats:
        return np.stack(dense_crf(stack, maps, threads=threads))

    with multiprocessing.get_context("spawn").Pool(setting.threads) as pool:
        contenders = [
            Contender("tag2mask, one thread", partial(ours, 1), agreement),
            Contender("pydensecrf2, one thread", partial(one_by_one, stack, probabilities), agreement),
            Contender(
                f"pydensecrf2, {setting.threads} processes",
                partial(in_processes, pool, stack, probabilities),
                agreement,
            ),
        ]
        first = Contender(f"tag2mask, {setting.threads} threads", partial(ours, setting.threads))
        yield from side_by_side(f"batch of {len(stack)}, {classes} classes", first, contenders, setting)


def rows(setting: Setting) -> Iterator[Row]:
    photos = {name: getattr(skimage.data, name)()[: SIZE[0], : SIZE[1]] for name in ("astronaut", "coffee")}
    photos |= {f"photograph {index + 1}": photo for index, photo in enumerate(photographs(2, SIZE))}
    photos = {name: np.ascontiguousarray(photo) for name, photo in photos.items()}
    for classes in CLASSES:
        yield from (single if setting.threads == 1 else batch)(photos, classes, setting)
