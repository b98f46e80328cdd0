"""Class-pattern statistics: means, covariances and first components of features with 1024 channels.
Features are the first 1024 of the 1280 channels of EfficientNet-Lite0 (conv_head at stride 16: 768 pixels of a 500x375
photograph) of 20 photographs. Each photograph counts twice, so that 40 are gathered, with one or two of four classes
drawn at random, as PASCAL VOC's photographs have 1.5 on average. 800 photographs take twenty times as long. Peers that
know no classes are called once for each class, with its photographs' features stacked in float64 or batch by batch;
the stacking is timed with them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA, IncrementalPCA

from bench.harness import Contender, Row, Setting, photographs, side_by_side
from tag2mask.evidence.class_pattern import principal_components
from tag2mask.evidence.class_statistics import ClassStatistics
from tag2mask.networks.backbones import create_backbone

TITLE = "Class-pattern statistics"
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")
SIZE = (375, 500)
DIMENSIONS = 1024
CLASSES = 4
PHOTOGRAPHS = 20
TURNS = 2
FEW = 8  # photographs for scikit-learn's incremental PCA, which is slow

Floats = npt.NDArray[np.floating[Any]]
Tagged = list[tuple[Floats, list[int]]]


@torch.no_grad()
def tagged_features() -> Tagged:
    """Features (pixels, 1024), float32, and classes of all photographs."""
    backbone = create_backbone("tf_efficientnet_lite0", output_stride=16).eval()
    rng = np.random.default_rng(0)
    features = []
    for photo in photographs(PHOTOGRAPHS, SIZE):
        image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
        features.append(backbone((image - 0.5) / 0.5)[0, :DIMENSIONS].flatten(1).T.contiguous().numpy())
    return [
        (one, rng.choice(CLASSES, int(rng.integers(1, 3)), replace=False).tolist())
        for _ in range(TURNS)
        for one in features
    ]


def of_class(tagged: Tagged, class_id: int) -> list[Floats]:
    return [features for features, classes in tagged if class_id in classes]


def ours(tagged: Tagged, kind: type) -> Floats:
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    for features, classes in tagged:
        statistics.add(features.astype(kind, copy=False), classes)
    return np.stack([statistics.covariance(class_id).numpy() for class_id in range(CLASSES)])


def outer_sums(tagged: Tagged) -> Floats:
    """The textbook's sums of f and f f^T in float64, once for each class, as a user of NumPy writes them."""
    sums, products = np.zeros((CLASSES, DIMENSIONS)), np.zeros((CLASSES, DIMENSIONS, DIMENSIONS))
    counts = np.zeros(CLASSES)
    for features, classes in tagged:
        exact = features.astype(np.float64)
        for class_id in classes:
            counts[class_id] += len(exact)
            sums[class_id] += exact.sum(0)
            products[class_id] += exact.T @ exact
    means = sums / counts[:, None]
    return products / counts[:, None, None] - means[:, :, None] * means[:, None, :]


def numpy_cov(tagged: Tagged) -> Floats:
    return np.stack(
        [
            np.cov(np.concatenate(of_class(tagged, class_id)).astype(np.float64), rowvar=False, bias=True)
            for class_id in range(CLASSES)
        ]
    )


def our_component(photos: list[Floats]) -> Floats:
    statistics = ClassStatistics(1, DIMENSIONS)
    for features in photos:
        statistics.add(features, [0])
    return principal_components(statistics.covariance(0).numpy())[1][0]


def pca_component(photos: list[Floats], solver: str) -> Floats:
    stacked = np.concatenate(photos).astype(np.float64)
    component: Floats = PCA(n_components=1, svd_solver=solver, random_state=0).fit(stacked).components_[0]
    return component


def incremental_component(photos: list[Floats]) -> Floats:
    pca = IncrementalPCA(n_components=1)
    for features in photos:
        pca.partial_fit(features)
    component: Floats = pca.components_[0]
    return component


def relative_difference(ours: Any, theirs: Any) -> str:
    """Largest difference in the spectral norm, relative to our largest eigenvalue of that class."""
    norms = [
        [np.abs(np.linalg.eigvalsh(matrix)).max() for matrix in (one - other, one)]
        for one, other in zip(ours, theirs, strict=True)
    ]
    differences = [difference / norm for difference, norm in norms]
    return f"max. {max(differences):.1e} of the largest eigenvalue"


def angle(ours: Any, theirs: Any) -> str:
    """Angle between two directions, signs aside."""
    return f"{np.degrees(np.arccos(min(1.0, abs(float(ours @ theirs))))):.1e} degrees apart"


def rows(setting: Setting) -> Iterator[Row]:
    tagged = tagged_features()
    gigabytes = 800 * np.mean([features.size for features, _ in tagged]) * 8 / 1e9
    peers = [
        Contender("tag2mask, float64 features", partial(ours, tagged, np.float64), relative_difference),
        Contender("NumPy, float64 sums of f f^T", partial(outer_sums, tagged), relative_difference),
        Contender(
            "numpy.cov of stacked features",
            partial(numpy_cov, tagged),
            lambda one, other: f"{relative_difference(one, other)}; would stack {gigabytes:.1f} GB for 800 photographs",
        ),
    ]
    case = f"{len(tagged)} photographs, {CLASSES} covariances"
    yield from side_by_side(case, Contender("tag2mask", partial(ours, tagged, np.float32)), peers, setting)

    photos = of_class(tagged, 1)[:FEW]
    solvers: dict[str, Callable[[], Floats]] = {
        "scikit-learn PCA, covariance_eigh": partial(pca_component, photos, "covariance_eigh"),
        "scikit-learn PCA, randomized": partial(pca_component, photos, "randomized"),
        "scikit-learn IncrementalPCA": partial(incremental_component, photos),
    }
    components = [Contender(name, run, angle) for name, run in solvers.items()]
    case = f"{len(photos)} photographs, first component"
    yield from side_by_side(case, Contender("tag2mask", partial(our_component, photos)), components, setting)
