"""The keys of a model config, as they stand in the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepmedic.config.options import Size3, option

SMALLEST_EPSILON = 1.1754943508222875e-38
"""The smallest normal float32, which the original adds to variances."""

_FEATURE_MAPS = "Feature maps (output channels) of each layer of {pathway}; the length of the list is its depth."
_KERNELS = "Kernel size in voxels along x, y and z of each layer of {pathway}; odd sizes are recommended."
_PADDING = (
    'Padding of each layer of {pathway}: "valid" (also "none") for none, "zero" (also "same") with zeros, "mirror" '
    "with a reflection that repeats the border voxel. Padded layers keep the size of their input."
)
_RESIDUALS = (
    "Layers of {pathway}, counted from 1, to whose output the input of the layer before is added, cut to its middle. "
    "Layer 1 has no layer before it."
)
_LOW_RANK = "Layers of {pathway}, counted from 1, whose kernels are made of 1-D kernels along x, y and z (rank 2)."
_DROPOUT = "Probability for each layer of {pathway} that an input channel is dropped in training; [] drops none."
_SUBSAMPLED = "the low-resolution pathways"


@dataclass(frozen=True, kw_only=True)
class ModelKeys:
    """A model config before its defaults are resolved; None: not given."""

    name: str | None = option(
        "modelName",
        None,
        nonempty=True,
        default_text='"deepmedic"; of the Theano version "cnnModel"',
        doc="Name of the model; the files of its checkpoints begin with it.",
    )
    folder_for_output: Path | None = option(
        "folderForOutput",
        None,
        default_text="none; needed by -newModel",
        doc="Folder below which a new model is saved; it is made when it does not exist.",
    )
    classes: int | None = option(
        "numberOfOutputClasses", None, minimum=2, default_text="required", doc="Number of classes with the background."
    )
    channels: int | None = option(
        "numberOfInputChannels", None, minimum=1, default_text="required", doc="Number of image channels (modalities)."
    )
    channel_names: tuple[str, ...] | None = option(
        "channelNames",
        None,
        nonempty=True,
        origin="new",
        doc="Names of the image channels in their order, such as T1 or FLAIR; stored with the model and shown in logs.",
    )
    new_channels: Literal["keep", "zero", "mean", "repeat"] = option(
        "newChannels",
        "keep",
        origin="new",
        doc="With -pretrained: first-layer weights of image channels that the source model lacks (by channelNames): "
        '"keep" the new random ones, "zero", the "mean" of the source\'s, or a "repeat" of them in turn. All but '
        '"keep" rescale the weights so that activations keep their size.',
    )
    transfer_classes: bool = option(
        "transferClasses",
        False,
        origin="new",
        doc="With -pretrained: transfer the classification layer too, for the classes that both models know by "
        "classNames (by position where one has no names).",
    )
    class_frequencies: tuple[float, ...] | None = option(
        "classFrequencies",
        None,
        above=0,
        origin="new",
        doc="With -pretrained: share of voxels of each class, the background first; the biases of classes that receive "
        "nothing start at its logarithm, so that the new model begins with these frequencies.",
    )
    class_names: tuple[str, ...] | None = option(
        "classNames",
        None,
        nonempty=True,
        origin="new",
        doc="Names of the classes from the background; stored with the model and shown in logs and reports.",
    )

    feature_maps: tuple[int, ...] | None = option(
        "numberFMsPerLayerNormal",
        None,
        minimum=1,
        nonempty=True,
        default_text="required",
        doc=_FEATURE_MAPS.format(pathway="the normal (full-resolution) pathway"),
    )
    kernels: tuple[Size3, ...] | None = option(
        "kernelDimPerLayerNormal",
        None,
        minimum=1,
        nonempty=True,
        default_text="required",
        doc=_KERNELS.format(pathway="the normal pathway"),
    )
    paddings: tuple[str | None, ...] | None = option(
        "padTypePerLayerNormal",
        None,
        default_text='"valid" for all layers',
        doc=_PADDING.format(pathway="the normal pathway") + " Cannot be used together with low-resolution pathways.",
    )
    residuals: tuple[int, ...] | None = option(
        "layersWithResidualConnNormal",
        None,
        default_text="[]",
        doc=_RESIDUALS.format(pathway="the normal pathway"),
    )
    low_rank: tuple[int, ...] | None = option(
        "lowerRankLayersNormal", None, default_text="[]", doc=_LOW_RANK.format(pathway="the normal pathway")
    )

    use_subsampled: bool = option(
        "useSubsampledPathway",
        False,
        doc="Whether the network has low-resolution pathways, which see the surroundings of a segment subsampled. "
        "Without it all keys of these pathways are ignored.",
    )
    subsampled_feature_maps: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = option(
        "numberFMsPerLayerSubsampled",
        None,
        minimum=1,
        nonempty=True,
        default_text="as numberFMsPerLayerNormal",
        doc=_FEATURE_MAPS.format(pathway=_SUBSAMPLED)
        + " A list of lists has one list per pathway; pathways without a list of their own repeat the last one (in "
        "files of the Theano version with half of its feature maps). All have the same depth.",
    )
    subsampled_kernels: tuple[Size3, ...] | None = option(
        "kernelDimPerLayerSubsampled",
        None,
        minimum=1,
        nonempty=True,
        default_text="as kernelDimPerLayerNormal",
        doc=_KERNELS.format(pathway=_SUBSAMPLED) + " Their receptive field must equal that of the normal pathway.",
    )
    subsampled_paddings: tuple[str | None, ...] | None = option(
        "padTypePerLayerSubsampled",
        None,
        default_text='"valid" for all layers',
        doc='Padding of the layers of the low-resolution pathways; only "valid" (also "none") can be used.',
    )
    factors: Size3 | tuple[Size3, ...] | None = option(
        "subsampleFactor",
        None,
        minimum=1,
        nonempty=True,
        default_text="[3, 3, 3]",
        doc="By what the image is subsampled along x, y and z for a low-resolution pathway; a list of lists makes one "
        "pathway per factor. Odd factors are recommended.",
    )
    subsampled_residuals: tuple[int, ...] | None = option(
        "layersWithResidualConnSubsampled",
        None,
        default_text="as layersWithResidualConnNormal",
        doc=_RESIDUALS.format(pathway=_SUBSAMPLED),
    )
    subsampled_low_rank: tuple[int, ...] | None = option(
        "lowerRankLayersSubsampled",
        None,
        default_text="as lowerRankLayersNormal",
        doc=_LOW_RANK.format(pathway=_SUBSAMPLED),
    )

    fc_feature_maps: tuple[int, ...] = option(
        "numberFMsPerLayerFC",
        (),
        minimum=1,
        doc="Feature maps of the hidden layers of the FC pathway, which classifies the concatenated pathways; its last "
        "layer, the classification layer, is added by itself.",
    )
    fc_kernels: tuple[Size3, ...] | None = option(
        "kernelDimPerLayerFC",
        None,
        minimum=1,
        nonempty=True,
        default_text="[1, 1, 1] for all layers",
        doc=_KERNELS.format(pathway="the FC pathway, the classification layer included"),
    )
    fc_first_kernel: Size3 | None = option(
        "kernelDimFor1stFcLayer",
        None,
        minimum=1,
        origin="theano",
        default_text="[1, 1, 1]",
        doc='Kernel size of the first layer of the FC pathway, with "mirror" padding. Today: kernelDimPerLayerFC and '
        "padTypePerLayerFC.",
    )
    fc_paddings: tuple[str | None, ...] | None = option(
        "padTypePerLayerFC",
        None,
        default_text='"valid" for all layers',
        doc=_PADDING.format(pathway="the FC pathway, the classification layer included"),
    )
    fc_residuals: tuple[int, ...] = option(
        "layersWithResidualConnFC", (), doc=_RESIDUALS.format(pathway="the FC pathway")
    )

    segment_train: Size3 | None = option(
        "segmentsDimTrain",
        None,
        minimum=1,
        default_text="required",
        doc="Size in voxels along x, y and z of the segments that the normal pathway is trained on; at least the "
        "receptive field. The network predicts a smaller box in the middle of a segment.",
    )
    segment_validation: Size3 | None = option(
        "segmentsDimVal",
        None,
        minimum=1,
        default_text="the receptive field, which predicts one voxel",
        doc="Size of the segments in the validation on samples.",
    )
    segment_inference: Size3 | None = option(
        "segmentsDimInference",
        None,
        minimum=1,
        default_text="as segmentsDimTrain",
        doc="Size of the tiles that whole volumes are segmented in; larger is faster and takes more memory.",
    )
    batch_train: int | None = option(
        "batchSizeTrain",
        None,
        minimum=1,
        origin="theano",
        doc="Segments per training step, used when the train config has no batchsize_train.",
    )
    batch_validation: int | None = option(
        "batchSizeVal",
        None,
        minimum=1,
        origin="theano",
        default_text="as batchSizeTrain",
        doc="Segments at once in validation on samples, used when the train config has no batchsize_val_samples.",
    )
    batch_inference: int | None = option(
        "batchSizeInfer",
        None,
        minimum=1,
        origin="theano",
        default_text="as batchSizeTrain",
        doc="Tiles at once in inference, used when the other configs have no batchsize and batchsize_val_whole.",
    )

    dropout: tuple[float, ...] = option(
        "dropoutRatesNormal", (), minimum=0, below=1, doc=_DROPOUT.format(pathway="the normal pathway")
    )
    subsampled_dropout: tuple[float, ...] = option(
        "dropoutRatesSubsampled", (), minimum=0, below=1, doc=_DROPOUT.format(pathway=_SUBSAMPLED)
    )
    fc_dropout: tuple[float, ...] | None = option(
        "dropoutRatesFc",
        None,
        minimum=0,
        below=1,
        default_text="0.5 for all layers but the first of several",
        doc=_DROPOUT.format(pathway="the FC pathway, the classification layer included"),
    )
    weights_init: tuple[str, float] = option(
        "convWeightsInit",
        ("fanIn", 2.0),
        doc='How kernels are drawn: ["fanIn", a] from N(0, sqrt(a / inputs of a neuron)), ["normal", s] from N(0, s), '
        "where the second number is the standard deviation.",
    )
    activation: str = option(
        "activationFunction",
        "prelu",
        choices=("linear", "relu", "prelu", "elu", "selu"),
        doc="Activation of all layers except the first of each parallel pathway, which has none.",
    )
    batch_norm_window: int = option(
        "rollAverageForBNOverThatManyBatches",
        60,
        doc="Number of training batches whose statistics are averaged for inference by batch normalisation; 0 or less "
        "replaces batch normalisation by biases.",
    )
    batch_norm_epsilon: float = option(
        "batchNormEpsilon",
        SMALLEST_EPSILON,
        minimum=SMALLEST_EPSILON,
        below=1,
        origin="new",
        doc="Added to variances in batch normalisation, against division by 0; stored in the model.",
    )
