"""Saving results while the next case is computed."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from deepmedic.data.memory_order import in_file_order
from deepmedic.data.nifti import VolumeHeader, to_native, write_volume
from deepmedic.data.nifti_writer import Kind
from deepmedic.files import write_text_atomically
from deepmedic.inference.flow import Flow
from deepmedic.inference.predictor import Prediction
from deepmedic.inference.results import Record, ResultFiles, remove_other_results, write_record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseResults:
    """One case to be saved."""

    name: str
    prediction: Prediction
    header: VolumeHeader
    """Of the image that the results lie on."""
    record: Record


def memory_of(prediction: Prediction) -> int:
    """Bytes of the tensors of a prediction."""
    tensors = [prediction.probabilities, prediction.segmentation, prediction.segmentation_everywhere]
    return sum(
        tensor.nbytes for tensor in (*tensors, *prediction.feature_maps.values(), *prediction.uncertainty.values())
    )


class ResultWriter:
    """Writes the files of cases in the background; a context manager that ends when all are written.

    An error while writing is raised by the next `submit` or at the end, that of the first case before those of others.
    """

    def __init__(self, files: ResultFiles, flow: Flow | None = None) -> None:
        self.files = files
        self._flow = flow or Flow()
        self._cases = ThreadPoolExecutor(self._flow.writers, thread_name_prefix="results")
        # Compressing takes longer than computing on a fast GPU, and several images can be compressed at once.
        self._images = ThreadPoolExecutor(self._flow.images, thread_name_prefix="image")
        self._pending: deque[Future[list[Path]]] = deque()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            self._wait_until_at_most(0, raise_errors=kind is None)
        finally:
            self._cases.shutdown()
            self._images.shutdown()

    def submit(self, results: CaseResults) -> None:
        """Save a case in the background; waits while too many are in memory.

        Raises:
            ResourceError: an earlier case could not be written.
            ModelError: probabilities of an earlier case are not finite.
        """
        self._wait_until_at_most(self._flow.cases_written(memory_of(results.prediction)) - 1)
        self._pending.append(self._cases.submit(self._write, results))

    def _wait_until_at_most(self, count: int, *, raise_errors: bool = True) -> None:
        while self._pending and (len(self._pending) > count or self._pending[0].done()):
            written = self._pending.popleft()
            error = written.exception()
            if error is not None and raise_errors:
                raise error
            if error is not None:
                log.error("%s", error)
            for path in [] if error is not None else written.result():
                log.debug("Image saved at: %s", path)

    def _write(self, results: CaseResults) -> list[Path]:
        """Write the files of a case, between its two records, and return their paths."""
        remove_other_results(results.name, self.files)
        write_record(results.name, self.files, results.record)
        images = images_of(results.name, results.prediction, self.files)
        jobs = [self._images.submit(_save, path, image, results.header, kind) for path, image, kind in images]
        for job in jobs:
            job.result()
        texts = self.files.texts(results.name)
        for path, text in texts.items():
            write_text_atomically(path, text)
        paths = [*(path for path, _, _ in images), *texts]
        write_record(results.name, self.files, results.record, paths)
        return paths


def images_of(name: str, prediction: Prediction, files: ResultFiles) -> list[tuple[Path, torch.Tensor, Kind]]:
    """Return all images to save of a case: file, voxels [x, y, z], kind."""
    images: list[tuple[Path, torch.Tensor, Kind]] = []
    if files.output.save_segmentation:
        images.append((files.segmentation(name), prediction.segmentation, "labels"))
    images += [
        (files.probability(name, number), prediction.probabilities[number], "probability")
        for number in files.probability_classes
    ]
    images += [
        (files.uncertainty_map(name, kind), prediction.uncertainty[kind], "feature") for kind in files.uncertainty
    ]
    for pathway, layers in files.feature_maps.items():
        for layer, (first, _) in layers.items():
            for number, volume in enumerate(prediction.feature_maps[pathway, layer], first):
                images.append((files.feature_map(name, pathway, layer, number), volume, "feature"))
    return images


def _save(path: Path, image: torch.Tensor, header: VolumeHeader, kind: Kind) -> None:
    write_volume(path, in_file_order(to_native(image.numpy(), header)), header, kind)
