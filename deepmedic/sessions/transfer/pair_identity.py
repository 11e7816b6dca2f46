"""By what a pair of source model and labelled cases is known again, by an analysis and by a comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from deepmedic.config.model import ModelConfig
from deepmedic.config.plain import digest_of_plain
from deepmedic.data.cases import Case, ImageRef
from deepmedic.files import sha256_of


def images_digest(cases: Sequence[Case]) -> str:
    """SHA-256 of the contents of images and labels, whatever their names and order."""
    known: dict[Path, str] = {}

    def content(ref: ImageRef | None) -> list[str | int | None] | None:
        if ref is None:
            return None
        if ref.path not in known:
            known[ref.path] = sha256_of(ref.path)
        return [known[ref.path], ref.volume]

    lines = [json.dumps([*map(content, case.channels), content(case.labels)]) for case in cases]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def architecture_digest(config: ModelConfig) -> str:
    """SHA-256 of the architecture of a new model."""
    return digest_of_plain(config.architecture.to_dict())
