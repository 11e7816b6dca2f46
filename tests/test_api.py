"""The functions of `deepmedic` for Python: the same results as the command line, in memory."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from study import TEST, Study

import deepmedic
from deepmedic import cli
from deepmedic.config.load import load_train_config
from deepmedic.config.sections import ZScoreConfig
from deepmedic.errors import CommandLineError, ConfigError, DataError, ModelError, ResourceError

ROOT = Path(__file__).resolve().parent.parent
CASE = 2
"""The one that the study's inference session segments."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """Equal numbers of threads give equal bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*words: Any) -> int:
    return cli.main([*map(str, words), "-dev", "cpu"])


@pytest.fixture(scope="module")
def written(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a model that the command line trained; tests read from it only."""
    study = Study(tmp_path_factory.mktemp("study"))
    study.write_cases()
    names = {"channelNames": ["T1", "T2"]}
    assert run("-newModel", study.model(**names), "-train", study.train(), "-seed", 3) == 0
    assert run("-test", study.test(), "-model", study.checkpoints) == 0
    return study


@pytest.fixture
def study(written: Study, tmp_path: Path) -> Study:
    """The same in a folder of the test's own, without results."""
    shutil.copytree(written.folder, tmp_path / "study", ignore=shutil.ignore_patterns("out"))
    return Study(tmp_path / "study")


@pytest.fixture(scope="module")
def model(written: Study) -> deepmedic.SavedModel:
    return deepmedic.load_model(written.checkpoints)


def files(study: Study) -> list[Path]:
    return [study.image(CASE, "t1"), study.image(CASE, "t2")]


def arrays(study: Study) -> np.ndarray:
    return np.stack([voxels(path) for path in files(study)])


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def results(study: Study, session: str = "segment") -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and segmentation that the command line wrote."""
    folder = study.out / "predictions" / session / "predictions"
    maps = [voxels(folder / f"case{CASE}_ProbMapClass{number}.nii.gz") for number in range(3)]
    return np.stack(maps), voxels(folder / f"case{CASE}_Segm.nii.gz")


def assert_same(result: deepmedic.Segmentation, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(result.probabilities, expected[0])
    np.testing.assert_array_equal(result.segmentation, expected[1])


# Exports --------------------------------------------------------------------------------------------------------------


def in_a_fresh_process(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = """
import sys
import deepmedic
assert set(deepmedic.__all__) <= set(dir(deepmedic))
deepmedic.DeepMedicError, deepmedic.ModelConfig, deepmedic.TrainConfig, deepmedic.__version__
print(sorted({"torch", "numpy", "nibabel", "tqdm"} & set(sys.modules)))
"""
    assert in_a_fresh_process(script) == "[]"


def test_every_name_is_there() -> None:
    for name in deepmedic.__all__:
        assert getattr(deepmedic, name) is not None
        assert name in vars(deepmedic), "found once, a name is kept"


def test_type_checkers_see_every_name() -> None:
    tree = ast.parse((ROOT / "deepmedic" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {ast.unparse(node.target) for node in block.body if isinstance(node, ast.AnnAssign)}
    assert seen == set(deepmedic.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'deepmedic' has no attribute 'segmnt'"):
        deepmedic.segmnt  # noqa: B018


def test_functions_are_documented() -> None:
    functions = [getattr(deepmedic, name) for name in deepmedic.__all__ if name[0].islower()]
    assert len(functions) >= 6
    assert [function.__name__ for function in functions if ">>> " not in (function.__doc__ or "")] == []


# Models ---------------------------------------------------------------------------------------------------------------


def test_a_network_is_a_plain_module(study: Study) -> None:
    net = deepmedic.build_network(study.model(), seed=1)
    assert isinstance(net, torch.nn.Module)
    size, size_sub = net.architecture.input_sizes((9, 9, 9))
    x, x_sub = torch.randn(2, 2, *size), torch.randn(2, 2, *size_sub)
    logits = net(x, x_sub)
    assert logits.shape == (2, 3, *net.architecture.output_size((9, 9, 9)))
    logits.square().mean().backward()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimiser.step()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_parameters_of_a_network_depend_on_the_seed(study: Study) -> None:
    config = deepmedic.new_model(study.model()).config
    first, again, other = (deepmedic.build_network(config, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_new_model_is_that_of_the_command_line(study: Study) -> None:
    assert run("-newModel", study.model(), "-seed", 5) == 0
    [path] = (study.out / "cnnModels").glob("net.initial.*.save")
    expected = deepmedic.load_model(path)
    model = deepmedic.new_model(study.model(), seed=5)
    assert not model.trained
    assert model.config.to_dict() == expected.config.to_dict()
    assert all(torch.equal(tensor, expected.parameters[name]) for name, tensor in model.parameters.items())
    deepmedic.save_model(model, study.folder / "mine.save")
    assert (study.folder / "mine.save").read_bytes() == path.read_bytes()


def test_a_model_comes_back_as_it_was_saved(study: Study, model: deepmedic.SavedModel) -> None:
    digest = deepmedic.save_model(model, study.folder / "copy.save")
    copy = deepmedic.load_model(str(study.folder / "copy.save"))
    assert len(digest) == 64
    assert copy.to_content().keys() == model.to_content().keys()
    assert all(torch.equal(tensor, copy.parameters[name]) for name, tensor in model.parameters.items())
    assert copy.data == model.data


def test_names_of_saved_models_end_in_save(study: Study, model: deepmedic.SavedModel) -> None:
    with pytest.raises(ModelError, match=r"mine\.pt: the name of a saved model must end in \.save"):
        deepmedic.save_model(model, study.folder / "mine.pt")


def test_a_model_that_is_not_there_is_refused(study: Study) -> None:
    with pytest.raises(ModelError, match="there is no such file or folder"):
        deepmedic.load_model(study.folder / "nothing.save")


# Inference ------------------------------------------------------------------------------------------------------------


def test_files_give_the_results_of_the_command_line(written: Study, model: deepmedic.SavedModel) -> None:
    result = deepmedic.segment(model, files(written), roi=written.image(CASE, "roi"), device="cpu")
    assert result.probabilities.dtype == np.float32
    assert result.segmentation.dtype == np.uint8
    assert_same(result, results(written))
    assert repr(result) == "Segmentation(3 classes, 20 x 18 x 16 voxels)"


def test_arrays_give_the_results_of_the_command_line(written: Study, model: deepmedic.SavedModel) -> None:
    roi = voxels(written.image(CASE, "roi"))
    for images in (arrays(written), torch.from_numpy(arrays(written)), list(arrays(written))):
        assert_same(deepmedic.segment(model, images, roi=roi, device="cpu"), results(written))


def test_images_may_go_by_the_names_of_channels(written: Study, model: deepmedic.SavedModel) -> None:
    t1, t2 = map(str, files(written))
    result = deepmedic.segment(model, {"T2": t2, "T1": t1}, roi=str(written.image(CASE, "roi")), device="cpu")
    assert_same(result, results(written))


def test_a_path_names_a_model(written: Study) -> None:
    result = deepmedic.segment(written.checkpoints, files(written), roi=written.image(CASE, "roi"), device="cpu")
    assert_same(result, results(written))


def test_without_a_roi_everything_is_classified(study: Study, written: Study, model: deepmedic.SavedModel) -> None:
    assert run("-test", study.test(roiMasks=None), "-model", written.checkpoints) == 0
    result = deepmedic.segment(model, files(study), device="cpu")
    assert_same(result, results(study))
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1.0, atol=1e-5)


def test_a_missing_channel_is_zero(study: Study, written: Study, model: deepmedic.SavedModel) -> None:
    (study.folder / "lists" / "val_t2.cfg").write_text("-\n")
    assert run("-test", study.test(), "-model", written.checkpoints) == 0
    roi = study.image(CASE, "roi")
    by_file = deepmedic.segment(model, [files(study)[0], None], roi=roi, device="cpu")
    by_array = deepmedic.segment(model, [arrays(study)[0], None], roi=voxels(roi), device="cpu")
    assert_same(by_file, results(study))
    assert_same(by_array, results(study))


def test_a_volume_of_a_4d_file(study: Study, written: Study, model: deepmedic.SavedModel) -> None:
    together = np.stack([np.zeros_like(arrays(study)[0]), *arrays(study)], axis=-1)
    path = study.folder / "series.nii.gz"
    nib.save(nib.Nifti1Image(together, nib.load(files(study)[0]).affine), path)
    images = [f"{path}[1]", f"{path}[2]"]
    assert_same(deepmedic.segment(model, images, roi=study.image(CASE, "roi"), device="cpu"), results(written))


def test_saved_results_are_the_files_of_the_command_line(
    written: Study, model: deepmedic.SavedModel, tmp_path: Path
) -> None:
    result = deepmedic.segment(model, files(written), roi=written.image(CASE, "roi"), device="cpu")
    folder = written.out / "predictions" / "segment" / "predictions"
    segmentation = result.save(tmp_path / "segmentation.nii.gz")
    probability = result.save_probabilities(str(tmp_path / "probability.nii.gz"), 1)
    assert segmentation.read_bytes() == (folder / f"case{CASE}_Segm.nii.gz").read_bytes()
    assert probability.read_bytes() == (folder / f"case{CASE}_ProbMapClass1.nii.gz").read_bytes()
    np.testing.assert_array_equal(result.affine, nib.load(files(written)[0]).affine)


def test_results_of_arrays_can_be_saved_too(written: Study, model: deepmedic.SavedModel, tmp_path: Path) -> None:
    result = deepmedic.segment(model, arrays(written), device="cpu")
    image = nib.load(result.save(tmp_path / "segmentation.nii"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), result.segmentation)
    np.testing.assert_array_equal(image.affine, np.eye(4))


def test_what_cannot_be_saved_is_refused(written: Study, model: deepmedic.SavedModel, tmp_path: Path) -> None:
    result = deepmedic.segment(model, arrays(written), device="cpu")
    with pytest.raises(DataError, match=r"a\.png: the name of an image must end in \.nii\.gz or \.nii"):
        result.save(tmp_path / "a.png")
    with pytest.raises(DataError, match="class 3: the model has the classes 0 to 2"):
        result.save_probabilities(tmp_path / "a.nii", 3)


def test_results_come_back_in_the_axes_of_the_images(study: Study) -> None:
    """A model trained with orientation = "RAS" sees every case turned; its results are turned back."""
    axes = nib.orientations.axcodes2ornt("PLI")
    for case in range(3):
        for kind in ("t1", "t2", "labels", "roi"):
            image = nib.load(study.image(case, kind))
            turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), axes))
            study.write_image(case, kind, np.asarray(turned.dataobj), turned.affine)
    ras = {"orientation": "RAS"}
    assert run("-newModel", study.model(), "-train", study.train(**ras)) == 0
    assert run("-test", study.test(**ras), "-model", study.checkpoints) == 0
    result = deepmedic.segment(study.checkpoints, files(study), roi=study.image(CASE, "roi"), device="cpu")
    assert result.segmentation.shape == (18, 20, 16)
    assert_same(result, results(study))


def test_axes_that_are_not_those_of_training_are_turned(study: Study, model: deepmedic.SavedModel) -> None:
    expected = deepmedic.segment(model, files(study), device="cpu").segmentation
    for kind in ("t1", "t2"):
        flipped = np.ascontiguousarray(voxels(study.image(CASE, kind))[::-1])
        study.write_image(CASE, kind, flipped, np.diag([-1.0, 1.0, 1.2, 1.0]))
    found = deepmedic.segment(model, files(study), device="cpu").segmentation
    np.testing.assert_array_equal(found, expected[::-1])


def test_normalisation_is_that_of_training(written: Study, model: deepmedic.SavedModel) -> None:
    expected = deepmedic.segment(model, arrays(written), device="cpu").probabilities
    named = {"apply_to_all_channels": True}
    for zscore in (named, ZScoreConfig(all_channels=True)):
        found = deepmedic.segment(model, arrays(written), zscore=zscore, device="cpu").probabilities
        np.testing.assert_array_equal(found, expected)
    scaled = deepmedic.segment(model, 7 * arrays(written) + 2, device="cpu").probabilities
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


def test_normalisation_can_be_switched_off(
    written: Study, model: deepmedic.SavedModel, caplog: pytest.LogCaptureFixture
) -> None:
    values = arrays(written).astype(np.float64)
    flat = values.reshape(2, -1)
    normalised = (values - flat.mean(1)[:, None, None, None]) / flat.std(1)[:, None, None, None]
    result = deepmedic.segment(model, normalised, zscore={}, device="cpu")
    # In training, statistics are those of the padded volume, so the numbers differ a little.
    trained = deepmedic.segment(model, values, device="cpu")
    np.testing.assert_allclose(result.probabilities, trained.probabilities, atol=0.2)
    assert "norm_zscore_prms" not in caplog.text
    deepmedic.segment(model, values, zscore={}, device="cpu")
    assert "norm_zscore_prms" in caplog.text  # intensities that nothing normalised


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"tiling": "segments"}, {"tiling": "segments"}), ({"tiling": "auto"}, {"tiling": "auto"})],
)
def test_tiling_is_that_of_the_key(
    study: Study, written: Study, model: deepmedic.SavedModel, settings: dict[str, Any], words: dict[str, Any]
) -> None:
    assert run("-test", study.test(**words), "-model", written.checkpoints) == 0
    roi = study.image(CASE, "roi")
    assert_same(deepmedic.segment(model, files(study), roi=roi, device="cpu", **settings), results(study))


def test_batch_size_and_precision(written: Study, model: deepmedic.SavedModel) -> None:
    expected = deepmedic.segment(model, arrays(written), device="cpu").probabilities
    one = deepmedic.segment(model, arrays(written), batch_size=1, device="cpu").probabilities
    np.testing.assert_allclose(one, expected, atol=1e-6)
    coarse = deepmedic.segment(model, arrays(written), precision="bf16", device="cpu").probabilities
    assert 0 < np.abs(coarse - expected).max() < 0.1


def test_an_untrained_model_segments_too(study: Study) -> None:
    result = deepmedic.segment(deepmedic.new_model(study.model()), arrays(study), device="cpu")
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1.0, atol=1e-5)


SIZE = (20, 18, 16)


@pytest.mark.parametrize(
    ("images", "settings", "error", "message"),
    [
        (np.zeros((3, *SIZE)), {}, DataError, r"found 3 channels; the model has 2 \(T1, T2\)"),
        (np.zeros(SIZE), {}, DataError, r"found an array of shape \[20, 18, 16\]; allowed is \[channel, x, y, z\]"),
        ([None, None], {}, DataError, "all channels of this case are missing"),
        ("t1.nii.gz", {}, DataError, "found 1 channels; the model has 2"),
        ({"T1": None, "flair": None}, {}, DataError, "found images for T1, flair; needed are T1, T2"),
        ([np.zeros(SIZE), "t2.nii.gz"], {}, DataError, "channel 1 is an array, but other images are files"),
        (
            [np.zeros(SIZE), np.zeros((4, 4, 4))],
            {},
            DataError,
            r"must have one shape; found \(20, 18, 16\), \(4, 4, 4\)",
        ),
        ([np.zeros(SIZE), np.zeros((2, 2))], {}, DataError, r"channel 2: found float64 of shape \[2, 2\]"),
        ([np.zeros(SIZE), np.zeros(SIZE, complex)], {}, DataError, r"channel 2: found complex128 of shape"),
        (np.zeros((2, *SIZE)), {"roi": "roi.nii.gz"}, DataError, "the ROI mask is a file, but other images are arrays"),
        (np.zeros((2, *SIZE)), {"roi": np.ones((3, 3, 3))}, DataError, r"one shape; found .*\(3, 3, 3\)"),
        (np.full((2, *SIZE), np.nan), {}, DataError, r"channel 1: 5760 of 5760 voxels .* are not finite"),
        (np.zeros((2, *SIZE)), {}, DataError, "channel 1"),  # constant: cannot be normalised
        (["nothing.nii.gz", None], {}, DataError, r"channel 1: .*nothing\.nii\.gz: no such file"),
        (
            np.zeros((2, *SIZE)),
            {"tiling": "tiles"},
            ConfigError,
            "tiling = 'tiles'; allowed are None, 'segments', 'auto'",
        ),
        (np.zeros((2, *SIZE)), {"precision": "half"}, ConfigError, "precision = 'half'; allowed are 'float32', 'tf32'"),
        (np.zeros((2, *SIZE)), {"batch_size": 0}, ConfigError, "batch_size = 0; allowed are whole numbers from 1"),
        (np.zeros((2, *SIZE)), {"zscore": {"apply": True}}, ConfigError, "apply: is not a key of the config"),
        (np.zeros((2, *SIZE)), {"device": "tpu"}, CommandLineError, "-dev tpu: allowed are cpu, cuda"),
        (np.zeros((2, *SIZE)), {"device": "cuda"}, ResourceError, "-dev cuda: there is no CUDA device here"),
    ],
)
def test_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    model: deepmedic.SavedModel,
    images: Any,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("deepmedic.nvidia.find_driver", lambda: None)
    with pytest.raises(error, match=message):
        deepmedic.segment(model, images, **{"device": "cpu", **settings})


def test_names_need_a_model_that_has_some(study: Study) -> None:
    with pytest.raises(DataError, match="the model has no channel names; give a list of images"):
        deepmedic.segment(deepmedic.new_model(study.model(channelNames=None)), {"T1": None}, device="cpu")


# Training -------------------------------------------------------------------------------------------------------------


def parameters_of(model: deepmedic.SavedModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.parameters.items()}


def test_training_gives_the_model_of_the_command_line(study: Study, model: deepmedic.SavedModel) -> None:
    config = deepmedic.new_model(study.model(channelNames=["T1", "T2"])).config
    result = deepmedic.train(study.train(), config, seed=3, device="cpu")
    assert (result.exit_code, result.finished) == (0, True)
    assert parameters_of(result.model) == parameters_of(model)
    assert result.model_path == study.newest()
    assert result.best_model_path is None
    assert result.log.is_file()
    assert result.metrics.read_text().startswith("epoch")


def test_a_model_config_is_told_from_a_saved_model(study: Study, model: deepmedic.SavedModel) -> None:
    result = deepmedic.train(study.train(), study.model(channelNames=["T1", "T2"]), seed=3, device="cpu")
    assert parameters_of(result.model) == parameters_of(model)


def test_a_model_in_memory_is_trained(study: Study, model: deepmedic.SavedModel) -> None:
    start = deepmedic.new_model(study.model(channelNames=["T1", "T2"]), seed=3)
    result = deepmedic.train(study.train(), start, seed=3, device="cpu")
    assert parameters_of(result.model) == parameters_of(model)
    [saved] = (study.out / "cnnModels").glob("net.start.*.save")
    assert parameters_of(deepmedic.load_model(saved)) == parameters_of(start)
    assert result.model.provenance is not None
    again = deepmedic.train(study.train(), start, seed=3, device="cpu")  # the same session, finished already
    assert again == result
    assert [saved] == list((study.out / "cnnModels").glob("net.start.*.save"))


def test_the_same_call_goes_on(study: Study) -> None:
    config = deepmedic.new_model(study.model()).config
    whole = deepmedic.train(
        study.train(sessionName="whole", numberOfEpochs=2, numberOfSubepochs=1), config, device="cpu"
    )
    for epochs in (1, 2):
        # A schedule that does not depend on the number of epochs, so that stopping after one changes nothing.
        result = deepmedic.train(
            study.train(numberOfEpochs=epochs, numberOfSubepochs=1, typeOfLearningRateSchedule="stable"),
            config,
            device="cpu",
        )
    steady = study.train(
        sessionName="steady", numberOfEpochs=2, numberOfSubepochs=1, typeOfLearningRateSchedule="stable"
    )
    assert parameters_of(result.model) == parameters_of(deepmedic.train(steady, config, device="cpu").model)
    assert parameters_of(result.model) != parameters_of(whole.model)


def test_a_session_goes_on_without_naming_a_model(study: Study) -> None:
    deepmedic.train(study.train(numberOfEpochs=1, numberOfSubepochs=1), study.model(), device="cpu")
    result = deepmedic.train(study.train(numberOfEpochs=2, numberOfSubepochs=1), device="cpu")
    assert result.model.training is not None
    assert result.model.training["position"]["epoch"] == 2


def test_the_best_model_is_found(study: Study) -> None:
    short = {"numberOfEpochs": 1, "numberOfSubepochs": 1}
    result = deepmedic.train(study.train(validate=True, **short), study.model(), device="cpu")
    assert result.best_model_path is not None
    assert ".first.best." in result.best_model_path.name
    assert deepmedic.load_model(result.best_model_path).trained


def test_the_config_may_be_a_dataclass(study: Study) -> None:
    model = deepmedic.new_model(study.model())
    config = load_train_config(study.train(numberOfEpochs=1, numberOfSubepochs=1), model=model.config)
    result = deepmedic.train(config, model, device="cpu")
    assert result.finished


def test_a_reset_keeps_the_weights_only(study: Study) -> None:
    short = {"numberOfEpochs": 1, "numberOfSubepochs": 1}
    first = deepmedic.train(study.train(**short), study.model(), device="cpu")
    other = study.train(sessionName="second", **short)
    second = deepmedic.train(other, first.model_path, reset_optimizer=True, device="cpu")
    assert second.model.training is not None
    assert second.model.training["origin"]["reset"]
    assert second.model.start_parameters is not None
    assert {name: t.numpy().tobytes() for name, t in second.model.start_parameters.items()} == parameters_of(
        first.model
    )


def test_overwriting_starts_anew(study: Study) -> None:
    short = {"numberOfEpochs": 1, "numberOfSubepochs": 1}
    config = study.train(**short)
    first = parameters_of(deepmedic.train(config, study.model(), seed=1, device="cpu").model)
    with pytest.raises(ModelError) as refusal:
        deepmedic.train(config, study.model(), seed=2, device="cpu")
    assert str(refusal.value) in study.log
    second = parameters_of(deepmedic.train(config, study.model(), seed=2, overwrite=True, device="cpu").model)
    assert second != first


def test_refusals_are_those_of_the_command_line(study: Study) -> None:
    with pytest.raises(CommandLineError, match="-train needs a model to start from"):
        deepmedic.train(study.train(), device="cpu")
    with pytest.raises(
        ConfigError, match=r"train\.cfg:\d+: numberOfEpochs: found 0; allowed: a whole number at least 1"
    ):
        deepmedic.train(study.train(numberOfEpochs=0), study.model(), device="cpu")
    assert not study.out.exists()


def test_training_leaves_the_random_numbers_of_the_caller(study: Study) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    deepmedic.train(study.train(numberOfEpochs=1, numberOfSubepochs=1), study.model(), device="cpu")
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_study_names_its_cases_as_here() -> None:
    assert TEST["namesForPredictionsPerCase"] == "lists/val_names.cfg"


# Transfer -------------------------------------------------------------------------------------------------------------

LARGER = {
    "modelName": "wider",
    "channelNames": ["T1", "T2"],
    "numberFMsPerLayerNormal": [4, 6],
    "transferClasses": True,
}


def test_a_transfer_is_that_of_the_command_line(written: Study, study: Study, model: deepmedic.SavedModel) -> None:
    config = study.model("wider", **LARGER)
    before = parameters_of(model)
    assert run("-newModel", config, "-pretrained", written.checkpoints) == 0
    [path] = (study.out / "cnnModels").glob("wider.initial.pretrained.*.save")
    expected = deepmedic.load_model(path)
    result = deepmedic.transfer_parameters(written.checkpoints, config, transfer_classes=True)
    assert parameters_of(result.model) == parameters_of(expected)
    assert result.model.provenance == expected.provenance
    assert re.fullmatch(r"\d+ of \d+ parameters \(.*%\) of model wider come from model net", result.report.summary())
    target = deepmedic.new_model(config)
    untouched = parameters_of(target)
    from_memory = deepmedic.transfer_parameters(model, target, transfer_classes=True)
    assert parameters_of(from_memory.model) == parameters_of(expected)
    assert (parameters_of(model), parameters_of(target)) == (before, untouched)


def test_layers_growth_and_class_frequencies(study: Study, model: deepmedic.SavedModel, written: Study) -> None:
    config = deepmedic.new_model(study.model("wider", **LARGER)).config
    chosen = deepmedic.transfer_parameters(model, config, layers=[2], class_frequencies=[90, 5, 5])
    assert {name for name, layer in chosen.report.tensors.items() if layer.received} >= {"normal/2/weight"}
    assert chosen.report.layer_map() == {"normal/2": "normal/2", "subsampled1/2": "subsampled1/2"}
    np.testing.assert_allclose(chosen.model.parameters["softmax/bias"], np.log([0.9, 0.05, 0.05]), rtol=1e-6)
    grown = deepmedic.transfer_parameters(model, config, grow="exact")
    roi = written.image(CASE, "roi")
    found = deepmedic.segment(
        grown.model, files(written), roi=roi, zscore={"apply_to_all_channels": True}, device="cpu"
    )
    np.testing.assert_allclose(found.probabilities, results(written)[0], atol=1e-6)


def test_a_transferred_model_trains(study: Study, model: deepmedic.SavedModel) -> None:
    result = deepmedic.transfer_parameters(model, study.model("wider", **LARGER))
    trained = deepmedic.train(study.train(numberOfEpochs=1, numberOfSubepochs=1), result.model, device="cpu")
    assert trained.model.start_parameters is not None
    start = {name: tensor.numpy().tobytes() for name, tensor in trained.model.start_parameters.items()}
    assert start == parameters_of(result.model)


def test_adapting_is_that_of_the_command_line(written: Study, study: Study, model: deepmedic.SavedModel) -> None:
    path = study.folder / "adapted.save"
    assert run("-adapt", written.checkpoints, "-classes", "background", "core", "edema", "-output", path) == 0
    expected = deepmedic.load_model(path)
    before = parameters_of(model)
    result = deepmedic.adapt_model(written.checkpoints, class_names=["background", "core", "edema"])
    assert parameters_of(result.model) == parameters_of(expected)
    assert result.model.provenance == expected.provenance
    assert not result.model.trained
    assert parameters_of(model) == before


def test_adapting_to_the_same_classes_changes_nothing(written: Study, model: deepmedic.SavedModel) -> None:
    same = deepmedic.adapt_model(model, n_classes=3)
    assert parameters_of(same.model) == parameters_of(model)
    result = deepmedic.segment(same.model, files(written), roi=written.image(CASE, "roi"), device="cpu")
    assert_same(result, results(written))


def test_what_cannot_be_transferred_is_refused(study: Study, model: deepmedic.SavedModel) -> None:
    with pytest.raises(ModelError, match="1 class cannot be told apart"):
        deepmedic.adapt_model(model, n_classes=1)
    with pytest.raises(ModelError, match="there is no such file or folder"):
        deepmedic.adapt_model(study.folder / "nothing.save", n_classes=2)
    with pytest.raises(ModelError, match="-layers 9: the source model has no layer at depth 9"):
        deepmedic.transfer_parameters(model, study.model(), layers=[9])
    with pytest.raises(ModelError, match='newChannels is "copy"; allowed are "keep", "zero", "mean" and "repeat"'):
        deepmedic.transfer_parameters(model, study.model(), new_channels="copy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"broken\.cfg:\d+: numberFMsPerLayerNormal"):
        deepmedic.transfer_parameters(model, study.model("broken", numberFMsPerLayerNormal=[0]))
