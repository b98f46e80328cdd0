"""A trained model in a notebook: masks and activation maps of images, without touching the disk."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.data.images import as_photograph, read_image
from tag2mask.data.records import tag_ids
from tag2mask.data.resizing import resize_scores
from tag2mask.engine.environment import Runtime
from tag2mask.engine.stage import map_in_order
from tag2mask.errors import SettingsError, WeightsError
from tag2mask.networks.inference import InferenceSettings, label_map
from tag2mask.networks.model_file import ModelHeader, Network
from tag2mask.networks.model_file import load_model as read_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.predict import PredictionSettings, class_probabilities, predict_mask

ImageLike = str | Path | Image.Image | npt.NDArray[Any] | Tensor
"""An image: a file, a Pillow image, an array (H, W, 3) or (H, W), or a tensor (3, H, W); 8 bits per channel."""


@dataclass(frozen=True)
class Prediction:
    """Result of a segmenter for one image.

    Attributes:
        mask: class ids, uint8 (H, W); 0 is background.
        probabilities: float32 (C + 1, H, W), sums over classes 1; 0 for classes that `tags` left out.
        classes: names by class id, "background" first.
    """

    mask: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
    classes: tuple[str, ...]


class Model:
    """A trained model, on its device and ready to be used.

    Attributes:
        kind: "segmenter", "classifier" or "affinity".
        classes: names of the foreground classes.
        header: everything else that the model file says.
        network: the network itself.
        runtime: device, precision and threads.
    """

    def __init__(self, network: Network, header: ModelHeader, runtime: Runtime, file: Path) -> None:
        self.network = runtime.place(network)
        self.header = header
        self.runtime = runtime
        self.kind = header.kind
        self.classes = header.classes
        self._file = file

    def __repr__(self) -> str:
        return f"Model({self.kind} of {len(self.classes)} classes, {self._file}, on {self.runtime.device})"

    @overload
    def predict(
        self, image: ImageLike, tags: Sequence[str] | None = None, *, use_crf: bool | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        image: list[Any],
        tags: Sequence[Sequence[str] | None] | None = None,
        *,
        use_crf: bool | None = None,
    ) -> list[Prediction]: ...

    def predict(self, image: Any, tags: Any = None, *, use_crf: bool | None = None) -> Any:
        """The mask of an image, or of each of several.

        Several images are worked on side by side, as many as the runtime has threads (two on a GPU).

        Args:
            image: a file, a Pillow image, an array (H, W, 3) or (H, W) or a tensor (3, H, W) of 8 bits, or a list of
                these.
            tags: names of the classes that are in it: the mask is restricted to them. Of several images one each, None
                for an image whose tags are not known. All classes by default.
            use_crf: refine with the dense CRF; as the model's run did by default.

        Returns:
            a `Prediction`, or a list of them.

        Raises:
            WeightsError: the model makes no masks.
            DataError: an image cannot be read, or a tag is no class of the model.

        Example:
            >>> model = tag2mask.load_model("model.safetensors")  # doctest: +SKIP
            >>> model.predict("photo.jpg", tags=["dog"]).mask.shape  # doctest: +SKIP
            (375, 500)
        """
        settings = self.prediction_settings(use_crf=use_crf)
        if not isinstance(image, list):
            return self._predicted((image, tags), settings)
        given = [None] * len(image) if tags is None else list(tags)
        if len(given) != len(image):
            raise SettingsError(f"tags: {len(given)} lists for {len(image)} images")
        self.runtime.apply()
        pairs = zip(image, given, strict=True)
        return list(map_in_order(lambda pair: self._predicted(pair, settings), pairs, self.runtime.on_device_at_a_time))

    def mask(
        self, image: npt.NDArray[np.uint8], settings: PredictionSettings, class_ids: Sequence[int] | None = None
    ) -> npt.NDArray[np.uint8]:
        """The mask alone, uint8 (H, W); large images keep no probabilities at their own size.

        Args:
            image: uint8 (H, W, 3).
            settings: as `prediction_settings` gives them.
            class_ids: restrict the mask to these classes and background; all by default.
        """
        assert isinstance(self.network, Segmenter)
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        return predict_mask(self.network, tensor, settings, self.runtime, class_ids=class_ids)

    def prediction_settings(self, *, use_crf: bool | None = None) -> PredictionSettings:
        """Prediction settings that the model file holds.

        Args:
            use_crf: whether the dense CRF is used; as the file says by default.

        Raises:
            WeightsError: the model makes no masks, or its file does not say how.
        """
        if not isinstance(self.network, Segmenter):
            raise WeightsError(
                f"{self._file}: a model of kind '{self.kind}' makes no masks; give the model.safetensors of a run"
            )
        try:
            settings = prediction_settings(self.header)
        except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
            raise WeightsError(f"{self._file}: its header does not say how masks are made ({error})") from error
        return settings if use_crf is None else dataclasses.replace(settings, use_crf=use_crf)

    def _predicted(self, given: tuple[ImageLike, Sequence[str] | None], settings: PredictionSettings) -> Prediction:
        assert isinstance(self.network, Segmenter)
        image, tags = as_image(given[0]), given[1]
        class_ids = None if tags is None else tag_ids(tuple(tags), self.classes, "tags")
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        found, ids = class_probabilities(self.network, tensor, settings, self.runtime, class_ids=class_ids)
        mask = ids.to(torch.uint8)[label_map(found, image.shape[:2]).long()].numpy()
        size = (image.shape[0], image.shape[1])
        probabilities = torch.zeros(len(self.classes) + 1, *size)
        probabilities[ids] = found if found.shape[1:] == size else resize_scores(found[None], size)[0]
        return Prediction(mask, probabilities.numpy(), ("background", *self.classes))


def load_model(path: str | Path, *, device: str = "auto", precision: str = "32-true", threads: int = 0) -> Model:
    """A trained model from its file.

    Args:
        path: a run's ``model.safetensors``, or the classifier's.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        threads: of the processor; 0 takes all.

    Raises:
        WeightsError: the file cannot be used.
        SettingsError: the device or the precision is unknown, or the device is not there.

    Example:
        >>> model = tag2mask.load_model("workspace/runs/cam-FINGERPRINT/model.safetensors")  # doctest: +SKIP
        >>> model.predict("photo.jpg").mask  # doctest: +SKIP
    """
    runtime = Runtime(device=device, precision=precision, threads=threads).resolved()
    runtime.apply()
    network, header = read_model(Path(path), device=runtime.torch_device)
    return Model(network, header, runtime, Path(path))


def as_image(image: ImageLike) -> npt.NDArray[np.uint8]:
    """An image given in any of the ways of `ImageLike`, as uint8 (H, W, 3).

    Raises:
        DataError: it cannot be read, or it has another shape or type.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.permute(1, 2, 0) if image.ndim == 3 else image).numpy()
    return as_photograph(image)


def prediction_settings(header: ModelHeader) -> PredictionSettings:
    """Prediction settings that a model file holds."""
    content = header.inference
    if "inference" not in content:
        return PredictionSettings(inference=_inference(content))
    return PredictionSettings(
        inference=_inference(content["inference"]), use_crf=content["use_crf"], crf=CRFSettings(**content["crf"])
    )


def _inference(content: dict[str, Any]) -> InferenceSettings:
    return InferenceSettings(**{**content, "scales": tuple(content["scales"])})
