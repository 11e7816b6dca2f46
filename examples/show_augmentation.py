"""What augmentation does to segments of the shipped scans: the pictures of documentation/augmentation.md.

    python examples/show_augmentation.py [FOLDER]

Reads the training scans of the quickstart, draws segments from them as a training does, and writes one PNG for each
kind of augmentation, by default into `documentation/pictures/`. The draws come from fixed seeds: the pictures repeat.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepmedic.config.augmentation import AffineAugmentation, Gaussian, SegmentAugmentation
from deepmedic.config.load import load_model_config, load_train_config
from deepmedic.config.training import AugmentationConfig
from deepmedic.data.affine import augment_case, draw_affine
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import stream
from deepmedic.data.residency import pool_for
from deepmedic.data.segments import SegmentBatch
from deepmedic.data.source import SegmentSource, SourceSettings
from deepmedic.errors import ProblemList
from deepmedic.plots.canvas import COLOURS, drawing, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "documentation" / "pictures"
SHOWN = 4
"""Segments per picture."""
SEGMENT = (37, 37, 37)
GREYS = (-2.0, 2.0)
"""Intensities drawn black and white: scans have mean 0 and standard deviation 1 within the brain."""
TISSUES = ("CSF", "grey matter", "white matter")

SEGMENT_KINDS: dict[str, tuple[str, SegmentAugmentation]] = {
    "intensity": (
        "hist_dist: intensities shifted and scaled (stronger than one would train with)",
        SegmentAugmentation(shift=Gaussian(mean=0.0, std=0.5), scale=Gaussian(mean=1.0, std=0.3)),
    ),
    "reflection": (
        "reflect = [1.0, 0.0, 0.0]: mirrored left to right",
        SegmentAugmentation(reflect=(1.0, 0.0, 0.0)),
    ),
    "rotation": (
        "rotate90.xy: turned by 90, 180 or 270 degrees",
        SegmentAugmentation(rotate90={"xy": (0.0, 1.0, 1.0, 1.0)}),
    ),
}
AFFINE = AffineAugmentation(probability=1.0, max_rotation=(30.0, 30.0, 30.0), max_scaling=0.15)


def training_scans() -> DataSet:
    """The training scans of the quickstart, prepared for larger segments than the quickstart's."""
    folder = ROOT / "configs" / "quickstart"
    model, train = load_model_config(folder / "model.cfg"), load_train_config(folder / "train.cfg")
    architecture, problems = model.architecture, ProblemList()
    needs = CaseNeeds(architecture.classes, architecture.margins(SEGMENT), SEGMENT, architecture.input_channels)
    data = read_data_set(train.data, "training", train.preprocessing, needs, problems, needs_labels=True)
    problems.raise_if_any()
    return data


def source_of(data: DataSet, augmentation: AugmentationConfig | None) -> SegmentSource:
    """Segments drawn as in the quickstart's training."""
    folder = ROOT / "configs" / "quickstart"
    model, train = load_model_config(folder / "model.cfg"), load_train_config(folder / "train.cfg")
    settings = SourceSettings(
        role="train",
        seed=4,
        segment=SEGMENT,
        segments=SHOWN,
        batch_size=SHOWN,
        cases=1,
        sampling=replace(train.sampling, proportions=(0.0, 0.2, 0.4, 0.4)),
        augmentation=augmentation,
    )
    return SegmentSource(data, model.architecture, settings, pool_for(data, torch.device("cpu"), 2**30))


def segments_picture(data: DataSet, title: str, kind: SegmentAugmentation) -> Figure:
    """Segments as they were cut, and below them the same ones changed: both pathways, and the labels on the first."""
    before = source_of(data, None).subepoch(0, 0)[0]
    after = source_of(data, AugmentationConfig(segment=kind)).subepoch(0, 0)[0]
    figure = new_figure(1.3 * SHOWN + 0.6, 5.9, "constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(4, SHOWN)
    for column in range(SHOWN):
        for row, (batch, pathway) in enumerate([(before, 0), (after, 0), (before, 1), (after, 1)]):
            show(axes[row, column], batch, column, pathway)
    name_rows(axes, ["as it was cut", "augmented", "low resolution,\nas it was cut", "low resolution,\naugmented"])
    return figure


def affine_picture(data: DataSet) -> Figure:
    """A whole scan as it was read, and versions of it; below each of them a segment from its middle."""
    figure = new_figure(1.3 * SHOWN + 0.6, 3.4, "constrained")
    figure.suptitle("augm_img_prms_tr.affine: whole scans rotated and scaled before segments are cut", fontsize=9)
    axes = figure.subplots(2, SHOWN, height_ratios=[1.2, 1.0])
    for column, (name, channels, labels) in enumerate(versions(data)):
        middle = tuple(size // 2 for size in labels.shape)
        low = [centre - extent // 2 for centre, extent in zip(middle, SEGMENT, strict=True)]
        x, y, _ = (slice(start, start + extent) for start, extent in zip(low, SEGMENT, strict=True))
        draw(axes[0, column], channels[:, :, middle[2]], None)
        axes[0, column].set_title(name)
        outline(axes[0, column], (x.start, x.stop), (y.start, y.stop), "white")
        draw(axes[1, column], channels[x, y, middle[2]], labels[x, y, middle[2]].astype(float))
    name_rows(axes, ["whole scan", "its middle\nas a segment"])
    return figure


def versions(data: DataSet) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """A scan as it was read, and as it is augmented: name, channel and labels [x, y, z]."""
    case = data.load(0)
    yield "as it was read", *arrays_of(case)
    for number in range(1, SHOWN):
        matrix = draw_affine(stream(0, "picture", number), AFFINE)
        assert matrix is not None
        yield f"drawn, {number}", *arrays_of(augment_case(case, matrix, AFFINE, "cpu"))


def arrays_of(case: PreparedCase) -> tuple[np.ndarray, np.ndarray]:
    """The first channel and the labels, [x, y, z]."""
    assert case.labels is not None
    return case.channels[0].numpy(), case.labels.numpy()


def show(axes: Axes, batch: SegmentBatch, segment: int, pathway: int) -> None:
    """Draw the middle slice of a segment along z; on the normal pathway's the outlines of the labels."""
    values = batch.inputs[pathway][segment, 0].numpy()
    labels = None
    if pathway == 0 and batch.labels is not None:
        predicted = batch.labels[segment].numpy()
        margin = [(size - inner) // 2 for size, inner in zip(values.shape, predicted.shape, strict=True)]
        labels = np.full(values.shape[:2], np.nan)
        inside = tuple(slice(low, low + size) for low, size in zip(margin[:2], predicted.shape[:2], strict=True))
        labels[inside] = predicted[:, :, predicted.shape[2] // 2]
    draw(axes, values[:, :, values.shape[2] // 2], labels)


def draw(axes: Axes, image: np.ndarray, labels: np.ndarray | None) -> None:
    """Draw a slice [x, y] with y upwards, and outlines between labels [x, y]; no labels where they are nan."""
    axes.imshow(image.T, cmap="gray", vmin=GREYS[0], vmax=GREYS[1], origin="lower", interpolation="nearest")
    if labels is not None:
        known = ~np.isnan(labels)
        x, y = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
        outline(axes, (x[0], x[-1] + 1), (y[0], y[-1] + 1), "white")
        for tissue, colour in zip(range(1, 1 + len(TISSUES)), COLOURS, strict=False):
            inside = np.where(known, labels == tissue, np.nan)
            if (labels == tissue).any() and (labels[known] != tissue).any():
                axes.contour(inside.T, levels=[0.5], colors=[colour], linewidths=0.7)
    axes.set(xticks=[], yticks=[])


def outline(axes: Axes, x: tuple[int, int], y: tuple[int, int], colour: str) -> None:
    """Draw the box of voxels from the first of each pair to the one before the second."""
    corners = np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]), (x[0], y[0])]) - 0.5
    axes.plot(corners[:, 0], corners[:, 1], color=colour, linewidth=0.8, linestyle=":")


def name_rows(axes: np.ndarray, names: Sequence[str]) -> None:
    for first, name in zip(axes[:, 0], names, strict=True):
        first.set_ylabel(name)


def main(folder: Path) -> None:
    data = training_scans()
    with drawing():
        figures = {"affine": affine_picture(data)}
        figures |= {name: segments_picture(data, *kind) for name, kind in SEGMENT_KINDS.items()}
        for name, figure in figures.items():
            sys.stdout.write(f"{save_figure(figure, folder / f'augmentation_{name}.png')}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
