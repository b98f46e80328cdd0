import torch

from tag2mask.data.view import LABELS, to_view
from tag2mask.stages.seeds import RefineSeeds
from tag2mask.stages.views import load_image, view_image
from tests.stages.conftest import Finished
from tests.stages.segmenters import check_made_up_example, segmenter, uncached


def test_an_example_shows_labels_where_the_photograph_is(finished: Finished) -> None:
    stage, env = uncached(finished), finished.env
    views, labels = stage.settings.views, finished.stage(RefineSeeds)
    mirrors = set()
    for sample in stage.samples(env):
        for epoch in (0, 1):
            example, image = stage.open(env)(sample, epoch), load_image(sample)
            view = views.draw((image.shape[1], image.shape[2]), seed=env.runtime.seed, epoch=epoch, image_id=sample.id)
            mirrors.add(view.mirror)
            mask = torch.from_numpy(labels.load(env, sample.id))
            assert torch.equal(example["labels"], to_view(mask, view, LABELS, stride=4))
            backbone = stage.settings.backbone.create(env.runtime.seed)
            assert torch.equal(example["image"], view_image(image, view, backbone))
    assert mirrors == {False, True}


def test_made_up_examples_have_the_shapes_of_real_ones(finished: Finished) -> None:
    for stage in (segmenter(finished), uncached(finished)):
        check_made_up_example(stage, finished.env)
