"""The data's part of `-check`: every voxel read, what the cases look like, and what they suggest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.model import ModelConfig
from deepmedic.config.training import SamplingConfig
from deepmedic.data.dataset import DataSet
from deepmedic.data.fingerprint import CaseSummary, Fingerprint, repeated_voxels, summarise
from deepmedic.data.reading import read_ahead
from deepmedic.data.sampling_maps import SamplingRule, row_masses
from deepmedic.data.source import nothing_to_draw
from deepmedic.data.volumes import LoadedCase
from deepmedic.errors import DataError, ProblemList
from deepmedic.planning.suggestions import Room, Suggestion, suggest
from deepmedic.planning.tables import described
from deepmedic.sessions.common import estimates
from deepmedic.words import channels_by_number, classes_by_number


@dataclass
class DataFindings:
    """What `-check` found out about the cases of a session."""

    channel_names: tuple[str, ...]
    class_names: tuple[str, ...]
    sets: list[Fingerprint] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    current: dict[str, Any] = field(default_factory=dict)
    """What is set now, by key."""

    @classmethod
    def of_model(cls, config: ModelConfig) -> DataFindings:
        """For the cases of a model, whose names of channels and classes are used."""
        architecture = config.architecture
        channels = config.channel_names or channels_by_number(architecture.input_channels)
        classes = config.class_names or classes_by_number(architecture.classes)
        return cls(channels, classes)

    @property
    def repeated(self) -> list[str]:
        """Images that have the same voxels under several names."""
        return repeated_voxels(self.sets)

    def suggest(self, model: ModelConfig, settings: Mapping[str, Any], device: torch.device) -> None:
        """Add what the training cases suggest for this network, beside what is set."""
        training = next((found for found in self.sets if found.role == "training" and found.cases), None)
        if training is None:
            return
        room = room_for_steps(model.architecture, device)
        self.suggestions = suggest(training, model.architecture, room, self.class_names)
        self.current = {
            suggestion.key: _current(suggestion.key, {**settings, "segmentsDimTrain": model.segment_size_train})
            for suggestion in self.suggestions
        }

    def lines(self) -> list[str]:
        """For the console: each set in short, and the suggestions."""
        lines = ["data:"]
        for found in self.sets:
            lines += [f"  {line}" for line in described(found, self.channel_names, self.class_names)]
        if self.suggestions:
            lines.append("suggestions (they change nothing; set what convinces you):")
        for suggestion in self.suggestions:
            now = self.current[suggestion.key]
            same = _same(suggestion.value, now)
            beside = "as it is" if same else f"now {'not set' if now is None else json.dumps(now)}"
            lines.append(f"  - {suggestion.key} = {json.dumps(suggestion.value)} ({beside}): {suggestion.reason}")
        return lines

    def to_plain(self) -> dict[str, Any]:
        """For JSON: each set with all of its cases, and the suggestions."""
        data = {found.role: found.to_plain(self.channel_names, self.class_names) for found in self.sets}
        suggestions = [{**found.to_plain(), "now": self.current[found.key]} for found in self.suggestions]
        return {"data": data, "suggestions": suggestions}


def room_for_steps(architecture: Architecture, device: torch.device) -> Room:
    """The memory that a training step may take on a device."""
    bytes_of = partial(estimates.activation_bytes, architecture, training=True)
    return Room(bytes_of, estimates.step_budget(device))


def read_all(
    data: DataSet, problems: ProblemList, sampling: SamplingConfig | None, findings: DataFindings
) -> dict[str, str]:
    """Read every voxel of every case; return the names of cases that would be left out, and why.

    Args:
        data: the cases.
        problems: gets what is wrong with cases that may not be left out.
        sampling: how segments would be drawn from them; None: they are segmented as a whole.
        findings: gets what the cases look like.
    """
    rule = SamplingRule.from_config(sampling, data.needs.classes) if sampling is not None else None
    fingerprint = Fingerprint(data.role, data.needs.channels, data.needs.classes)
    findings.sets.append(fingerprint)
    summaries: dict[int, CaseSummary] = {}

    def observe(index: int, loaded: LoadedCase) -> None:
        summaries[index] = summarise(loaded, data.needs.classes)

    data.observer = observe
    skipped = {}
    for index, read in read_ahead(data.load, len(data)):
        try:
            case = read()
            if rule is not None:
                wanted = np.asarray(rule.proportions) > 0
                if not (row_masses(rule, case, data.needs.segment).exists & wanted).any():
                    raise nothing_to_draw(data, index)
            fingerprint.add(summaries.pop(index))
        except DataError as problem:
            summaries.pop(index, None)
            if data.preprocessing.allow_skipped_cases:
                skipped[data.cases[index].name] = str(problem)
            else:
                problems.add(problem)
    data.observer = None
    return skipped


def _current(key: str, settings: Mapping[str, Any]) -> Any:
    """The value of a key such as `augm_sample_prms_tr.reflect` among settings that may be nested."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if item not in (None, False)}
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _same(suggested: Any, now: Any) -> bool:
    """Whether what is set is what is suggested; further sub-keys may be set."""
    if isinstance(suggested, Mapping) and isinstance(now, Mapping):
        return all(key in now and _same(value, now[key]) for key, value in suggested.items())
    return bool(json.dumps(suggested) == json.dumps(now))
