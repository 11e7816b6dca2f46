"""Automatic tissue labels for T1-weighted brain MRI in MNI space: the method behind `make_data.py`.

Expectation-maximisation of a Gaussian mixture (CSF, grey matter, white matter) in which
  - the atlas gives every voxel its own prior class probabilities      (Van Leemput 1999b; Ashburner & Friston 2005),
  - a smooth multiplicative field corrects the intensities             (Wells 1996; Van Leemput 1999a),
  - neighbouring voxels prefer the same class, a mean-field Potts MRF  (Van Leemput 1999b; Zhang 2001),
  - voxels that fit no class do not influence the class parameters     (after Van Leemput 2001).

Wells WM et al. Adaptive segmentation of MRI data. IEEE Trans Med Imaging 15(4):429-442, 1996.
Van Leemput K et al. Automated model-based bias field correction of MR images of the brain.
    IEEE Trans Med Imaging 18(10):885-896, 1999a.
Van Leemput K et al. Automated model-based tissue classification of MR images of the brain.
    IEEE Trans Med Imaging 18(10):897-908, 1999b.
Van Leemput K et al. Automated segmentation of multiple sclerosis lesions by model outlier detection.
    IEEE Trans Med Imaging 20(8):677-688, 2001.
Zhang Y et al. Segmentation of brain MR images through a hidden Markov random field model and the
    expectation-maximization algorithm. IEEE Trans Med Imaging 20(1):45-57, 2001.
Ashburner J, Friston KJ. Unified segmentation. NeuroImage 26(3):839-851, 2005.

Array shapes: a volume is [X, Y, Z]; V is the number of voxels of a mask; K = 3 classes in the order of `TISSUES`.
Lengths are in voxels (2 mm in the example data). Every computation is in float64 with a fixed number of iterations
and no random numbers, so that the same input gives the same labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
LabelArray = NDArray[np.uint8]

TISSUES = ("CSF", "grey matter", "white matter")
"""Class k of this module is label k + 1 in the label files; label 0 is everything outside the brain mask."""
CSF, GREY, WHITE = range(3)


@dataclass(frozen=True)
class EMSettings:
    """How the mixture is fitted; the defaults make the example data."""

    iterations: int = 30
    """Fixed number of EM iterations; the labels have settled well before."""
    prior_floor: float = 0.02
    """Added to every atlas probability: the atlas is an average of other people's brains and never quite certain."""
    prior_weight: float = 1.5
    """Exponent of the atlas probabilities. Above 1 the deep nuclei and the brain stem are less speckled by noise."""
    neighbour_weight: float = 0.3
    """Potts strength: log-odds that one agreeing neighbour out of six adds to a class."""
    bias_fwhm: float = 15.0
    """Full width at half maximum of the Gaussian that smooths the bias field, in voxels."""
    outlier_deviations: float = 3.0
    """A voxel farther than this many deviations from a class influences neither its parameters nor the bias field."""


@dataclass(frozen=True)
class TissueFit:
    """The result of `fit_tissues` for the V voxels of a mask."""

    posterior: FloatArray
    """[K, V], probabilities that sum to 1 over the classes."""
    mean: FloatArray
    """[K], class means of the bias-corrected intensities, in the unit of the scan."""
    deviation: FloatArray
    """[K], class standard deviations in the same unit."""
    corrected: FloatArray
    """[V], intensities divided by the bias field, whose geometric mean over the mask is 1."""


def fit_tissues(scan: FloatArray, priors: FloatArray, mask: BoolArray, settings: EMSettings | None = None) -> TissueFit:
    """Fit the mixture to the voxels of `mask`.

    scan [X, Y, Z]: intensities; those below 1 are taken as 1, because the bias field is multiplicative.
    priors [K, X, Y, Z]: atlas probabilities, at least 0.
    """
    settings = settings or EMSettings()
    log_scan = np.log(np.maximum(scan[mask], 1.0))
    log_prior = settings.prior_weight * np.log(priors[:, mask] + settings.prior_floor)
    posterior = _normalised_exp(log_prior)
    inlier = np.ones_like(posterior)
    log_bias = np.zeros_like(log_scan)
    for iteration in range(settings.iterations):
        corrected = np.exp(log_scan - log_bias)
        mean, deviation = _class_parameters(corrected, posterior * inlier)
        distance = (corrected - mean[:, None]) / deviation[:, None]
        score = log_prior - 0.5 * distance**2 - np.log(deviation)[:, None]
        if iteration > 0:  # the first posterior is the bare atlas: it knows nothing of this person's neighbourhoods
            score += settings.neighbour_weight * _neighbour_sums(posterior, mask)
        posterior = _normalised_exp(score)
        inlier = (np.abs(distance) < settings.outlier_deviations).astype(np.float64)
        log_bias = _log_bias(log_scan, posterior * inlier, mean, deviation, mask, settings.bias_fwhm)
    return TissueFit(posterior, mean, deviation, np.exp(log_scan - log_bias))


def _normalised_exp(score: FloatArray) -> FloatArray:
    """Softmax over the first axis: [K, V] -> [K, V]."""
    likelihood = np.exp(score - score.max(axis=0))
    return likelihood / likelihood.sum(axis=0)


def _class_parameters(corrected: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and standard deviation of each class: [V], [K, V] -> [K], [K]."""
    total = weight.sum(axis=1)
    mean = (weight * corrected).sum(axis=1) / total
    variance = (weight * (corrected - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(variance)


def _neighbour_sums(posterior: FloatArray, mask: BoolArray) -> FloatArray:
    """Expected number of face neighbours in each class, those outside the mask counting for none: [K, V] -> [K, V]."""
    sums = np.empty_like(posterior)
    volume = np.zeros(mask.shape)
    for k, probability in enumerate(posterior):
        volume[mask] = probability
        sums[k] = sum(
            ndimage.correlate1d(volume, [1.0, 0.0, 1.0], axis=axis, mode="constant")[mask] for axis in range(3)
        )
    return sums


def _log_bias(
    log_scan: FloatArray, weight: FloatArray, mean: FloatArray, deviation: FloatArray, mask: BoolArray, fwhm: float
) -> FloatArray:
    """Logarithm [V] of the bias field: the low-pass filtered residual log(scan / class mean), as in Wells 1996.

    A class with mean m and deviation s weighs (m / s)^2, the inverse variance of log-intensities. CSF does not take
    part: at the border of the brain it is mixed with bone, and its darkness would be mistaken for a bias.
    """
    precision = weight * ((mean / deviation) ** 2)[:, None]
    precision[CSF] = 0.0
    residual = (precision * (log_scan - np.log(mean)[:, None])).sum(axis=0)

    def smooth(values: FloatArray) -> FloatArray:
        volume = np.zeros(mask.shape)
        volume[mask] = values
        sigma = fwhm / np.sqrt(8.0 * np.log(2.0))
        return np.asarray(ndimage.gaussian_filter(volume, sigma, mode="constant", truncate=3.0)[mask], dtype=np.float64)

    log_bias = smooth(residual) / (smooth(precision.sum(axis=0)) + 1e-9)
    return log_bias - log_bias.mean()


def ball(radius: float) -> BoolArray:
    """Structuring element: the voxels whose centres lie within `radius` voxels of the centre, [n, n, n] with n odd."""
    reach = int(radius)
    offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    return np.asarray((offsets**2).sum(axis=0) <= radius**2 + 1e-6)


def largest_component(mask: BoolArray) -> BoolArray:
    """The face-connected component with most voxels. An empty mask stays empty."""
    components, count = ndimage.label(mask)
    if count == 0:
        return mask.copy()
    return np.asarray(components == 1 + np.argmax(np.bincount(components.ravel())[1:]))


def brain_mask(tissue: BoolArray, fluid: BoolArray, envelope: BoolArray) -> BoolArray:
    """Brain with its sulci and a rim of one voxel of subarachnoid fluid, all arguments and the result [X, Y, Z].

    tissue: grey or white matter by intensity; bridges to the meninges up to two voxels wide are cut.
    fluid: dark enough to be fluid; only such voxels join the rim, so that bright fat and marrow stay out.
    envelope: nothing outside it belongs to the brain.
    """
    margin = 4  # the volume's faces must not act as background when sulci are closed
    padded = np.pad(largest_component(ndimage.binary_opening(tissue, ball(1.5))), margin)
    inside = (slice(margin, -margin),) * 3
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(padded, ball(3.0))[inside]) & envelope
    smooth = largest_component(ndimage.binary_opening(np.pad(closed, margin, mode="edge"), ball(2.0))[inside])
    rim = ndimage.binary_dilation(smooth, ball(1.0)) & fluid & envelope
    return np.asarray(ndimage.binary_fill_holes(smooth | rim))


def label_scan(
    scan: FloatArray, priors: FloatArray, envelope: BoolArray, settings: EMSettings | None = None
) -> tuple[LabelArray, BoolArray]:
    """Labels (0 outside, then 1 + class) and brain mask of one scan, both [X, Y, Z].

    The mixture is fitted twice: inside the atlas's envelope to find the brain, then inside the brain to label it.
    Priors as in `fit_tissues`; the envelope is a generous mask of where a brain can be.
    """
    first = fit_tissues(scan, priors, envelope, settings)
    too_bright = first.mean[WHITE] + 4.0 * first.deviation[WHITE]  # fat, marrow, vessels
    fluid_below = 0.5 * (first.mean[CSF] + first.mean[GREY])
    tissue, fluid = np.zeros((2, *scan.shape), dtype=bool)
    tissue[envelope] = (first.posterior[CSF] < 0.5) & (first.corrected < too_bright)
    fluid[envelope] = first.corrected < fluid_below
    mask = brain_mask(tissue, fluid, envelope)
    labels = np.zeros(scan.shape, dtype=np.uint8)
    labels[mask] = 1 + fit_tissues(scan, priors, mask, settings).posterior.argmax(axis=0)
    return labels, mask
