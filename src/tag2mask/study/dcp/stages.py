"""The study's own stage: some pixels of some images on the plane of a class's first two components."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.images import image_size
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.seeding import generator
from tag2mask.engine.stage import Estimate, PerImageStage
from tag2mask.engine.workspace import reading_arrays
from tag2mask.errors import SettingsError
from tag2mask.evaluation.pictures import evenly_spread
from tag2mask.stages.labels import read_truth
from tag2mask.stages.patterns.class_patterns import KEPT, ClassPatterns
from tag2mask.stages.timing import seconds_per_image


@dataclass(frozen=True)
class PixelSettings:
    """Choice of the pixels that are shown.

    Args:
        class_ids: the classes, from 1 up.
        photographs: photographs of each class at most, evenly spread.
        pixels: of each photograph at most, drawn at random.
    """

    class_ids: tuple[int, ...]
    photographs: int = 30
    pixels: int = 80

    def __post_init__(self) -> None:
        if not self.class_ids:
            raise SettingsError("classes: one or more are needed")
        for name in ("photographs", "pixels"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: {getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class PixelPlane:
    """Pixels on the planes of one class, or of several.

    Args:
        class_ids: the classes, (P,).
        truth: true class of each pixel, uint8 (n,), 255 where unknown.
        points: projections on the first two components, float32 (blocks, P, n, 2).
    """

    class_ids: npt.NDArray[np.int64]
    truth: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]


class PixelPlanes(PerImageStage):
    """Projections of an image's pixels at every block (Luo & Yang, figure 1 e-g), with their true classes.

    The same pixels at every block: projections are brought to them as masks are, bilinear. ``.npz`` of `PixelPlane`.
    True masks give the pixels' colours and nothing else; without a mask all of them are 255.
    """

    name = "pixel_planes"
    suffix = ".npz"
    reads = frozenset({"images", "tags", "masks"})
    on_device = True
    settings: PixelSettings

    def __init__(self, patterns: ClassPatterns, settings: PixelSettings) -> None:
        super().__init__(settings, patterns.split, patterns=patterns)
        self.patterns = patterns

    def samples(self, env: Environment) -> tuple[Sample, ...]:
        samples = super().samples(env)
        chosen: set[str] = set()
        for class_id in self.settings.class_ids:
            tagged = [sample.id for sample in samples if class_id in sample.tags]
            chosen |= {tagged[index] for index in evenly_spread(self.settings.photographs, len(tagged))}
        return tuple(sample for sample in samples if sample.id in chosen)

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        blocks = self.patterns.settings.blocks
        read, patterns = self.patterns.open(env), self.patterns.load(env)

        def make(sample: Sample) -> bytes:
            size = image_size(sample.image)
            pixels = self._draw(env, sample.id, size)
            class_ids = [tag for tag in sample.tags if tag in self.settings.class_ids]
            points = [
                [at_pixels(patterns.plane(block, features, class_id), pixels, size) for class_id in class_ids]
                for block, features in zip(blocks, read(sample), strict=True)
            ]
            truth = np.full(size, UNLABELLED, np.uint8)
            if sample.mask is not None:
                truth = read_truth(sample, env.dataset.num_classes)
            content = io.BytesIO()
            np.savez_compressed(
                content,
                class_ids=np.array(class_ids, dtype=np.int64),
                truth=truth.ravel()[pixels],
                points=torch.stack([torch.stack(planes) for planes in points]).numpy(),
            )
            return content.getvalue()

        return make

    def _draw(self, env: Environment, image_id: str, size: tuple[int, int]) -> npt.NDArray[np.int64]:
        """Positions of the pixels to show, row by row."""
        whole = size[0] * size[1]
        rng = generator(env.runtime.seed, self.name, image_id)
        return rng.choice(whole, min(self.settings.pixels, whole), replace=False)

    def load(self, env: Environment, image_id: str) -> PixelPlane:
        """The pixels of one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            return PixelPlane(content["class_ids"], content["truth"], content["points"])

    def of_class(self, env: Environment, class_id: int) -> PixelPlane:
        """The pixels of all shown images of a class, from 1 up, on its planes."""
        found = [self.load(env, sample.id) for sample in self.samples(env) if class_id in sample.tags]
        return PixelPlane(
            np.array([class_id]),
            np.concatenate([each.truth for each in found]),
            np.concatenate([each.points[:, each.class_ids == class_id] for each in found], axis=2),
        )

    def estimate(self, env: Environment) -> Estimate:
        settings = self.patterns.settings
        seconds = seconds_per_image(
            self.patterns.classifier.backbone, settings.scales, env, output_stride=self.patterns.output_stride
        )
        count = len(self.samples(env))
        return Estimate(seconds * count, 4.0 * KEPT * self.settings.pixels * len(settings.blocks) * count)


def at_pixels(grid: Tensor, pixels: npt.NDArray[np.int64], size: tuple[int, int]) -> Tensor:
    """Values of a coarse grid at some pixels of the image, as bilinear resizing of the whole would give them.

    Args:
        grid: floats (h, w, values), its cells tile the image.
        pixels: positions (n,), row by row.
        size: (height, width) of the image.

    Returns:
        float32 (n, values) on the CPU.
    """
    height, width = size
    ys, xs = np.divmod(pixels, width)
    where = np.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], axis=-1).astype(np.float32)
    maps = grid.float().cpu().permute(2, 0, 1)[None]
    # At the image's rim resizing repeats the outermost cells.
    found = F.grid_sample(maps, torch.from_numpy(where)[None, None], padding_mode="border", align_corners=False)
    return found[0, :, 0].T
