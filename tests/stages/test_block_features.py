"""Features of several frozen networks, kept and joined, on the shapes and random weights."""

import numpy as np
import pytest
import torch

from tag2mask.engine.graph import distinct, run_stages
from tag2mask.networks.model_file import load_model
from tag2mask.networks.trunks import Trunks
from tag2mask.stages.block_features import BlockFeatures, FeatureMoments
from tag2mask.stages.views import load_image
from tests.builders import file_bytes
from tests.stages.several_networks import PARTS, Made, joined, planned, segmenter


def test_features_are_kept_once_for_all_that_read_them(several_networks: Made) -> None:
    folders = several_networks.env.workspace.stages
    assert len(list(folders.glob("block_features-*"))) == len(PARTS)
    before = file_bytes(folders)
    env, plan = planned(several_networks.folder, "supervised")
    read = {stage.folder(env).name for stage in distinct(plan.stages(), env) if isinstance(stage, BlockFeatures)}
    assert read == {path.name for path in folders.glob("block_features-*")}
    run_stages(plan.stages(), env)
    assert {name: content for name, content in file_bytes(folders).items() if "block_features" in name} == {
        name: content for name, content in before.items() if "block_features" in name
    }


def test_what_is_kept_is_what_the_network_gives(several_networks: Made) -> None:
    stage, env = joined(several_networks).kept[2], several_networks.env
    backbone = stage.settings.backbone.create(env.runtime.seed).eval()
    trunks = Trunks([backbone], [stage.settings.long_side])
    for sample in stage.samples(env)[:3]:
        (shown,) = trunks.views(load_image(sample))
        with torch.no_grad():
            for mirror, image in ((False, shown), (True, shown.flip(3))):
                assert torch.allclose(stage.load(env, sample.id, mirror=mirror), backbone(image)[0], atol=2e-3)


def test_moments_are_those_of_all_cells(several_networks: Made) -> None:
    stage, env = joined(several_networks).moments[0], several_networks.env
    assert isinstance(stage, FeatureMoments)
    cells = [stage.features.load(env, sample.id, mirror=False).flatten(1) for sample in stage.samples(env)]
    every = torch.cat(cells, 1).double().numpy()
    mean, std = stage.load(env)
    assert np.allclose(mean, every.mean(1), atol=1e-5)
    assert np.allclose(std, np.maximum(every.std(1), 1e-4), atol=1e-5)
    assert stage.metrics(env)["cells"] == every.shape[1]


@pytest.mark.parametrize("mirror", [False, True])
def test_a_training_step_reads_what_inference_does(several_networks: Made, mirror: bool) -> None:
    """Joined features of a batch lie at the top left, 0 around them, and are those of the photograph itself."""
    env, entries = several_networks.env, joined(several_networks).open(several_networks.env)
    network, _ = load_model(segmenter(several_networks).model_path(env))
    assert isinstance(network.backbone, Trunks)
    for sample in segmenter(several_networks).samples(env)[:3]:
        image = load_image(sample)
        found = entries(sample, (image.shape[1], image.shape[2]), mirror)
        shown = network.backbone.views(image)
        expected = network.backbone([part.flip(3) if mirror else part for part in shown])[0]
        rows, columns = expected.shape[1:]
        assert torch.allclose(found["features"][:, :rows, :columns], expected, atol=0.05)
        assert found["cells"][:rows, :columns].all()
        assert int(found["cells"].sum()) == rows * columns
        found["features"][:, :rows, :columns] = 0
        assert not found["features"].any()
