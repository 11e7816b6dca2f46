"""One picture of a result: slices of scan, labels, prediction and where these differ, beside the training curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepmedic.errors import CommandLineError, DataError
from deepmedic.plots import canvas, slices
from deepmedic.plots.histories import SessionHistory
from deepmedic.plots.history_files import read_history
from deepmedic.plots.panels import DASHES, draw_panel, extent_of, line, panel
from deepmedic.plots.slices import Box, Plane, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Of class 1, 2, ...: neighbours in this order differ in lightness too."""
ERROR_COLOUR = "#F0E442"
"""Yellow: bright on the dimmed scan for readers with any kind of colour vision."""
_COLUMNS = ("scan", "labels", "prediction", "errors")
_SLICE_INCHES = 1.95
_GAP_INCHES = 0.06
_LEFT_INCHES = 0.42
_CURVES_INCHES = 4.1
_TOP_INCHES = 0.68
_BOTTOM_INCHES = 0.85
_BRIGHTEST_PERCENTILE = 99.5
_SCALE_BAR_MM = 50
_LETTERS_PER_INCH = 18
"""Of the caption."""
_OPACITY = 0.8
"""Of classes over the scan."""
_DIMMED = 0.6
"""Brightness of the scan below errors."""


@dataclass(frozen=True)
class SegmentationRequest:
    """What to draw."""

    scan: Path
    labels: Path
    prediction: Path
    class_names: tuple[str, ...]
    """One per class, the background included."""
    history: Path | None
    """A session's metric history or saved model, for the curves; None: no curves."""
    output: Path
    """A .png or .pdf file; one that is there is replaced."""
    title: str = ""
    caption: str = ""
    """Printed below: what the data and the labels are."""


@dataclass(frozen=True)
class _Scene:
    """The volumes, and the part of them that is shown."""

    scan: Volume
    labels: Volume
    prediction: Volume
    centre: tuple[int, int, int]
    box: Box
    darkest: float
    brightest: float

    def image(self, plane: Plane, what: str) -> np.ndarray:
        """One slice as an image [row, column, colour], 0 to 1."""
        from matplotlib.colors import to_rgb

        grey = (self.scan.slice(plane, self.centre, self.box) - self.darkest) / (self.brightest - self.darkest)
        picture = np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=2)
        labels = self.labels.slice(plane, self.centre, self.box)
        prediction = self.prediction.slice(plane, self.centre, self.box)
        if what == "errors":
            picture *= _DIMMED
            picture[labels != prediction] = to_rgb(ERROR_COLOUR)
        elif what != "scan":
            shown = labels if what == "labels" else prediction
            for index, colour in enumerate(CLASS_COLOURS, start=1):
                picture[shown == index] *= 1 - _OPACITY
                picture[shown == index] += _OPACITY * np.array(to_rgb(colour))
        return picture

    def errors(self) -> float:
        """Of the voxels that labels or prediction give a class, the share in which they differ."""
        either = (self.labels.voxels > 0) | (self.prediction.voxels > 0)
        wrong = self.labels.voxels != self.prediction.voxels
        return float(wrong.sum() / max(1, either.sum()))


def segmentation_figure(request: SegmentationRequest) -> Path:
    """Draw axial, coronal and sagittal slices through the middle of the labels, and return the path of the picture.

    Voxel sizes and orientation are respected, all slices have one scale, and the caption says which side is which.
    Equal files give equal bytes.

    Raises:
        CommandLineError: too many or too few class names; another ending than .png or .pdf.
        DataError: an image that is damaged or does not belong to the scan; a file that is no history.
        ResourceError: matplotlib is not installed, or the picture cannot be written.
    """
    canvas.check_format(request.output)
    if not 2 <= len(request.class_names) <= len(CLASS_COLOURS) + 1:
        raise CommandLineError(
            f"{len(request.class_names)} class names: a segmentation is drawn with 2 to {len(CLASS_COLOURS) + 1} "
            "classes, the background included."
        )
    with canvas.drawing():
        scene = _read_scene(request)
        history = read_history(request.history) if request.history is not None else None
        return canvas.save_figure(_figure(request, scene, history), request.output)


def _read_scene(request: SegmentationRequest) -> _Scene:
    classes = len(request.class_names)
    scan = slices.read_volume(request.scan)
    labels = slices.read_classes(request.labels, classes, scan)
    prediction = slices.read_classes(request.prediction, classes, scan)
    background = scan.voxels.min()
    head = scan.voxels > background
    if not head.any():
        raise DataError(f"{request.scan}: all voxels have the value {background:g}; there is nothing to see.")
    labelled = labels.voxels > 0
    return _Scene(
        scan,
        labels,
        prediction,
        centre=slices.middle_of(labelled if labelled.any() else head),
        box=slices.box_of(head, scan.header.spacing),
        darkest=float(background),
        brightest=float(np.percentile(scan.voxels[head], _BRIGHTEST_PERCENTILE)),
    )


def _figure(request: SegmentationRequest, scene: _Scene, history: SessionHistory | None) -> Figure:
    """Place everything in inches, so that millimetres have the same length in all slices."""
    spacing = scene.scan.header.spacing
    sizes = {plane: slices.size_in_mm(plane, scene.box, spacing) for plane in slices.PLANES}
    inches_per_mm = _SLICE_INCHES / max(width for width, _ in sizes.values())
    heights = [sizes[plane][1] * inches_per_mm for plane in slices.PLANES]
    slices_width = _LEFT_INCHES + len(_COLUMNS) * (_SLICE_INCHES + _GAP_INCHES)
    width = slices_width + (_CURVES_INCHES if history is not None else 0.0)
    height = _TOP_INCHES + sum(heights) + _GAP_INCHES * len(heights) + _BOTTOM_INCHES
    figure = canvas.new_figure(width, height)
    top = height - _TOP_INCHES
    for plane, row_height in zip(slices.PLANES, heights, strict=True):
        row = [
            _axes(
                figure,
                _LEFT_INCHES + column * (_SLICE_INCHES + _GAP_INCHES),
                top - row_height,
                _SLICE_INCHES,
                row_height,
            )
            for column in range(len(_COLUMNS))
        ]
        _draw_row(row, scene, plane, _SLICE_INCHES / inches_per_mm)
        top -= row_height + _GAP_INCHES
    if history is not None:
        _draw_curves(figure, history, request.class_names, slices_width)
    _write(figure, request, scene, slices_width)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def _draw_row(row: Sequence[Axes], scene: _Scene, plane: Plane, width_mm: float) -> None:
    """Draw the slices of one plane; all axes are `width_mm` wide."""
    width, height = slices.size_in_mm(plane, scene.box, scene.scan.header.spacing)
    for axes, what in zip(row, _COLUMNS, strict=True):
        axes.imshow(scene.image(plane, what), extent=(-width / 2, width / 2, 0, height), interpolation="nearest")
        axes.set_xlim(-width_mm / 2, width_mm / 2)
        axes.set_facecolor("black")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if plane == slices.PLANES[0]:
            axes.set_title(what, pad=4)
    first = row[0]
    first.set_ylabel(f"{plane}, {slices.place_of(plane, scene.centre, scene.scan.header)}", labelpad=4)
    for letter, across in zip(slices.ends_of(plane), (0.05, 0.95), strict=True):
        first.text(across, 0.93, letter, color="white", ha="center", va="center", transform=first.transAxes)
    if plane == slices.PLANES[0]:
        end = width_mm / 2 - 5
        first.plot([end - _SCALE_BAR_MM, end], [5, 5], color="white", linewidth=1.5)
        first.text(end - _SCALE_BAR_MM / 2, 8, f"{_SCALE_BAR_MM} mm", color="white", ha="center", fontsize=6.5)


def _draw_curves(figure: Figure, history: SessionHistory, class_names: Sequence[str], left: float) -> None:
    """Draw the cost of training and the Dice of each class beside the slices."""
    from matplotlib.lines import Line2D

    styles = [(colour, "") for colour in CLASS_COLOURS[: len(class_names) - 1]]
    measured = [history.on_volumes(index) for index in range(1, len(class_names))]
    on_volumes = not all(curve.is_empty for curve in measured)
    if not on_volumes:
        measured = [history.on_samples("validation", "dice", index) for index in range(1, len(class_names))]
    validation = [line(curve, style) for curve, style in zip(measured, styles, strict=True)]
    training = [
        line(history.on_samples("training", "dice", index), style, dashed=any(validation))
        for index, style in enumerate(styles, start=1)
    ]
    where = "whole volumes" if on_volumes else "samples"
    label = "Dice" if any(validation) else "Dice on training samples"
    cost = panel("Training", [line(history.on_samples("training", "cost"), ("0.25", ""))], "cost", "cost")
    dice = panel("", [*training, *validation], label=label)
    width, height = figure.get_size_inches()
    panel_height = (height - _TOP_INCHES - _BOTTOM_INCHES - 0.55) / 2
    for shown, bottom in ((cost, height - _TOP_INCHES - panel_height), (dice, _BOTTOM_INCHES)):
        axes = _axes(figure, left + 0.65, bottom, width - left - 0.85, panel_height)
        draw_panel(axes, shown, extent_of([history]))
    axes.set_xlabel("epochs of training")
    if any(validation):
        handles = [
            Line2D([], [], color="0.25", linestyle=DASHES, linewidth=1.0, label="training samples"),
            Line2D([], [], color="0.25", label=f"validation, {where}"),
        ]
        axes.legend(handles=handles, loc="lower right", handlelength=2.6, frameon=True, framealpha=0.85, edgecolor="1")


def _write(figure: Figure, request: SegmentationRequest, scene: _Scene, slices_width: float) -> None:
    """Add title, legend and caption."""
    from matplotlib.patches import Patch

    width, height = figure.get_size_inches()
    figure.text(_LEFT_INCHES / width, 1 - 0.2 / height, request.title, fontsize=11, fontweight="bold", va="top")
    named = [*zip(request.class_names[1:], CLASS_COLOURS, strict=False), ("labels and prediction differ", ERROR_COLOUR)]
    handles = [Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5, label=name) for name, colour in named]
    middle = (_LEFT_INCHES + slices_width) / 2 / width
    figure.legend(
        handles=handles, loc="center", bbox_to_anchor=(middle, (_BOTTOM_INCHES - 0.17) / height), ncols=len(handles)
    )
    sentences = [
        request.caption,
        f"Labels and prediction differ in {scene.errors():.1%} of the voxels that either of them gives a class.",
        f"Slices in {slices.CONVENTION}.",
    ]
    text = " ".join(sentence for sentence in sentences if sentence)
    lines = textwrap.wrap(text, width=round(width * _LETTERS_PER_INCH))
    figure.text(_LEFT_INCHES / width, 0.08 / height, "\n".join(lines), fontsize=7.5, color="0.25", va="bottom")
