"""Memory that runs out during an inference: the same labels with less of it, and a note that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic.model.network import DeepMedicNet

ROOT = Path(__file__).resolve().parents[2]


def results(study, session) -> list[np.ndarray]:
    folder = study.out / "predictions" / session / "predictions"
    return [np.asarray(nib.load(folder / f"case2_{kind}.nii.gz").dataobj) for kind in ("Segm", "ProbMapClass1")]


@pytest.mark.parametrize(
    "changes",
    [{}, {"tiling": "auto"}, {"tileBlending": "gaussian", "testTimeMirroring": ["x"]}],
    ids=["segments", "auto", "refined"],
)
def test_a_session_that_runs_out_of_memory_ends_with_the_same_labels(study, run, source, monkeypatch, changes):
    assert run("-test", study.test("enough", sessionName="enough", **changes), "-model", source).code == 0
    real, largest = DeepMedicNet._check_inputs, []

    def limited(this, inputs):
        largest.append(inputs[0][:, 0].numel())
        if largest[-1] > 13**3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        real(this, inputs)

    monkeypatch.setattr(DeepMedicNet, "_check_inputs", limited)
    outcome = run("-test", study.test(**changes), "-model", source)
    assert outcome.code == 0
    assert "case2: memory ran out with tiles of" in outcome.err
    assert max(largest) > 13**3
    (labels, probabilities), (enough_labels, enough) = results(study, "segment"), results(study, "enough")
    assert np.array_equal(labels, enough_labels)
    np.testing.assert_allclose(probabilities, enough, atol=1e-5)
    assert "memory ran out" in (study.out / "logs" / "segment.txt").read_text()


SHORT_OF_MEMORY = """
import logging, resource, sys
import torch
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.data.nifti import array_header
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.model.network import DeepMedicNet

torch.set_num_threads(1)
logging.basicConfig(stream=sys.stdout, format="%(message)s")
wide = Pathway("normal", (240,), ((1, 1, 1),), ("valid",), (0.0,))
net = DeepMedicNet(Architecture(2, 2, wide, (), Pathway("fc", (2,), ((1, 1, 1),), ("valid",), (0.0,))), seed=1)
size = (40, 40, 80)
case = PreparedCase("case", array_header(size), torch.randn(2, *size), None, None, None, ((0, 0),) * 3, torch.zeros(2))
settings = InferenceSettings(segment=(20, 20, 20), batch_size=16)
enough = predict_volume(net, case, InferenceSettings(segment=(20, 20, 20), batch_size=1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 110 * 2**20,) * 2)
short = predict_volume(net, case, settings)
assert torch.equal(short.segmentation, enough.segmentation)
print("largest difference", float((short.probabilities - enough.probabilities).abs().max()))
"""


def test_a_limit_of_the_system_is_met_with_smaller_batches():
    """16 tiles need 123 MB for the maps of one layer, several times; 110 MB more than what is used are there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    ended = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "case: memory ran out with tiles of 20x20x20 in batches of 16 on cpu" in ended.stdout
    assert float(ended.stdout.split("largest difference")[1]) < 1e-5
