"""Parts that the figures of all studies have in common."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tag2mask.data.images import read_image
from tag2mask.data.layers import RGB
from tag2mask.data.samples import Sample
from tag2mask.evaluation.pictures import contact_sheet, save_sheet


@dataclass(frozen=True)
class Figure:
    """A picture on a study's page.

    Args:
        title: what it shows.
        text: how to read it.
        path: the file.
    """

    title: str
    text: str
    path: Path


def draw_sheet(
    path: Path,
    titles: Sequence[str],
    samples: Iterable[Sample],
    cells: Callable[[Sample, RGB], tuple[Sequence[RGB], str]],
) -> None:
    """Writes a sheet with a row per image: the image and what was made of it.

    Args:
        path: the JPEG.
        titles: of the columns after the image's.
        samples: the images.
        cells: function of a sample and its image, uint8 (H, W, 3), that gives the row's further pictures and its
            caption.
    """
    rows, captions = [], []
    for sample in samples:
        image = read_image(sample.image)
        pictures, caption = cells(sample, image)
        rows.append([image, *pictures])
        captions.append(caption)
    save_sheet(path, contact_sheet(["photograph", *titles], rows, captions))
