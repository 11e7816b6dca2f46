"""Volumes as text that a page can hold: differences of 8-bit codes, deflated (RFC 1950), in base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepmedic.data.gzip_codecs import Content, deflated
from deepmedic.plain_content import finite
from deepmedic.report.volumes import ViewedCase


def packed_case(case: ViewedCase, channel_names: Sequence[str]) -> dict[str, Any]:
    """Return a case as JSON-able values; volumes are read back by `unpack` in `volumes.js`, x running fastest."""
    packed: dict[str, Any] = {
        "name": case.name,
        "shape": list(case.shape),
        "spacing": list(case.spacing),
        "affine": np.round(case.affine, 6).tolist(),
        "stored": case.stored,
        "notes": case.notes,
        "channels": [
            {
                "name": channel_names[index] if index < len(channel_names) else f"channel {index + 1}",
                "low": volume.low,
                "high": volume.high,
                "background": volume.background,
                "data": packed_image(volume.codes),
            }
            for index, volume in case.channels
        ],
        "labels": None if case.labels is None else packed_labels(case.labels),
        "prediction": None if case.prediction is None else packed_labels(case.prediction),
        "probabilities": {str(number): packed_probabilities(volume) for number, volume in case.probabilities.items()},
    }
    if case.uncertainty:
        packed["uncertainty"] = {
            kind: {"largest": found.largest, "data": packed_probabilities(found.codes)}
            for kind, found in case.uncertainty.items()
        }
    return packed


def packed_image(codes: np.ndarray) -> str:
    """Pack uint8 [x, y, z]; each voxel but the first is stored less the one before, modulo 256."""
    return _packed(np.diff(codes.ravel(order="F"), prepend=np.uint8(0)), "floats")


def packed_labels(labels: np.ndarray) -> str:
    """Pack uint8 [x, y, z] of which neighbours are commonly equal."""
    return _packed(labels.ravel(order="F"), "labels")


def packed_probabilities(codes: np.ndarray) -> str:
    """Pack uint8 [x, y, z] of which many are 0 and others hardly repeat."""
    return _packed(codes.ravel(order="F"), "floats")


def _packed(values: np.ndarray, content: Content) -> str:
    return base64.b64encode(deflated(values.tobytes(), content)).decode()


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no character in it can end one, and no nan.

    Not-a-number and infinite values, which JSON does not know, become null.
    """
    text = json.dumps(finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
