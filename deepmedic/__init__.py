"""DeepMedic for PyTorch: segmentation of 3D medical images with multi-pathway 3D CNNs.

The command line is `deepmedic -h`. From Python:

    import deepmedic

    model = deepmedic.load_model("output/cnnModels/mySession")
    result = deepmedic.segment(model, ["t1.nii.gz", "flair.nii.gz"], roi="brain.nii.gz")
    result.save("segmentation.nii.gz")

Everything listed in `__all__` is imported when it is first used: `import deepmedic` alone imports neither torch nor
numpy. See `deepmedic.api`, `deepmedic.api_training`, `deepmedic.api_transfer` for what each function takes and gives.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepmedic.api import TrainingResult as TrainingResult
    from deepmedic.api import build_network as build_network
    from deepmedic.api import load_model as load_model
    from deepmedic.api import new_model as new_model
    from deepmedic.api import save_model as save_model
    from deepmedic.api import segment as segment
    from deepmedic.api import train as train
    from deepmedic.api_analysis import analyse_model_and_data as analyse_model_and_data
    from deepmedic.api_training import PhasedTrainingResult as PhasedTrainingResult
    from deepmedic.api_training import dual_phase_model_training as dual_phase_model_training
    from deepmedic.api_training import mono_phase_model_training as mono_phase_model_training
    from deepmedic.api_transfer import adapt_model as adapt_model
    from deepmedic.api_transfer import transfer_parameters as transfer_parameters
    from deepmedic.config.model import ModelConfig as ModelConfig
    from deepmedic.config.training import TrainConfig as TrainConfig
    from deepmedic.errors import DeepMedicError as DeepMedicError
    from deepmedic.model.network import DeepMedicNet as DeepMedicNet
    from deepmedic.model.saved import SavedModel as SavedModel
    from deepmedic.sessions.inference.single_case import Segmentation as Segmentation
    from deepmedic.sessions.transfer.analysis import AnalysisResult as AnalysisResult
    from deepmedic.transfer.report import TransferResult as TransferResult

    __version__: str

_HOMES = {
    "AnalysisResult": "deepmedic.sessions.transfer.analysis",
    "DeepMedicError": "deepmedic.errors",
    "DeepMedicNet": "deepmedic.model.network",
    "ModelConfig": "deepmedic.config.model",
    "PhasedTrainingResult": "deepmedic.api_training",
    "SavedModel": "deepmedic.model.saved",
    "Segmentation": "deepmedic.sessions.inference.single_case",
    "TrainConfig": "deepmedic.config.training",
    "TrainingResult": "deepmedic.api",
    "TransferResult": "deepmedic.transfer.report",
    "adapt_model": "deepmedic.api_transfer",
    "analyse_model_and_data": "deepmedic.api_analysis",
    "build_network": "deepmedic.api",
    "dual_phase_model_training": "deepmedic.api_training",
    "load_model": "deepmedic.api",
    "mono_phase_model_training": "deepmedic.api_training",
    "new_model": "deepmedic.api",
    "save_model": "deepmedic.api",
    "segment": "deepmedic.api",
    "train": "deepmedic.api",
    "transfer_parameters": "deepmedic.api_transfer",
}
"""Module of each name that is imported when it is first used."""

__all__ = [
    "AnalysisResult",
    "DeepMedicError",
    "DeepMedicNet",
    "ModelConfig",
    "PhasedTrainingResult",
    "SavedModel",
    "Segmentation",
    "TrainConfig",
    "TrainingResult",
    "TransferResult",
    "__version__",
    "adapt_model",
    "analyse_model_and_data",
    "build_network",
    "dual_phase_model_training",
    "load_model",
    "mono_phase_model_training",
    "new_model",
    "save_model",
    "segment",
    "train",
    "transfer_parameters",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = importlib.import_module("deepmedic.versions").VERSION
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # so that this function is not asked again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
