"""A segmenter's second branch: a classifier's head on the same backbone, whose score maps are CAMs (RRM)."""

from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.trunks import single


class CamBranch(nn.Module):
    """A classifier that goes on from the features a segmenter reads.

    Where both read the backbone at the same block the two share it. A classifier that reads a later block has blocks of
    its own behind the segmenter's; its earlier ones take no part, and `complete` brings them up to date.

    Args:
        trunk: the segmenter's backbone.
        classifier: on the same object, or on a backbone of the same network that ends at a later block; of that one the
            blocks up to the trunk's last are frozen.

    Raises:
        SettingsError: the classifier's backbone has no such block.
    """

    def __init__(self, trunk: Backbone, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.after = None if classifier.backbone is trunk else trunk.block
        if self.after is not None:
            single(classifier.backbone).freeze(self.after)

    def features(self, features: Tensor) -> Tensor:
        """Input of the classifier's head, from the trunk's features: (N, channels, h, w) -> (N, channels', h, w)."""
        return features if self.after is None else self.classifier.backbone.forward_from(features, self.after)

    def maps(self, features: Tensor) -> Tensor:
        """Score maps, before any ReLU, from the trunk's features: (N, channels, h, w) -> (N, C, h, w)."""
        maps: Tensor = self.classifier.head(self.features(features))
        return maps

    def trained_blocks(self) -> list[nn.Parameter]:
        """Parameters of the blocks behind the trunk; none where they are the trunk's own."""
        if self.after is None:
            return []
        return [parameter for parameter in self.classifier.backbone.parameters() if parameter.requires_grad]

    def complete(self, trunk: Backbone) -> Classifier:
        """The classifier with the trunk's weights, to be used without the segmenter."""
        backbone = self.classifier.backbone
        backbone.load_state_dict({**backbone.state_dict(), **trunk.state_dict()})
        return self.classifier
