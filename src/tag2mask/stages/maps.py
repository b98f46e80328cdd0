"""Maps of whole images that later stages and training steps see: saliency, superpixels."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from tag2mask.data.view import MapKind
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import PerImageStage


class MapStage(PerImageStage):
    """Makes a map of every image.

    Attributes:
        map_kind: how the map is brought to a training view.
    """

    map_kind: ClassVar[MapKind]

    @abstractmethod
    def load(self, env: Environment, image_id: str) -> Tensor:
        """The map of one whole image at its own resolution, (h, w).

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
