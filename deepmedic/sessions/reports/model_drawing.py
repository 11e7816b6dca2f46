"""What drawings show of a model: in its report, and with `-inspect`."""

from __future__ import annotations

from deepmedic.config.model import ModelConfig
from deepmedic.data.memory import bytes_as_text
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.report.architecture_facts import by
from deepmedic.report.content import Model, Table
from deepmedic.sessions.common import estimates
from deepmedic.words import channels_by_number, classes_by_number


def describe_model(config: ModelConfig) -> Model:
    """Return what drawings show of a model, with estimates of the memory that its segments need."""
    architecture = config.architecture
    segments = {
        "training": config.segment_size_train,
        "validation": config.segment_size_validation,
        "inference": config.segment_size_inference,
    }
    rows = []
    for size in dict.fromkeys(segments.values()):
        used = ", ".join(name for name, other in segments.items() if other == size)
        inference = int(forward_cost(architecture, size).memory)
        training = estimates.activation_bytes(architecture, size, 1, training=True)
        predicted = by(architecture.output_size(size))
        rows.append((by(size), used, predicted, bytes_as_text(inference), bytes_as_text(training)))
    columns = ("segment", "used for", "predicted box", "inference", "training, with gradients")
    return Model(
        architecture=architecture,
        segments=segments,
        class_names=config.class_names or classes_by_number(architecture.classes),
        channel_names=config.channel_names or channels_by_number(architecture.input_channels),
        memory=Table(columns, tuple(rows)),
    )
