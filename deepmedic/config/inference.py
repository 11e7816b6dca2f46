"""The config of an inference session."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepmedic.config.options import option, section
from deepmedic.config.prediction import PredictionConfig
from deepmedic.config.scoring import ScoringConfig
from deepmedic.config.sections import REPORT_DOC, DataConfig, ExecutionConfig, OutputConfig, PreprocessingConfig
from deepmedic.config.source import ConfigSource


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """An inference session: `-test TEST.cfg`."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    session_name: str = option(
        "sessionName", "testSession", nonempty=True, doc="Name of the session; its logs and predictions carry it."
    )
    folder_for_output: Path = option(
        "folderForOutput", doc="Folder below which logs and predictions are written; it is made when it does not exist."
    )
    model_path: Path | None = option(
        "cnnModelFilePath",
        None,
        default_text="given on the command line",
        doc="The trained model: a .save file, a session's folder with its checkpoints, or the prefix of a TensorFlow "
        "checkpoint ending in .model.ckpt. A model named on the command line takes precedence.",
    )
    ensemble: tuple[Path, ...] | None = option(
        "ensembleOfModels",
        None,
        nonempty=True,
        origin="new",
        default_text="one model",
        doc="Several trained models whose probabilities are averaged, instead of cnnModelFilePath: .save files, "
        "folders of sessions, or patterns of their names such as output/cnnModels/mySession_fold*. Models named on the "
        "command line take precedence.",
    )
    data: DataConfig = section(DataConfig, {"weight_maps": None, "subjects": None})
    output: OutputConfig = section(OutputConfig)
    scoring: ScoringConfig = section(ScoringConfig)
    batch_size: int = option(
        "batchsize",
        10,
        minimum=1,
        doc="Number of tiles that pass through the network at once. It changes speed and memory, not the result. With "
        "a model config of the Theano version its batchSizeInfer is the default.",
    )
    tiling: Literal["segments", "auto"] | None = option(
        "tiling",
        None,
        origin="new",
        default_text='"segments" for files of the original, imported models and a given segmentsDimInference, '
        'otherwise "auto"',
        doc='How a volume is cut: "segments" takes tiles of segmentsDimInference exactly as the original does; "auto" '
        "chooses tiles for speed, which may change voxels next to tile borders slightly.",
    )
    prediction: PredictionConfig = section(PredictionConfig)
    report: bool = option("report", True, origin="new", doc=REPORT_DOC)
    preprocessing: PreprocessingConfig = section(PreprocessingConfig)
    execution: ExecutionConfig = section(ExecutionConfig)
    source: ConfigSource = field(default_factory=ConfigSource, compare=False)
