"""Superpixels by repeated normalised cuts: what superpixel discovery by the lowest degree is compared with.

Shi and Malik, "Normalized Cuts and Image Segmentation" (PAMI 2000), as used by Kim, "A Study on Weakly Supervised
Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul National University, 2022), section
3.4.3, equations 3.13 to 3.15. What the source leaves open is settled here: epsilon is 1e-5 (TokenCut's, Wang et al.,
CVPR 2022), and a rest whose pixels are all similar to each other is not cut any further.
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from tag2mask.errors import DataError, SettingsError

DISSIMILAR = 1e-5
"""Weight between two pixels whose similarity does not exceed the threshold."""

_ROUNDING = 1e-9  # entries of an eigenvector count as equal within this share of the largest


def normalised_cut_superpixels(features: npt.NDArray[np.floating], threshold: float) -> npt.NDArray[np.int32]:
    """Partition pixels by bipartitions of the graph of their similarities, the smaller part of each a superpixel.

    With the cosine similarities A, W_pq is 1 where A_pq > threshold and 1e-5 elsewhere, and D the diagonal matrix of
    its row sums. As long as pixels remain: y is the eigenvector of (D - W) y = lambda D y with the second smallest
    eigenvalue; remaining pixels above the mean of y are one part and the rest the other; the smaller part is the next
    superpixel and the other remains. It ends when one pixel remains, or only pixels that are all similar to each
    other: a cut of those would mean nothing, and they are the last superpixel.

    Ties: an eigenvector's sign is arbitrary, so its entry of largest magnitude (the lowest pixel's among equals) is
    made positive; entries equal to the mean are not above it; of two parts of equal size the one above is the
    superpixel. Where the second eigenvalue has several eigenvectors (three equal groups, say) the one that LAPACK
    returns decides: the same input gives the same superpixels on one machine, but other libraries may cut such graphs
    in another order.

    The time of every cut grows with the cube of the pixels that remain; those of 768 patches take 0.1 to 0.2 s in all.

    Args:
        features: floats of shape (N, d), finite.
        threshold: tau, at least 0 and below 1.

    Returns:
        int32 of shape (N,): superpixels from 0, in order of discovery.

    Raises:
        DataError: features of another type or shape, or that are not finite.
        SettingsError: the threshold is out of its range.

    Example:
        >>> normalised_cut_superpixels(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [1.0, 0.1]]), 0.3).tolist()
        [1, 0, 1, 1]
    """
    if not 0 <= threshold < 1:
        raise SettingsError(f"threshold must be at least 0 and below 1, not {threshold}")
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise DataError(f"features must be floats of shape (N, d), not {features.dtype} of shape {features.shape}")
    if not np.isfinite(features).all():
        raise DataError("features must be finite; found NaN or infinity")
    weights = _weights(features.astype(np.float64), threshold)
    labels = np.zeros(len(features), dtype=np.int32)
    remaining, found = np.arange(len(features)), 0
    while len(remaining):
        part = _smaller_part(weights[np.ix_(remaining, remaining)])
        labels[remaining[part]] = found
        remaining, found = remaining[~part], found + 1
    return labels


def _weights(features: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.float64]:
    """W of equation 3.13, (N, N), ones on its diagonal: a pixel is similar to itself."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    normalised = features / np.where(lengths > 0, lengths, 1)
    weights = np.where(normalised @ normalised.T > threshold, 1.0, DISSIMILAR)
    np.fill_diagonal(weights, 1)
    return weights


def _smaller_part(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The pixels of the next superpixel; all of them where there is nothing to cut."""
    everything = np.ones(len(weights), dtype=bool)
    if weights.min() == 1:
        return everything
    scale = 1 / np.sqrt(weights.sum(axis=1))
    # D^-1/2 (D - W) D^-1/2 z = lambda z has the same eigenvalues, and y = D^-1/2 z.
    laplacian = np.eye(len(weights)) - scale[:, None] * weights * scale
    _, vectors = eigh(laplacian, subset_by_index=[1, 1], overwrite_a=True, check_finite=False)
    cut = scale * vectors[:, 0]
    sizes = np.abs(cut)
    cut /= cut[np.argmax(sizes > (1 - _ROUNDING) * sizes.max())]
    # Two pixels that alone are not similar to each other give the vector (1, -1, 0, 0, ...): the zeros, its mean, must
    # not be dealt out by rounding.
    above = cut - cut.mean() > _ROUNDING
    return above if 2 * above.sum() <= len(above) else ~above
