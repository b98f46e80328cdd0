"""Labels that change while a network learns from them: those of a few images, kept and shown over the epochs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tag2mask.base.files import write_bytes
from tag2mask.data.layers import LabelMap
from tag2mask.data.masks import encode_mask, read_mask
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.training import TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.evaluation.pictures import contact_sheet, evenly_spread, save_sheet
from tag2mask.stages.views import load_image

_IMAGES = 6  # whose labels are kept after every epoch
_CELLS = 8  # epochs shown of a strip


@dataclass(frozen=True)
class LabelStrips:
    """Labels of a few images, evenly spread over the list, as ``growth/<epoch>/<image id>.png``.

    They are kept after every epoch, of many epochs after some evenly spread ones.

    Args:
        start: title of the labels before the first epoch.
        file: name of the picture.
    """

    start: str
    file: str

    def keep(
        self, stage: TrainingStage, env: Environment, epoch: int, make: Callable[[], Callable[[Sample], Tensor]]
    ) -> None:
        """Writes the labels after an epoch, if they are shown.

        Args:
            stage: the training.
            env: what it runs in.
            epoch: number of the epoch that has ended, from 0.
            make: gives the function that makes an image's labels now, uint8 (H, W).
        """
        if epoch not in _shown_epochs(stage, env):
            return
        labels = make()
        for sample in _shown(stage, env):
            write_bytes(_path(stage, env, epoch, sample.id), encode_mask(labels(sample).numpy()))

    def draw(
        self, stage: TrainingStage, env: Environment, folder: Path, before: Callable[[Sample], Tensor]
    ) -> list[Path]:
        """Labels over the epochs, a strip per image (DSRG, figure 1).

        Args:
            stage: the training, complete.
            env: what it ran in.
            folder: where the picture goes.
            before: gives an image's labels before the first epoch, uint8 (H, W).
        """
        shown = _shown_epochs(stage, env)
        rows, captions = [], []
        for sample in _shown(stage, env):
            image = load_image(sample).permute(1, 2, 0).numpy()
            masks = [before(sample).numpy()]
            for epoch in shown:
                path = _path(stage, env, epoch, sample.id)
                with reading_artifact(path, stage.folder(env)):
                    masks.append(read_mask(path))
            rows.append([image, *(LabelMap(mask).over(image) for mask in masks)])
            tags = ", ".join(env.dataset.classes[tag - 1] for tag in sample.tags)
            captions.append(f"{sample.id}: {tags}")
        titles = ["photograph", self.start, *(f"after epoch {epoch + 1}" for epoch in shown)]
        path = folder / self.file
        save_sheet(path, contact_sheet(titles, rows, captions))
        return [path]


def _shown(stage: TrainingStage, env: Environment) -> list[Sample]:
    samples = stage.samples(env)
    return [samples[index] for index in evenly_spread(_IMAGES, len(samples))]


def _shown_epochs(stage: TrainingStage, env: Environment) -> list[int]:
    """The epochs after which labels are kept: the first, the last and some evenly spread between them."""
    training, count = stage.training(), len(stage.samples(env))
    epochs = -(-training.total_steps(count) // training.steps_per_epoch(count))
    return sorted({0, *evenly_spread(_CELLS - 2, epochs), epochs - 1})


def _path(stage: TrainingStage, env: Environment, epoch: int, image_id: str) -> Path:
    return stage.folder(env) / "growth" / f"{epoch + 1:03d}" / f"{image_id}.png"
