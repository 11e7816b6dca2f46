"""Refinements of inference that the original does not have, each off unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from deepmedic.config.options import option

AxisName = Literal["x", "y", "z"]
UncertaintyKind = Literal["entropy", "variance"]

AXES: tuple[AxisName, ...] = ("x", "y", "z")


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """In alphabetical order, since the order decides nothing."""
    if len(set(names)) < len(names):
        raise ValueError(f"found {list(names)}; allowed: each name once")
    return tuple(sorted(names))


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """How a case is predicted beyond one pass of one model, and what is done to its segmentation."""

    mirrored_axes: tuple[AxisName, ...] = option(
        "testTimeMirroring",
        (),
        origin="new",
        default_text="off",
        build=_each_once,
        doc='Axes along which each case is mirrored as well, such as ["x"]: it is predicted once for every combination '
        "of them (2, 4 or 8 times), each prediction is mirrored back, and the probabilities are averaged. It helps "
        "most where training mirrored along the same axes. Axes are those of the array in memory.",
    )
    blending: Literal["none", "gaussian"] = option(
        "tileBlending",
        "none",
        origin="new",
        doc='How tiles that overlap are put together: "none" lets each voxel come from one tile; "gaussian" makes '
        "tiles overlap by tileOverlap and averages them with weights that fall off from the centre of each.",
    )
    overlap: float = option(
        "tileOverlap",
        0.5,
        minimum=0,
        maximum=0.9,
        origin="new",
        doc='With tileBlending = "gaussian": the share of the box that a tile predicts by which neighbouring tiles '
        "overlap, along each axis. Work grows with it: about 8 times as many tiles at 0.5.",
    )
    sigma: float = option(
        "tileBlendingSigma",
        0.125,
        above=0,
        maximum=10,
        origin="new",
        doc='With tileBlending = "gaussian": standard deviation of the weights, as a share of the length of the box '
        "that a tile predicts.",
    )
    keep_largest: tuple[bool, ...] = option(
        "keepLargestComponent",
        (),
        origin="new",
        default_text="off",
        doc="Of which classes only the largest connected component is kept, in each case; the rest becomes background. "
        "One entry per class; the first one, of the background, stands for all other classes together.",
    )
    minimum_sizes: tuple[float, ...] = option(
        "minimumComponentSize",
        (),
        minimum=0,
        origin="new",
        default_text="off",
        doc="Connected components smaller than this become background. One entry per class, in componentSizeUnit, 0 "
        "for none; the first one, of the background, stands for all other classes together.",
    )
    size_unit: Literal["mm3", "voxels"] = option(
        "componentSizeUnit",
        "mm3",
        origin="new",
        doc="The unit of minimumComponentSize: cubic millimetres, or voxels of the case as it is stored.",
    )
    connectivity: int = option(
        "componentConnectivity",
        26,
        choices=(6, 18, 26),
        origin="new",
        doc="Which voxels are connected in keepLargestComponent and minimumComponentSize: those that share a face (6), "
        "a face or an edge (18), or a face, an edge or a corner (26).",
    )
    uncertainty: tuple[UncertaintyKind, ...] = option(
        "saveUncertaintyMaps",
        (),
        origin="new",
        default_text="none",
        build=_each_once,
        doc='Which maps of uncertainty are saved: "entropy" of the probabilities of each voxel, in nats; "variance" of '
        "the probabilities over the models of an ensemble and the mirrored predictions, mean over the classes.",
    )

    @property
    def postprocesses(self) -> bool:
        """Whether components of the segmentation may be removed."""
        return any(self.keep_largest) or any(self.minimum_sizes)

    @property
    def refines(self) -> bool:
        """Whether a case takes more than one plain pass, `tileBlending` apart."""
        return bool(self.mirrored_axes or self.uncertainty or self.postprocesses)

    def deciding(self) -> Mapping[str, Any]:
        """The settings that decide numbers and differ from "off"; empty when nothing is refined. For fingerprints."""
        used = {
            "blending": self.blending != "none",
            "overlap": self.blending != "none",
            "sigma": self.blending != "none",
            "mirrored_axes": bool(self.mirrored_axes),
            "keep_largest": any(self.keep_largest),
            "minimum_sizes": any(self.minimum_sizes),
            "size_unit": any(self.minimum_sizes),
            "connectivity": self.postprocesses,
        }
        values = asdict(self)
        return {item.name: values[item.name] for item in fields(self) if used.get(item.name, False)}
