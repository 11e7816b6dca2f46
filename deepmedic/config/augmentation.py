"""Augmentation of training data: the settings, and the nested tables that give them in a file."""

from __future__ import annotations

from dataclasses import dataclass

from deepmedic.config.options import option


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and standard deviation of a normal distribution."""

    mean: float = option("mu", doc="Mean, in normalised intensities.")
    std: float = option("std", minimum=0, doc="Standard deviation, in normalised intensities; 0 gives the mean.")


@dataclass(frozen=True, kw_only=True)
class SegmentAugmentation:
    """Augmentation of segments; everything None or zero: off."""

    shift: Gaussian | None = None
    scale: Gaussian | None = None
    reflect: tuple[float, float, float] | None = None
    """Probability to flip along x, y, z."""
    rotate90: dict[str, tuple[float, float, float, float]] | None = None
    """Plane "xy", "yz", "xz" -> probabilities of 0, 90, 180, 270 degrees, of sum 1; only planes that are rotated."""


@dataclass(frozen=True, kw_only=True)
class AffineAugmentation:
    """Random rotation and scaling of a whole case, before segments are cut."""

    probability: float = option(
        "prob", 0.0, minimum=0, maximum=1, doc="Probability that a case is transformed when it is read for sampling."
    )
    max_rotation: tuple[float, float, float] = option(
        "max_rot_xyz",
        (45.0, 45.0, 45.0),
        minimum=0,
        maximum=180,
        doc="Largest rotation in degrees, in the planes of array axes (0, 1), (0, 2) and (1, 2); the angle is uniform "
        "between its negative and its positive.",
    )
    max_scaling: float = option(
        "max_scaling", 0.1, minimum=0, below=1, doc="Largest relative change of size; 0.1 scales by 0.9 to 1.1."
    )
    seed: int | None = option(
        "seed", None, minimum=0, doc="Fixes the transformation: every case then gets the same one. Leave it out."
    )
    order_images: int = option(
        "interp_order_imgs", 1, choices=(0, 1, 2, 3), doc="Order of the splines that interpolate images; 1 is linear."
    )
    order_labels: int = option(
        "interp_order_lbls", 0, choices=(0, 1, 2, 3), doc="The same for labels; 0 takes the nearest voxel."
    )
    order_roi: int = option("interp_order_roi", 0, choices=(0, 1, 2, 3), doc="The same for ROI masks.")
    order_weight_maps: int = option("interp_order_wmaps", 1, choices=(0, 1, 2, 3), doc="The same for weight maps.")
    boundary_mode: str = option(
        "boundary_mode",
        "nearest",
        choices=("nearest", "constant", "min", "mirror", "reflect", "wrap"),
        doc='What lies outside the image: its nearest voxel, a constant (cval), the minimum of the image ("min"), a '
        "reflection without or with the border voxel repeated (mirror, reflect), or the other side (wrap).",
    )
    constant: float = option("cval", 0.0, doc='Intensity outside the image with boundary_mode "constant".')


@dataclass(frozen=True, kw_only=True)
class ImageAugmentationKeys:
    """Sub-keys of the augmentation of whole images."""

    affine: AffineAugmentation | None = option("affine", None, doc="Random rotation and scaling.")


@dataclass(frozen=True, kw_only=True)
class HistogramKeys:
    """Sub-keys of the change of intensities."""

    shift: Gaussian | None = option("shift", None, doc="Added to all intensities of a channel; drawn per segment.")
    scale: Gaussian | None = option("scale", None, doc="Multiplies all intensities of a channel, after the shift.")


@dataclass(frozen=True, kw_only=True)
class RotationKeys:
    """Relative frequencies of rotations in one plane."""

    none: float = option("0", 0.0, minimum=0, doc="Relative frequency of no rotation.")
    quarter: float = option("90", 0.0, minimum=0, doc="Relative frequency of 90 degrees.")
    half: float = option("180", 0.0, minimum=0, doc="Relative frequency of 180 degrees.")
    three_quarters: float = option("270", 0.0, minimum=0, doc="Relative frequency of 270 degrees.")

    def probabilities(self) -> tuple[float, float, float, float] | None:
        """Return the probabilities of 0, 90, 180, 270 degrees, or None when all frequencies are zero."""
        total = self.none + self.quarter + self.half + self.three_quarters
        if total == 0:
            return None
        return self.none / total, self.quarter / total, self.half / total, self.three_quarters / total


@dataclass(frozen=True, kw_only=True)
class Rotate90Keys:
    """The planes of rotations by right angles."""

    xy: RotationKeys | None = option("xy", None, doc="Rotations in the plane of x and y; all zero: none.")
    yz: RotationKeys | None = option("yz", None, doc="Rotations in the plane of y and z; all zero: none.")
    xz: RotationKeys | None = option("xz", None, doc="Rotations in the plane of x and z; all zero: none.")

    def planes(self) -> dict[str, tuple[float, float, float, float]] | None:
        """Return the probabilities per plane, without planes that are never rotated; None when there are none."""
        given = {"xy": self.xy, "yz": self.yz, "xz": self.xz}
        planes = {plane: keys.probabilities() for plane, keys in given.items() if keys is not None}
        return {plane: rates for plane, rates in planes.items() if rates is not None} or None


@dataclass(frozen=True, kw_only=True)
class SegmentAugmentationKeys:
    """Sub-keys of the augmentation of segments."""

    hist_dist: HistogramKeys | None = option(
        "hist_dist", None, doc="Changes intensities to (intensity + shift) * scale, drawn per channel and segment."
    )
    reflect: tuple[float, float, float] | None = option(
        "reflect", None, minimum=0, maximum=1, doc="Probabilities of a flip along x, y and z."
    )
    rotate90: Rotate90Keys | None = option(
        "rotate90",
        None,
        doc="Rotations by right angles; segments must be as long along both axes of a plane that is rotated.",
    )


def image_augmentation(keys: ImageAugmentationKeys) -> AffineAugmentation | None:
    """Return the settings that a table of the augmentation of whole images gives."""
    return keys.affine


def segment_augmentation(keys: SegmentAugmentationKeys) -> SegmentAugmentation | None:
    """Return the settings that a table of the augmentation of segments gives, or None when all of it is off."""
    histogram = keys.hist_dist or HistogramKeys()
    rotations = None if keys.rotate90 is None else keys.rotate90.planes()
    settings = SegmentAugmentation(
        shift=histogram.shift, scale=histogram.scale, reflect=keys.reflect, rotate90=rotations
    )
    return None if settings == SegmentAugmentation() else settings


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is changed at random in training data."""

    image: AffineAugmentation | None = option(
        "augm_img_prms_tr",
        None,
        default_text="off",
        shape=ImageAugmentationKeys,
        build=image_augmentation,
        doc="Augmentation of whole images before segments are cut. Slow, but it makes rotations by any angle.",
    )
    segment: SegmentAugmentation | None = option(
        "augm_sample_prms_tr",
        None,
        default_text="off",
        shape=SegmentAugmentationKeys,
        build=segment_augmentation,
        doc="Augmentation of segments after they are cut, with all pathways of a segment changed alike.",
    )
