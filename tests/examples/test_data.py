"""The quickstart's data: the method on made-up brains, the shipped files, and the two simple methods to beat."""

import gzip
import hashlib
import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = EXAMPLES / "data"
SUBJECTS = (1, 2, 3)
WHEELS = "DEEPMEDIC_EXAMPLE_WHEELS"


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The modules of `examples`, imported as the scripts themselves import each other: from their own folder."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return {name: importlib.import_module(name) for name in ("tissue_labels", "make_data", "baselines")}
    finally:
        sys.path.remove(str(EXAMPLES))


def voxels(name: str) -> np.ndarray:
    """Voxels of one shipped file, in its stored type."""
    return np.asarray(nib.Nifti1Image.from_filename(DATA / name).dataobj)


class Phantom:
    """Nested balls of white matter, grey matter and CSF within bright fat, seen through a bias field and noise."""

    means = np.array([80.0, 160.0, 240.0])

    def __init__(self) -> None:
        size = 40
        x, y, z = np.meshgrid(*[np.arange(size) - size / 2 + 0.5] * 3, indexing="ij")
        radius = np.sqrt(x**2 + y**2 + z**2)
        self.truth = np.select([radius < 9, radius < 14, radius < 16], [3, 2, 1], 0)
        self.bias = np.exp(0.25 * x / 16)
        clean = np.concatenate([[600.0], self.means])[self.truth]
        self.scan = clean * self.bias + np.random.default_rng(0).normal(0, 12, clean.shape)
        maps = [ndimage.gaussian_filter((self.truth == label).astype(float), 2.0) for label in (2, 3)]
        self.priors = np.stack([1 - maps[0] - maps[1], *maps])
        self.envelope = radius < 18


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom()


def test_fit_recovers_tissues_means_and_bias(scripts: dict[str, ModuleType], phantom: Phantom) -> None:
    mask = phantom.truth > 0
    fit = scripts["tissue_labels"].fit_tissues(phantom.scan, phantom.priors, mask)
    labels = 1 + fit.posterior.argmax(axis=0)
    np.testing.assert_allclose(fit.posterior.sum(axis=0), 1.0)
    assert scripts["baselines"].dice_per_tissue(labels, phantom.truth[mask]).min() > 0.98
    np.testing.assert_allclose(fit.mean / fit.mean[2], phantom.means / phantom.means[2], atol=0.03)
    log_bias = np.log(phantom.scan[mask] / fit.corrected)
    assert np.corrcoef(log_bias, np.log(phantom.bias[mask]))[0, 1] > 0.97
    assert abs(log_bias.mean()) < 1e-9


def test_without_bias_correction_the_phantom_is_harder(scripts: dict[str, ModuleType], phantom: Phantom) -> None:
    """The bias field matters: one so smooth that it is constant leaves more errors."""
    module, mask = scripts["tissue_labels"], phantom.truth > 0
    errors = []
    for fwhm in (module.EMSettings().bias_fwhm, 100.0):
        fit = module.fit_tissues(phantom.scan, phantom.priors, mask, module.EMSettings(bias_fwhm=fwhm))
        errors.append(np.mean(1 + fit.posterior.argmax(axis=0) != phantom.truth[mask]))
    assert errors[0] < 0.5 * errors[1]


def test_label_scan_keeps_the_brain_and_drops_the_fat(scripts: dict[str, ModuleType], phantom: Phantom) -> None:
    labels, mask = scripts["tissue_labels"].label_scan(phantom.scan, phantom.priors, phantom.envelope)
    tissue = phantom.truth >= 2
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels > 0, mask)
    assert mask[tissue].mean() > 0.99
    assert mask[phantom.truth == 0].sum() == 0
    assert (labels[tissue] == phantom.truth[tissue]).mean() > 0.97


def test_brain_mask_cuts_bridges_and_fills_sulci(scripts: dict[str, ModuleType]) -> None:
    module = scripts["tissue_labels"]
    ball = np.pad(module.ball(8.0), 6)  # [29, 29, 29], centre at 14
    tissue = ball.copy()
    tissue[14, 18:, 14] = False  # a sulcus one voxel wide
    tissue[14, 14, 23:] = True  # a bridge one voxel wide ...
    tissue[10:19, 10:19, 27:] = True  # ... to the meninges
    envelope = np.ones_like(tissue)
    mask = module.brain_mask(tissue, np.zeros_like(tissue), envelope)
    assert mask[14, 18:21, 14].all()
    assert not mask[:, :, 25:].any()
    assert mask[ball].mean() > 0.95
    with_rim = module.brain_mask(tissue, ~tissue, envelope)
    assert with_rim.sum() > mask.sum()
    assert not (with_rim & ~ndimage.binary_dilation(mask)).any()
    assert not module.brain_mask(tissue, ~tissue, np.zeros_like(tissue)).any()


def test_ball_and_largest_component(scripts: dict[str, ModuleType]) -> None:
    module = scripts["tissue_labels"]
    assert [int(module.ball(radius).sum()) for radius in (1.0, 1.5, 2.0)] == [7, 19, 33]
    line = np.array([1, 0, 1, 1, 0, 1], dtype=bool)[None, None]
    assert module.largest_component(line)[0, 0].tolist() == [False, False, True, True, False, False]
    assert not module.largest_component(np.zeros((2, 2, 2), dtype=bool)).any()


def test_sample_reads_the_voxels_at_the_same_millimetres(scripts: dict[str, ModuleType]) -> None:
    module = scripts["make_data"]
    source = module.Volume(np.arange(9.0 * 8 * 7).reshape(9, 8, 7), np.diag([1.0, 1.0, 1.0, 1.0]))
    target = np.array([[-2.0, 0, 0, 8], [0, 2, 0, 1], [0, 0, 2, 0], [0, 0, 0, 1]])
    result = module.sample(source, (5, 3, 4), target)
    assert result.shape == (5, 3, 4)
    assert result[1, 2, 3] == source.voxels[6, 5, 6]
    assert result[4, 0, 0] == source.voxels[0, 1, 0]


@pytest.mark.parametrize(
    ("shape", "origin", "spacing"),
    [((6, 3, 4), 8.0, -2.0), ((5, 3, 4), 8.5, -2.0), ((2, 2, 2), 0.0, 1.5)],
    ids=["outside", "between voxels", "other spacing"],
)
def test_sample_refuses_other_grids(
    scripts: dict[str, ModuleType], shape: tuple[int, ...], origin: float, spacing: float
) -> None:
    module = scripts["make_data"]
    source = module.Volume(np.zeros((9, 8, 7)), np.eye(4))
    target = np.diag([spacing, 2.0, 2.0, 1.0])
    target[0, 3] = origin
    with pytest.raises(ValueError, match="does not lie on voxel centres"):
        module.sample(source, shape, target)


def test_writer_gives_the_same_bytes_and_keeps_geometry(scripts: dict[str, ModuleType]) -> None:
    module = scripts["make_data"]
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    content = module.nifti_bytes(array, affine, "a test")
    assert content == module.nifti_bytes(array.copy(), affine.copy(), "a test")
    assert content[:4] == b"\x1f\x8b\x08\x00"  # gzip without a file name
    assert content[4:8] == bytes(4)  # and without a time
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_array_equal(image.affine, affine)
    assert image.get_data_dtype() == np.int16
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 4)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.get_qform(), affine)


def test_brain_only_and_quantised(scripts: dict[str, ModuleType]) -> None:
    module = scripts["make_data"]
    scan = np.array([[[-3.0, 0.4, 2.6, 40000.0]]])
    mask = np.array([[[True, True, False, True]]])
    assert module.brain_only(scan, mask).tolist() == [[[1, 1, 0, 32767]]]
    priors = np.array([1.0, 0.5, 0.0]).reshape(3, 1, 1, 1)
    assert module.quantised(priors).tolist() == [[[[255, 128, 0]]]]


def test_wrong_and_missing_wheels_are_refused(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    module = scripts["make_data"]
    with pytest.raises(FileNotFoundError, match=r"pip download --no-deps img2fmri==1\.0"):
        module.verified(tmp_path, module.IMG2FMRI)
    path = tmp_path / module.NILEARN.filename
    path.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ValueError, match=f"{found}, expected 725206484e9f"):
        module.verified(tmp_path, module.NILEARN)


def test_lookup_and_dice_by_hand(scripts: dict[str, ModuleType]) -> None:
    module = scripts["baselines"]
    mask = np.ones((1, 1, 5), dtype=bool)
    subject = module.Subject(np.array([-1.01, -1.01, -1.01, 1.01, 9.0]), np.array([1, 1, 2, 2, 3]), mask)
    lookup = module.fit_lookup([subject])
    assert lookup[module.intensity_bin(np.array([-7.0, -1.01, -0.2, 0.2, 1.01, 2.9, 3.1, 99.0]))].tolist() == [
        *(1, 1, 1, 2, 2, 2, 3, 3)
    ]
    dice = module.dice_per_tissue(np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2]))
    np.testing.assert_allclose(dice, [2 / 3, 4 / 5, np.nan])
    assert module.atlas_labels(np.array([[[[9, 1, 0], [0, 3, 7]]]])).tolist() == [[[1, 3]]]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_shipped_subject_is_consistent(subject: int) -> None:
    scan, labels, mask = (voxels(f"subject{subject}/{name}.nii.gz") for name in ("T1", "labels", "mask"))
    assert (scan.dtype.name, labels.dtype.name, mask.dtype.name) == ("int16", "uint8", "uint8")
    assert scan.shape == labels.shape == mask.shape == (91, 109, 91)
    np.testing.assert_array_equal(mask, labels > 0)
    np.testing.assert_array_equal(mask, scan > 0)
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    csf, grey, white = (np.median(scan[labels == label]) for label in (1, 2, 3))
    assert 1.4 * csf < grey < white / 1.3
    litres = mask.sum() * 8e-6
    assert 1.7 < litres < 1.9  # MNI space is larger than most brains


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_face_is_shipped(subject: int) -> None:
    """Nothing lies where the eyes, nose and mouth were, and nothing farther than 8 mm from the atlas's brain."""
    image = nib.Nifti1Image.from_filename(DATA / f"subject{subject}/T1.nii.gz")
    inside = np.asarray(image.dataobj) > 0
    _, y, z = nib.affines.apply_affine(image.affine, np.argwhere(inside)).T
    assert not np.any((y > 30) & (z < -34))
    atlas_brain = voxels("atlas_priors.nii.gz")[..., 0] < 128
    distance = ndimage.distance_transform_edt(~atlas_brain, sampling=2.0)
    assert distance[inside].max() <= 8.0


def test_shipped_files_share_one_grid_and_are_small() -> None:
    paths = sorted(DATA.rglob("*.nii.gz"))
    assert len(paths) == 10
    for path in paths:
        affine = nib.Nifti1Image.from_filename(path).affine
        np.testing.assert_array_equal(affine, [[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    priors = voxels("atlas_priors.nii.gz")
    assert (priors.shape, priors.dtype.name) == ((91, 109, 91, 3), "uint8")
    assert np.abs(priors.sum(axis=-1, dtype=int) - 255).max() <= 1
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 3_000_000


def test_readme_lists_the_checksum_of_every_file() -> None:
    lines = re.findall(r"^([0-9a-f]{64})  (\S+\.nii\.gz)$", (DATA / "README.md").read_text(), re.MULTILINE)
    listed = {name: digest for digest, name in lines}
    found = {
        str(path.relative_to(DATA)): hashlib.sha256(path.read_bytes()).hexdigest() for path in DATA.rglob("*.nii.gz")
    }
    assert listed == found


def test_baselines_give_the_documented_numbers(scripts: dict[str, ModuleType]) -> None:
    rows = [line.strip("| ").split(" | ") for line in (DATA / "README.md").read_text().splitlines()]
    documented = {row[0]: np.array(row[1:], dtype=float) for row in rows if row[0] in ("atlas", "lookup")}
    results = scripts["baselines"].baseline_dice(DATA)
    for method in ("atlas", "lookup"):
        np.testing.assert_allclose([*results[method], results[method].mean()], documented[method], atol=6e-4)


@pytest.mark.skipif(
    WHEELS not in os.environ,
    reason="needs the two wheels that the example data come from, and their folder in "
    f"{WHEELS}: pip download --no-deps img2fmri==1.0 nilearn==0.14.1",
)
def test_wheels_give_the_shipped_voxels(scripts: dict[str, ModuleType]) -> None:
    module, folder = scripts["make_data"], Path(os.environ[WHEELS])
    files = module.make_files(module.verified(folder, module.IMG2FMRI), module.verified(folder, module.NILEARN))
    assert len(files) == 10
    for name, content in files.items():
        made = nib.Nifti1Image.from_bytes(gzip.decompress(content))
        np.testing.assert_array_equal(np.asarray(made.dataobj), voxels(name), err_msg=name)
