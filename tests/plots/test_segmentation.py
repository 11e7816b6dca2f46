from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from deepmedic.errors import CommandLineError, DataError
from deepmedic.plots import canvas
from deepmedic.plots.segmentation import (
    CLASS_COLOURS,
    ERROR_COLOUR,
    SegmentationRequest,
    segmentation_figure,
)

SHAPE = (12, 16, 10)


@pytest.fixture
def request_of(write_nifti: Callable[..., Path], output: Path) -> SegmentationRequest:
    """A head of two classes, of whose 8 x 12 x 6 voxels the prediction gets one wrong."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:10, 2:14, 2:8] = 1
    labels[2:10, 2:14, 5:8] = 2
    scan = np.where(labels > 0, 100 + labels, 0).astype(np.int16)
    prediction = labels.copy()
    prediction[5, 7, 4] = 2
    return SegmentationRequest(
        scan=write_nifti("T1.nii.gz", scan),
        labels=write_nifti("labels.nii.gz", labels),
        prediction=write_nifti("prediction.nii.gz", prediction),
        class_names=("background", "lower", "upper"),
        history=output / "logs" / "first.metrics.csv",
        output=output / "result.png",
        title="A head",
        caption="Synthetic.",
    )


@pytest.fixture
def figure(request_of: SegmentationRequest, monkeypatch: pytest.MonkeyPatch) -> Figure:
    return drawn(request_of, monkeypatch)


def drawn(request: SegmentationRequest, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return path

    monkeypatch.setattr(canvas, "save_figure", keep)
    segmentation_figure(request)
    return figures[0]


def images(figure: Figure) -> dict[str, np.ndarray]:
    """The axial slices by their titles."""
    return {axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in figure.axes[:4]}


def test_axial_slices_show_scan_labels_prediction_and_the_wrong_voxel(figure: Figure) -> None:
    shown = images(figure)
    assert list(shown) == ["scan", "labels", "prediction", "errors"]
    wrong = np.all(np.isclose(shown["errors"], to_rgb(ERROR_COLOUR)), axis=2)
    assert wrong.sum() == 1
    # Voxel (5, 7) of a slice whose first row is the most anterior voxel and whose first column the rightmost one.
    assert np.argwhere(wrong).tolist() == [[SHAPE[1] - 1 - 7, SHAPE[0] - 1 - 5]]
    differ = np.any(shown["labels"] != shown["prediction"], axis=2)
    np.testing.assert_array_equal(differ, wrong)


def test_classes_have_their_colours_over_the_scan(figure: Figure) -> None:
    labels, scan = images(figure)["labels"], images(figure)["scan"]
    inside = scan[..., 0] > 0
    hue = labels[inside][0] - 0.2 * scan[inside][0]  # what 80 % of the colour adds
    np.testing.assert_allclose(hue, 0.8 * np.array(to_rgb(CLASS_COLOURS[0])), atol=1e-6)
    np.testing.assert_array_equal(labels[~inside], scan[~inside])


def test_titles_legend_and_caption_say_what_is_seen(figure: Figure) -> None:
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "A head"
    caption = " ".join(texts[1].split())
    assert caption.startswith("Synthetic. Labels and prediction differ in 0.2% of the voxels")  # 1 of 576
    assert "radiological convention" in caption
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "lower",
        "upper",
        "labels and prediction differ",
    ]
    letters = [[text.get_text() for text in axes.texts] for axes in figure.axes[::4][:3]]
    assert letters == [["R", "L", "50 mm"], ["R", "L"], ["A", "P"]]
    assert [axes.get_ylabel() for axes in figure.axes[::4][:3]] == [
        "axial, z = 8 mm",
        "coronal, y = 14 mm",
        "sagittal, x = 10 mm",
    ]


def test_all_slices_have_one_scale(figure: Figure) -> None:
    scales = []
    for axes in figure.axes[:12]:
        box = axes.get_position()
        inches = np.array([box.width, box.height]) * figure.get_size_inches()
        millimetres = [np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())]
        scales += list(inches / millimetres)
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)


def test_curves_have_the_colours_of_the_classes(figure: Figure) -> None:
    cost, dice = figure.axes[12:]
    assert (cost.get_ylabel(), dice.get_ylabel()) == ("cost", "Dice")
    on_volumes = [one for one in dice.get_lines() if np.array_equal(np.asarray(one.get_xdata()), [1, 2, 3])]
    assert [one.get_color() for one in on_volumes] == list(CLASS_COLOURS[:2])
    legend = dice.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "training samples",
        "validation, whole volumes",
    ]


def test_equal_files_give_equal_bytes(request_of: SegmentationRequest) -> None:
    first = segmentation_figure(request_of).read_bytes()
    again = segmentation_figure(replace(request_of, output=request_of.output.with_name("again.png")))
    assert first.startswith(b"\x89PNG")
    assert again.read_bytes() == first


def test_without_a_history_there_are_slices_only(
    request_of: SegmentationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(drawn(replace(request_of, history=None), monkeypatch).axes) == 12


def test_a_prediction_of_another_scan_is_refused(
    request_of: SegmentationRequest, write_nifti: Callable[..., Path]
) -> None:
    other = write_nifti("other.nii.gz", np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(DataError, match=r"other\.nii\.gz: has 3x3x3 voxels and the scan .* has 12x16x10"):
        segmentation_figure(replace(request_of, prediction=other))


def test_an_empty_scan_is_refused(request_of: SegmentationRequest, write_nifti: Callable[..., Path]) -> None:
    empty = write_nifti("empty.nii.gz", np.full(SHAPE, 3, np.int16))
    with pytest.raises(DataError, match=r"empty\.nii\.gz: all voxels have the value 3"):
        segmentation_figure(replace(request_of, scan=empty))


@pytest.mark.parametrize("names", [("background",), tuple("abcdefgh")])
def test_too_few_or_too_many_classes_are_refused(request_of: SegmentationRequest, names: tuple[str, ...]) -> None:
    with pytest.raises(CommandLineError, match=f"{len(names)} class names: .* drawn with 2 to 7 classes"):
        segmentation_figure(replace(request_of, class_names=names))
