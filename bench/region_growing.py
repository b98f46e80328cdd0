"""Region growing of a batch of 16 with 21 classes, probabilities to grown labels.

Masks of real photographs as a segmenter would give them: blurred, noisy scores through a softmax. "3 present": an
image's tags name 3 classes, which compete with background, the usual case; "all present": 21 classes compete. The
libraries label one class of one image at a time, as code for DSRG does, and keep the components that hold a seed;
cc3d can also label all classes of an image at once. Peers share the images out among as many threads as tag2mask.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import cc3d
import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from skimage.segmentation import slic

from bench.harness import PHOTOGRAPHS, Contender, Row, Setting, equal_share, photographs, side_by_side
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.demo.scenes import render_scene
from tag2mask.data.masks import read_mask
from tag2mask.refine.region_growing import (
    _grow_regions_by_torch,
    _grow_superpixels_by_torch,
    grow_regions,
    grow_superpixels,
)

TITLE = "Region growing"
PACKAGES = ("scipy", "opencv-python-headless", "connected-components-3d", "numpy", "torch")
BATCH = 16
CLASSES = 21
SIZES = (41, 81, 321)
THRESHOLDS = (0.99, 0.85)  # of background and foreground, the paper's and the default
SUPERPIXEL_THRESHOLDS = (0.7, 0.7)
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
LONGEST_LOOPS = 81  # larger maps take the pixel-by-pixel loops and the torch path many seconds

Labels = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Grow = Callable[..., Labels]


class Case(NamedTuple):
    """A batch: seeds (B, H, W), probabilities (B, C, H, W), present (B, C)."""

    seeds: torch.Tensor
    probabilities: torch.Tensor
    present: torch.Tensor


def true_masks(size: int) -> Labels:
    """Masks of the harness's photographs, (BATCH, size, size); unlabelled pixels become background."""
    if PHOTOGRAPHS.is_dir():
        names = (PHOTOGRAPHS / "ImageSets" / "Segmentation" / "train_2007.txt").read_text().split()
        chosen = [names[index * len(names) // BATCH] for index in range(BATCH)]
        masks = [read_mask(PHOTOGRAPHS / "SegmentationClass" / f"{name}.png") for name in chosen]
    else:
        masks = [render_scene(0, index).mask for index in range(BATCH)]
    pictures = (Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST) for mask in masks)
    small = np.stack([np.array(picture) for picture in pictures])
    return np.where(small == UNLABELLED, BACKGROUND, small).astype(np.int64)


def batch(size: int, present_classes: int) -> Case:
    """What a segmenter might say of the masks, and seeds of 5 % of the pixels it is sure of and of small patches."""
    generator = torch.Generator().manual_seed(size)
    masks = torch.from_numpy(true_masks(size))
    truth = F.one_hot(masks, CLASSES).movedim(-1, 1).float()
    blur = max(3, size // 20 | 1)
    soft = F.avg_pool2d(F.pad(truth, [blur // 2] * 4, mode="replicate"), blur, stride=1)
    coarse = torch.randn((BATCH, CLASSES, 12, 12), generator=generator)
    noise = F.interpolate(coarse, size=(size, size), mode="bicubic")
    probabilities = (12 * soft + 1.5 * noise).softmax(1)

    best, label = probabilities.max(1)
    seeded = (best > 0.9) & (torch.rand(best.shape, generator=generator) < 0.05)
    patches = (torch.rand((BATCH, 1, size, size), generator=generator) < 8 / size**2).float()
    seeded |= (best > 0.9) & (F.max_pool2d(patches, 3, stride=1, padding=1)[:, 0] > 0)
    present = torch.zeros((BATCH, CLASSES), dtype=torch.bool)
    for image, mask in enumerate(masks):
        tags = [c for c in mask.unique().tolist() if c != BACKGROUND]
        others = [c for c in range(1, CLASSES) if c not in tags]
        present[image, (tags + others)[:present_classes]] = True
    seeds = label.where(
        seeded & (present.gather(1, label.flatten(1)).view_as(label) | (label == BACKGROUND)), UNLABELLED
    )
    return Case(seeds, probabilities, present)


def by_scipy(mask: Mask) -> tuple[npt.NDArray[Any], int]:
    return ndimage.label(mask, EIGHT_NEIGHBOURS)


def by_opencv(mask: Mask) -> tuple[npt.NDArray[Any], int]:
    count, components = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return components, count - 1


def by_cc3d(mask: Mask) -> tuple[npt.NDArray[Any], int]:
    return cc3d.connected_components(mask, connectivity=8, return_N=True)


def conducting_classes(seeds: Labels, probabilities: Floats, classes: list[int]) -> Bytes:
    """The class each pixel conducts, 255 for none. A running maximum is several times as fast as numpy's argmax."""
    best = probabilities[classes[0]].copy()
    label = np.full(best.shape, classes[0], dtype=np.uint8)
    for other in classes[1:]:
        larger = probabilities[other] > best
        np.copyto(best, probabilities[other], where=larger)
        np.copyto(label, other, where=larger)
    background, foreground = (np.float32(threshold) for threshold in THRESHOLDS)
    np.copyto(label, UNLABELLED, where=best < np.where(label == BACKGROUND, background, foreground))
    np.copyto(label, seeds, where=seeds != UNLABELLED, casting="unsafe")
    return label


def grow_by_class(
    components_of: Callable[[Mask], tuple[npt.NDArray[Any], int]],
    seeds: Labels,
    probabilities: Floats,
    classes: list[int],
) -> Labels:
    """One image, one class after the other."""
    conducting = conducting_classes(seeds, probabilities, classes)
    grown = seeds.copy()
    for label in np.unique(seeds[seeds != UNLABELLED]):
        components, count = components_of(conducting == label)
        kept = np.zeros(count + 1, dtype=bool)
        kept[components[seeds == label]] = True
        np.copyto(grown, label, where=kept[components])
    return grown


def grow_at_once(seeds: Labels, probabilities: Floats, classes: list[int]) -> Labels:
    """One image, all classes in one call of cc3d."""
    conducting = conducting_classes(seeds, probabilities, classes)
    shifted = conducting + np.uint8(1)  # 255 becomes 0, which cc3d leaves out
    components, count = cc3d.connected_components(shifted, connectivity=8, return_N=True)
    kept = np.zeros(count + 1, dtype=bool)
    kept[components[seeds != UNLABELLED]] = True
    return np.where(kept[components], conducting, UNLABELLED).astype(np.int64)


def grow_by_queue(seeds: Labels, probabilities: Floats, classes: list[int]) -> Labels:
    """One image, pixel by pixel in Python."""
    conducting = conducting_classes(seeds, probabilities, classes).tolist()
    height, width = seeds.shape
    grown = seeds.tolist()
    queue = deque(zip(*np.nonzero(seeds != UNLABELLED), strict=True))
    while queue:
        y, x = queue.popleft()
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                if grown[v][u] == UNLABELLED and conducting[v][u] == grown[y][x]:
                    grown[v][u] = grown[y][x]
                    queue.append((v, u))
    return np.array(grown)


def in_turn(grow: Grow, case: Case, threads: int, *maps: torch.Tensor) -> Labels:
    """A peer on every image of a batch."""
    classes = [np.flatnonzero(row).tolist() for row in (case.present | (torch.arange(CLASSES) == BACKGROUND)).numpy()]
    others = (tensor.numpy() for tensor in maps)
    images = zip(case.seeds.numpy(), case.probabilities.numpy(), classes, *others, strict=True)
    if threads == 1:
        return np.stack([grow(*image) for image in images])
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(lambda image: grow(*image), images)))


def superpixels_of(size: int) -> torch.Tensor:
    """SLIC's superpixels of the photographs, (BATCH, size, size), about 100 each."""
    cells = [slic(photo, n_segments=100, start_label=0) for photo in photographs(BATCH, (size, size))]
    return torch.from_numpy(np.stack(cells)).long()


def mean_by_numpy(
    seeds: Labels, probabilities: Floats, superpixels: Labels, classes: list[int], superpixel_count: int
) -> Labels:
    """Superpixel-guided growing of one image, a weighted count of numpy for each class."""
    free = seeds == UNLABELLED
    members = superpixels[free]
    sizes = np.bincount(members, minlength=superpixel_count)
    sums = [np.bincount(members, probabilities[c][free], superpixel_count) for c in classes]
    means = (np.stack(sums) / np.maximum(sizes, 1)).astype(np.float32)
    winner = means.argmax(0)
    labels = np.array(classes)[winner]
    background, foreground = (np.float32(threshold) for threshold in SUPERPIXEL_THRESHOLDS)
    labels[means.max(0) <= np.where(labels == BACKGROUND, background, foreground)] = UNLABELLED
    return np.where(free, labels[superpixels], seeds)


def rows(setting: Setting) -> Iterator[Row]:
    for size in SIZES:
        for present, described in ((3, "3 present"), (CLASSES, "all present")):
            case = batch(size, present)
            ours = Contender("tag2mask", partial(grow_regions, *case, threads=setting.threads))
            peers: dict[str, Grow] = {
                "cc3d, all classes at once": grow_at_once,
                "cc3d": partial(grow_by_class, by_cc3d),
                "cv2.connectedComponents": partial(grow_by_class, by_opencv),
                "scipy.ndimage.label": partial(grow_by_class, by_scipy),
            }
            if size <= LONGEST_LOOPS:
                peers["queue of pixels in Python"] = grow_by_queue
            contenders = [
                Contender(name, partial(in_turn, grow, case, setting.threads), equal_share)
                for name, grow in peers.items()
            ]
            if size <= LONGEST_LOOPS:
                torch_path = partial(_grow_regions_by_torch, *case, *THRESHOLDS)
                contenders.append(Contender("tag2mask's path of GPUs, on the CPU", torch_path, equal_share))
            yield from side_by_side(f"{size}x{size}, {described}", ours, contenders, setting)
        yield from superpixel_rows(size, setting)


def superpixel_rows(size: int, setting: Setting) -> Iterator[Row]:
    """The superpixel-guided variant with three classes present."""
    case = batch(size, 3)
    superpixels = superpixels_of(size)
    count = int(superpixels.max()) + 1
    inputs = (case.seeds, case.probabilities, superpixels, case.present)
    ours = Contender("tag2mask", partial(grow_superpixels, *inputs, threads=setting.threads))

    def by_image(seeds: Labels, probabilities: Floats, classes: list[int], superpixels: Labels) -> Labels:
        return mean_by_numpy(seeds, probabilities, superpixels, classes, count)

    peers = [
        Contender("numpy.bincount", partial(in_turn, by_image, case, setting.threads, superpixels), equal_share),
        Contender(
            "tag2mask's path of GPUs (scatter_add), on the CPU",
            partial(_grow_superpixels_by_torch, *inputs, count, *SUPERPIXEL_THRESHOLDS),
            equal_share,
        ),
    ]
    yield from side_by_side(f"superpixels, {size}x{size}, 3 present", ours, peers, setting)
