"""The config of an inference session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepmedic.config.options import option, section
from deepmedic.config.sections import DataConfig, ExecutionConfig, OutputConfig, PreprocessingConfig


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """An inference session: `-test TEST.cfg`."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    session_name: str = option("sessionName", "testSession")
    folder_for_output: Path = option("folderForOutput")
    model_path: Path | None = option("cnnModelFilePath", None)
    data: DataConfig = section(DataConfig, {"weight_maps": None})
    output: OutputConfig = section(OutputConfig)
    batch_size: int = option("batchsize", 10, minimum=1)
    tiling: Literal["segments", "auto"] | None = option("tiling", None)
    """None: "segments" for original-dialect configs, imported models and a given segmentsDimInference."""
    preprocessing: PreprocessingConfig = section(PreprocessingConfig)
    execution: ExecutionConfig = section(ExecutionConfig)
