"""Small networks and cases shared by the tests of inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.sections import DataConfig, PreprocessingConfig, ZScoreConfig
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.data.nifti import array_header
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.errors import ProblemList
from deepmedic.model.network import DeepMedicNet


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_net() -> Callable[..., DeepMedicNet]:
    """A network with two 3x3x3 layers per pathway and random batch-norm statistics."""

    def make(factors=(), fc_kernel=(1, 1, 1), fc_padding="mirror", seed=1, classes=3) -> DeepMedicNet:
        kernels, valid, none = ((3, 3, 3), (3, 3, 3)), ("valid",) * 2, (0.0,) * 2
        normal = Pathway("normal", (4, 5), kernels, valid, none)
        subsampled = tuple(
            Pathway(f"subsampled{number}", (4, 3), kernels, valid, none, factor=factor)
            for number, factor in enumerate(factors, 1)
        )
        fc = Pathway("fc", (6, classes), (fc_kernel, (1, 1, 1)), (fc_padding, "valid"), (0.0, 0.5))
        net = DeepMedicNet(Architecture(2, classes, normal, subsampled, fc, batch_norm_window=3), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in net.named_buffers():
            if name.endswith("rolling"):
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
        return net

    return make


@pytest.fixture
def make_case() -> Callable[..., PreparedCase]:
    """A case of noise; `padding` is what counts as added around it."""

    def make(size, roi=None, padding=((0, 0),) * 3, seed=0, name="case") -> PreparedCase:
        channels = torch.randn(2, *size, generator=torch.Generator().manual_seed(seed))
        corners = channels[:, :: size[0] - 1, :: size[1] - 1, :: size[2] - 1]
        native = tuple(length - sum(added) for length, added in zip(size, padding, strict=True))
        header = array_header(native)
        return PreparedCase(name, header, channels, None, roi, None, padding, corners.mean(dim=(1, 2, 3)))

    return make


@pytest.fixture
def make_data(tmp_path) -> Callable[..., DataSet]:
    """A data set of small NIfTI files with two channels, labels 0 to 2 and an ROI; needs nothing but numbers."""

    def make(count=2, size=(12, 11, 10), orientation="asStored", labels=True, roi=True) -> DataSet:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        affine = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, 0], [0, 0, 1.5, -3], [0, 0, 0, 1]])
        kinds = ["ch0", "ch1"] + ["gt"] * labels + ["roi"] * roi
        for number in range(count):
            rng = np.random.default_rng(number)
            images = {
                "ch0": rng.normal(size=size).astype(np.float32),
                "ch1": rng.normal(size=size).astype(np.float32),
                "gt": rng.integers(0, 3, size).astype(np.uint8),
                "roi": (rng.random(size) < 0.8).astype(np.uint8),
            }
            for kind in kinds:
                path = folder / f"case{number}_{kind}.nii.gz"
                if not path.exists():
                    nib.save(nib.Nifti1Image(images[kind], affine), path)
        for kind in kinds:
            (folder / f"{kind}.cfg").write_text("".join(f"case{number}_{kind}.nii.gz\n" for number in range(count)))
        (folder / "names.cfg").write_text("".join(f"pred_case{number}.nii.gz\n" for number in range(count)))
        config = DataConfig(
            names=folder / "names.cfg",
            channels=(folder / "ch0.cfg", folder / "ch1.cfg"),
            labels=folder / "gt.cfg" if labels else None,
            roi_masks=folder / "roi.cfg" if roi else None,
        )
        problems = ProblemList()
        preprocessing = PreprocessingConfig(zscore=ZScoreConfig(all_channels=True), orientation=orientation)
        needs = CaseNeeds(3, ((2, 2),) * 3, (9, 9, 9), 2)
        data = read_data_set(config, "inference", preprocessing, needs, problems, needs_labels=False)
        problems.raise_if_any()
        return data

    return make
