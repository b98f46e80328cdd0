"""Entries of a training batch: what it holds of each image that a segmenter is trained on."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.images import image_size
from tag2mask.data.samples import Sample
from tag2mask.data.view import IMAGE, LABELS, View, tiled_view, to_view
from tag2mask.engine.environment import Environment, Reads, SplitName
from tag2mask.engine.stage import Stage
from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.trunks import JOINED, Trunks
from tag2mask.stages.block_features import JoinedFeatures
from tag2mask.stages.frozen_features import EarlyFeatures, EarlyFeatureSettings, FrozenFeatures, FrozenFeatureSettings
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.maps import MapStage
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import change_colours, load_image, view_image

CODE = Code("segmenter inputs")

PRESENT, INSIDE, IMAGE_ON_GRID, WHOLE_IMAGE = "present", "inside", "image_on_grid", "image"
"""Entries that supervisions and objectives can ask for beside the labels: the image's tags as bool (C + 1); where the
label grid shows the image, bool (h, w); the image on that grid, uint8 (3, h, w); and the image as the network sees it,
normalised, float32 (3, H, W), also where it reads kept features. Anything else they need is a map, which the method
gives."""


class SegmenterInputs:
    """Entries of a training batch by name: labels, what the network reads, and what is asked for beside them.

    Args:
        settings: network, views and label grid.
        labels: the stage whose masks are learnt from, or grown; None where a training makes all its labels itself: the
            batch then has unlabelled ones.
        needs: entries beside the labels and what the network reads: any of the four above, others are maps.
        maps: further maps and labels, by the name of their entry.
        classifier: whose backbone's features are kept; None keeps the pretrained one's. Of no use where none are kept.
        early: a block whose features are read too; empty for none.
    """

    def __init__(
        self,
        settings: SegmenterTrainingSettings,
        labels: LabelStage | None,
        *,
        needs: Collection[str] = (),
        maps: Mapping[str, MapStage | LabelStage] | None = None,
        classifier: TrainClassifier | None = None,
        early: str = "",
    ) -> None:
        self.settings = settings
        self.labels = labels
        self.needs = frozenset(needs)
        self.maps = dict(maps or {})
        self.early = early
        self.features: FrozenFeatures | None = None
        self.early_features: EarlyFeatures | None = None
        self.joined: JoinedFeatures | None = None
        if settings.trunk.parts:
            self.joined = JoinedFeatures(settings.trunk.parts)
            if classifier is not None or WHOLE_IMAGE in self.needs:
                raise SettingsError(
                    "segmenter.trunks: frozen networks are read, and this training changes or shows one"
                )
            return
        settings.backbone.check(cached=settings.cache_features)
        if settings.cache_features:
            self.features = FrozenFeatures(FrozenFeatureSettings(settings.backbone, settings.views), classifier)
            if early:
                self.early_features = EarlyFeatures(
                    EarlyFeatureSettings(settings.backbone, settings.views, early, settings.label_stride), classifier
                )

    @property
    def split(self) -> SplitName:
        """The list of images."""
        return self.labels.split if self.labels else "train"

    @property
    def reads(self) -> Reads:
        """Parts of the samples that are read: images, and tags only where they are asked for."""
        return frozenset({"images", "tags"}) if PRESENT in self.needs else frozenset({"images"})

    @property
    def label_stages(self) -> dict[str, Stage]:
        """The stages that labels and maps come from, by the name of their entry."""
        return {**({"labels": self.labels} if self.labels else {}), **self.maps}

    @property
    def feature_stages(self) -> dict[str, Stage]:
        """The stages that kept features come from."""
        if self.joined is not None:
            return self.joined.stages
        kept = {"features": self.features, "early_features": self.early_features}
        return {name: stage for name, stage in kept.items() if stage is not None}

    @property
    def after(self) -> str | None:
        """The block whose features stand for the image; None where the image itself is read."""
        if self.joined is not None:
            return JOINED
        return self.settings.backbone.frozen_until if self.features else None

    def network(self, env: Environment) -> Backbone | Trunks:
        """Network that the head reads, with its weights."""
        return self.joined.create(env) if self.joined else self.settings.backbone.create(env.runtime.seed)

    def labels_of(self, env: Environment, sample: Sample) -> Tensor:
        """Labels of an image at its own size, uint8 (H, W); all unlabelled where no stage makes them."""
        if self.labels is None:
            return torch.full(image_size(sample.image), UNLABELLED, dtype=torch.uint8)
        return torch.from_numpy(self.labels.load(env, sample.id))

    def whole_view(self, size: tuple[int, int], *, mirror: bool = False) -> View:
        """The view of a whole image of (height, width) `size`; cells of joined features tile it."""
        views = self.settings.views
        if self.joined is None:
            return views.whole_view(size, mirror=mirror)
        cells = self.joined.cells
        return tiled_view(size, views.crop // cells, cells, mirror=mirror, pad_to=cells)

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        """Returns the function of (sample, epoch) that gives a training example, at a view drawn for the epoch."""
        views, seed = self.settings.views, env.runtime.seed
        entries = self.entries(env)

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            labels = self.labels_of(env, sample)
            size = (labels.shape[0], labels.shape[1])
            view = views.draw(size, seed=seed, epoch=epoch, image_id=sample.id)
            if self.joined is not None:
                view = self.whole_view(size, mirror=view.mirror)
            return entries(sample, labels, view, epoch)

        return example

    def entries(self, env: Environment) -> Callable[[Sample, Tensor, View, int | None], dict[str, Any]]:
        """Returns the function of (sample, labels, view, epoch) that gives what a batch holds of an image.

        Without an epoch colours stay as they are.
        """
        settings, seed, stride = self.settings, env.runtime.seed, self.settings.label_stride
        facts = settings.trunk.networks[0].facts
        joined = self.joined.open(env) if self.joined else None

        def entries(sample: Sample, labels: Tensor, view: View, epoch: int | None) -> dict[str, Any]:
            found: dict[str, Any] = {"labels": to_view(labels, view, LABELS, stride=stride)}
            for name, stage in self.maps.items():
                found[name] = to_view(torch.as_tensor(stage.load(env, sample.id)), view, stage.map_kind, stride=stride)
            if self.early_features is not None:
                found["early"] = self.early_features.load(env, sample.id, mirror=view.mirror)
            if PRESENT in self.needs:
                tags = torch.from_numpy(env.dataset.tag_vector(sample)).bool()
                found[PRESENT] = torch.cat([torch.ones(1, dtype=torch.bool), tags])
            if INSIDE in self.needs:
                found[INSIDE] = to_view(torch.ones_like(labels), view, LABELS, stride=stride, fill=0).bool()
            if self.features is not None:
                found["features"] = self.features.load(env, sample.id, mirror=view.mirror)
            if joined is not None:
                found["features"] = joined(sample, (labels.shape[0], labels.shape[1]), view.mirror)["features"]
            if self.after is not None and not self.needs & {IMAGE_ON_GRID, WHOLE_IMAGE}:
                return found
            image = load_image(sample)
            if IMAGE_ON_GRID in self.needs:
                fill = [255 * value for value in facts.mean]
                on_grid = to_view(image, view, IMAGE, stride=stride, fill=fill)
                found[IMAGE_ON_GRID] = on_grid.round().to(torch.uint8)
            if self.after is None or WHOLE_IMAGE in self.needs:
                if epoch is not None:
                    image = change_colours(image, settings.views.colour, seed=seed, epoch=epoch, image_id=sample.id)
                found[WHOLE_IMAGE] = view_image(image, view, facts)
            return found

        return entries

    def example(self, env: Environment) -> dict[str, Tensor]:
        """A made-up training example with the shapes of a real one."""
        crop = self.settings.views.crop
        side = -(-crop // self.settings.label_stride)
        example = {"labels": torch.zeros(side, side, dtype=torch.uint8)}
        if self.features is not None:
            example["features"] = torch.zeros(self.features.shape(env))
        if self.joined is not None:
            example["features"] = self.joined.example()["features"]
        if self.after is None or WHOLE_IMAGE in self.needs:
            example[WHOLE_IMAGE] = torch.zeros(3, crop, crop)
        if self.early_features is not None:
            example["early"] = torch.zeros(self.early_features.shape(env))
        for name in self.maps:
            example[name] = torch.zeros(side, side, dtype=torch.int32)
        if PRESENT in self.needs:
            example[PRESENT] = torch.ones(len(env.dataset.classes) + 1, dtype=torch.bool)
        if INSIDE in self.needs:
            example[INSIDE] = torch.ones(side, side, dtype=torch.bool)
        if IMAGE_ON_GRID in self.needs:
            example[IMAGE_ON_GRID] = torch.zeros(3, side, side, dtype=torch.uint8)
        return example
