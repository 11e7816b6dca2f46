"""End to end against predictions that the original made from its own checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from original_names import canonical, is_saved

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.options import Size3
from deepmedic.config.sections import DataConfig, OutputConfig, PreprocessingConfig, ZScoreConfig
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.errors import ProblemList
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import selected_feature_maps
from deepmedic.inference.predictor import predict_volume
from deepmedic.inference.results import ResultFiles, RunIdentity
from deepmedic.inference.segment_cases import SegmentationOptions, SegmentationSummary, segment_cases
from deepmedic.inference.survey import Saving
from deepmedic.inference.tiling import filled_count, tiling_by_segments
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.parameters import load_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"


@dataclass(frozen=True)
class Model:
    architecture: Architecture
    segment: Size3


def pathway(name: str, maps: tuple[int, ...], factor: Size3 = (1, 1, 1), residual: tuple[int, ...] = ()) -> Pathway:
    depth = len(maps)
    return Pathway(name, maps, ((3, 3, 3),) * depth, ("valid",) * depth, (0.0,) * depth, residual, factor=factor)


SINGLE = (1, 1, 1)
NARROW, RESIDUAL = (4, 4, 5, 5, 6, 6, 6, 6), (4, 6, 8)
MODELS = {
    "tiny": Model(
        Architecture(
            input_channels=2,
            classes=3,
            normal=pathway("normal", (5, 6, 7)),
            subsampled=(pathway("subsampled1", (5, 6, 7), (3, 3, 3)),),
            fc=Pathway("fc", (3,), (SINGLE,), ("valid",), (0.5,)),
            batch_norm_window=4,
        ),
        segment=(25, 24, 23),
    ),
    "threepath": Model(
        Architecture(
            input_channels=2,
            classes=3,
            normal=pathway("normal", NARROW, residual=RESIDUAL),
            subsampled=(
                pathway("subsampled1", NARROW, (3, 3, 3), RESIDUAL),
                pathway("subsampled2", NARROW, (5, 5, 5), RESIDUAL),
            ),
            fc=Pathway(
                "fc", (20, 2, 3), ((3, 3, 3), SINGLE, SINGLE), ("mirror", "valid", "valid"), (0.0, 0.5, 0.5), (2,)
            ),
            batch_norm_window=3,
        ),
        segment=(33, 35, 31),
    ),
}
PLAIN = PreprocessingConfig(pad_images=False)
WITH_ROI = {
    "tiny": PreprocessingConfig(
        zscore=ZScoreConfig(all_channels=True, cutoff_percents=(5.0, 95.0), cutoff_times_std=(3.0, 3.0))
    ),
    "threepath": PreprocessingConfig(
        zscore=ZScoreConfig(per_channel=(True, False), cutoff_times_std=(2.0, 2.0), cutoff_below_mean=True)
    ),
}
FEATURE_MAPS = OutputConfig(
    save_feature_maps=True,
    feature_maps_normal=((), (), (), (1, 2), (), (), (), ()),
    feature_maps_subsampled=((), (), (), (), (), (), (), (0, 1)),
    feature_maps_fc=((), (0, 9999), ()),
)


def original_network(model: str) -> DeepMedicNet:
    """The network with the parameters of the original's checkpoint."""
    net = DeepMedicNet(MODELS[model].architecture)
    tensors = {}
    with np.load(GOLDEN / model / "params.npz") as arrays:
        for key in arrays.files:
            if is_saved(key):
                tensors[canonical(key)] = torch.from_numpy(arrays[key])
    load_tensors(net, tensors)
    return net


def original_data(model: str, preprocessing: PreprocessingConfig, *, roi: bool) -> DataSet:
    lists = GOLDEN / model / "lists"
    chosen = MODELS[model]
    config = DataConfig(
        channels=(lists / "ch0.cfg", lists / "ch1.cfg"),
        labels=lists / "gt.cfg",
        roi_masks=lists / "roi.cfg" if roi else None,
        names=lists / "names.cfg",
    )
    needs = CaseNeeds(3, chosen.architecture.margins(chosen.segment), chosen.segment, 2)
    problems = ProblemList()
    data = read_data_set(config, "inference", preprocessing, needs, problems, needs_labels=False)
    problems.raise_if_any()
    return data


def original_image(model: str, session: str, name: str) -> np.ndarray:
    return np.asarray(nib.load(GOLDEN / model / "expected" / session / f"{name}.nii.gz").dataobj)


def expected_results(model: str, session: str) -> dict:
    return json.loads((GOLDEN / model / "expected" / "results.json").read_text())[session]


@dataclass(frozen=True)
class Session:
    """An inference session of the original, repeated here."""

    model: str
    name: str
    folder: Path
    summary: SegmentationSummary

    @property
    def cases(self) -> range:
        return range(len(self.summary.computed))

    def image(self, name: str) -> nib.Nifti1Image:
        folder = "features" if "pathway" in name else "predictions"
        return nib.load(self.folder / folder / f"{name}.nii.gz")


SESSIONS = [(model, session) for model in MODELS for session in ("testRoi", "testPlain")]
BATCH_SIZES = {"testRoi": 4, "testPlain": 7}


@pytest.fixture(scope="module", params=SESSIONS, ids="-".join)
def session(request, tmp_path_factory) -> Session:
    model, name = request.param
    with_roi = name == "testRoi"
    data = original_data(model, WITH_ROI[model] if with_roi else PLAIN, roi=with_roi)
    settings = InferenceSettings(segment=MODELS[model].segment, batch_size=BATCH_SIZES[name])
    output = OutputConfig(save_probability_maps=(with_roi, True, with_roi))
    if (model, name) == ("threepath", "testRoi"):
        output = replace(FEATURE_MAPS, save_probability_maps=(True,) * 3)
    architecture = MODELS[model].architecture
    folder = tmp_path_factory.mktemp("predictions")
    files = ResultFiles(folder, output, 3, selected_feature_maps(architecture, output))
    saving = Saving(files, RunIdentity.of("0" * 64, settings, data.preprocessing))
    summary = segment_cases(original_network(model), data, SegmentationOptions(inference=settings, saving=saving))
    return Session(model, name, folder, summary)


def test_probabilities_are_those_of_the_original(session: Session) -> None:
    for index in session.cases:
        for number in range(3) if session.name == "testRoi" else [1]:
            name = f"pred_case{index}_ProbMapClass{number}"
            expected = original_image(session.model, session.name, name)
            found = session.image(name)
            assert found.header.get_data_dtype() == np.float32
            np.testing.assert_allclose(np.asarray(found.dataobj), expected, atol=2e-5, rtol=0)


def test_labels_are_those_of_the_original(session: Session) -> None:
    for index in session.cases:
        found = session.image(f"pred_case{index}_Segm")
        expected = original_image(session.model, session.name, f"pred_case{index}_Segm")
        assert found.header.get_data_dtype() == np.uint8
        assert np.count_nonzero(np.asarray(found.dataobj) != expected) <= 2  # ties of the two best classes within 1e-5
        golden = expected_results(session.model, session.name)["files"][f"pred_case{index}_Segm.nii.gz"]
        assert list(found.shape) == golden["shape"]
        assert found.header.get_zooms() == pytest.approx(golden["zooms"])


def test_dice_is_that_of_the_original(session: Session) -> None:
    *per_case, means = expected_results(session.model, session.name)["dice_from_log"]
    found = [evaluation.dices for _, evaluation in sorted(session.summary.evaluations.items())]
    assert len(found) == len(per_case)
    assert session.summary.mean_dices is not None
    for dices, golden in zip([*found, session.summary.mean_dices], [*per_case, means], strict=True):
        for kind in ("dice1", "dice2", "dice3"):
            assert getattr(dices, kind) == pytest.approx(golden[kind.upper()], abs=1e-4)


def test_feature_maps_are_those_of_the_original(session: Session) -> None:
    saved = sorted(path.name for path in session.folder.glob("features/*"))
    golden = sorted(name for name in expected_results(session.model, session.name)["files"] if "pathway" in name)
    assert saved == golden
    for name in saved:
        expected = original_image(session.model, session.name, name.removesuffix(".nii.gz"))
        found = np.asarray(session.image(name.removesuffix(".nii.gz")).dataobj)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


CASES = [("tiny", 0), ("tiny", 1), ("threepath", 0)]


@pytest.mark.parametrize(("model", "index"), CASES)
@pytest.mark.parametrize("name", ["testRoi", "testPlain"])
def test_number_of_tiles_is_that_of_the_original(model: str, index: int, name: str) -> None:
    with_roi = name == "testRoi"
    prepared = original_data(model, WITH_ROI[model] if with_roi else PLAIN, roi=with_roi).load(index)
    chosen = MODELS[model]
    tiling = tiling_by_segments(chosen.architecture, prepared.size, chosen.segment, prepared.roi)
    expected = expected_results(model, name)["total_segments_per_subject"][index]
    assert filled_count(len(tiling), BATCH_SIZES[name]) == expected


def test_auto_agrees_with_the_original_where_the_low_resolution_grids_agree() -> None:
    prepared = original_data("tiny", WITH_ROI["tiny"], roi=True).load(0)
    chosen = MODELS["tiny"]
    settings = InferenceSettings(segment=chosen.segment, tiling="auto")

    found = predict_volume(original_network("tiny"), prepared, settings)

    tiling = tiling_by_segments(chosen.architecture, prepared.size, chosen.segment, prepared.roi)
    same_grid = torch.zeros(prepared.size, dtype=torch.bool)
    for start, (box, _) in zip(tiling.starts.tolist(), tiling.written_boxes(0, len(tiling)), strict=True):
        same_grid[box] = all(at % 3 == 0 for at in start)  # 3: the subsampling factor
    inside = tuple(slice(low, size - high) for (low, high), size in zip(prepared.padding, prepared.size, strict=True))
    agreeing = same_grid[inside].numpy()
    assert agreeing.sum() > 2000
    for number in range(3):
        expected = original_image("tiny", "testRoi", f"pred_case0_ProbMapClass{number}")
        difference = np.abs(found.probabilities[number].numpy() - expected)
        assert difference[agreeing].max() < 1e-4
        assert difference[~agreeing].max() > 1e-2
