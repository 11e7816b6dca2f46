"""What a model keeps about the data it was trained on, to be compared with what it is used for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from deepmedic.data.dataset import DataSet
from deepmedic.data.preprocessing import PreparedCase, intensity_fingerprint
from deepmedic.devices import return_freed_memory
from deepmedic.model.saved import DataDescription

_FINGERPRINT_CASES = 5


def describe_data(data: DataSet, load: Callable[[int], PreparedCase | None] | None = None) -> DataDescription:
    """Return spacing, axes, normalisation and intensities of a data set; reads its first cases.

    Args:
        data: the cases, as a network is trained on them.
        load: returns one of them, or None if it cannot be used; by default it is read.

    Raises:
        DataError: one of them cannot be used, and cases may not be skipped.
    """
    load = load or data.load_if_usable
    intensities = []
    for index in range(min(len(data), _FINGERPRINT_CASES)):
        case = load(index)
        if case is not None:
            intensities.append(intensity_fingerprint(case))
        del case  # before the next one is read
    return_freed_memory()
    return DataDescription(
        spacing=data.median_spacing(),
        spacing_range=data.spacing_range(),
        axis_order=data.headers[0].header.axis_codes,
        orientation=data.preprocessing.orientation,
        zscore=asdict(data.preprocessing.zscore),
        pad_images=data.preprocessing.pad_images,
        intensities=intensities,
    )
