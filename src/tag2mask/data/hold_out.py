"""A part of the training images set aside, where no list says which ones to measure on."""

from dataclasses import replace

import numpy as np

from tag2mask.data.samples import Dataset, Split
from tag2mask.errors import DataError, SettingsError

DEFAULT_HOLD_OUT = 0.1
"""Share of the images that a run sets aside where nothing says otherwise."""

TOO_FEW = "too few photographs to hold any out; more photographs, a larger --hold_out or a val list are needed"
"""Message about a data set of which `hold_out` cannot hold anything out."""


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Sets a part of the training images aside, so that the classifier can be scored on unseen ones.

    The part is drawn class by class, the rarest class first, until each class has its fraction (rounded, and always
    leaving one to train on); no class gets more than its share, and images without tags have a share like a
    class. Only ids, tags, fraction and seed decide, not the order of the list.

    Args:
        dataset: a data set without `val`.
        fraction: share of the images to set aside, between 0 and 1.
        seed: seed of the draw, not negative.

    Returns:
        the data set split into train and val (named "held-out"); unchanged if it is too small for a single image to be
        set aside.

    Raises:
        SettingsError: the fraction or the seed is out of range.
        DataError: the data set has `val` already.
    """
    if not 0 < fraction < 1:
        raise SettingsError(f"hold-out fraction {fraction} is not between 0 and 1")
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative")
    if dataset.val is not None:
        raise DataError(f"{dataset.root}: has photographs to measure on already, none need be held out")

    no_tag = 0
    shares = {sample.id: sample.tags or (no_tag,) for sample in dataset.train}
    counts = np.bincount([tag for tags in shares.values() for tag in tags], minlength=dataset.num_classes + 1)
    quota = np.minimum(np.floor(fraction * counts + 0.5).astype(int), np.maximum(counts - 1, 0))
    ids = sorted(shares)
    drawn = [ids[index] for index in np.random.default_rng(seed).permutation(len(ids))]
    held: set[str] = set()
    for label in np.argsort(counts, kind="stable"):
        for sample_id in drawn:
            tags = list(shares[sample_id])
            if label in tags and sample_id not in held and (quota[tags] > 0).all():
                quota[tags] -= 1
                held.add(sample_id)
    if not held:
        return dataset
    return replace(
        dataset,
        train=Split(dataset.train.name, tuple(sample for sample in dataset.train if sample.id not in held)),
        val=Split("held-out", tuple(sample for sample in dataset.train if sample.id in held)),
    )
