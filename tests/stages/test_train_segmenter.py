from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tag2mask.losses.balanced_seed import balanced_seed_loss
from tests.stages.conftest import Finished
from tests.stages.segmenters import START, uncached


def test_the_loss_is_cross_entropy_of_upsampled_scores(finished: Finished) -> None:
    stage, env = uncached(finished), finished.env
    system = stage.system(env).eval()
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels[0, :4] = 255
    images = torch.randn(2, 3, 64, 64)
    ((name, (total, count)),) = system({"image": images, "labels": labels}, START).items()
    network: Any = system.network
    scores = network.head(network.backbone(images))
    scores = F.interpolate(scores, (16, 16), mode="bilinear", align_corners=False)
    log_p = scores.log_softmax(1)
    chosen = [log_p[n, int(labels[n, y, x]), y, x] for n, y, x in (labels != 255).nonzero().tolist()]
    assert name == "cross_entropy"
    assert int(count) == len(chosen) == 2 * 256 - 64
    assert float(total.detach()) == pytest.approx(-float(torch.stack(chosen).sum().detach()), rel=1e-4)


def test_the_loss_of_choice_is_the_objective(finished: Finished) -> None:
    stage = uncached(finished, loss="balanced_seed")
    system: Any = stage.system(finished.env).eval()
    labels = torch.randint(0, 3, (1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = torch.zeros(1, 3, 64, 64)
    losses = system({"image": images, "labels": labels}, START)
    scores = F.interpolate(system.network(images), (16, 16), mode="bilinear", align_corners=False)
    assert torch.allclose(losses["balanced_seed"][0], balanced_seed_loss(scores, labels)[0])
