"""Resolves the keys of a model config to an architecture: defaults that depend on other keys, and cross-checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from deepmedic import geometry
from deepmedic.config.architecture import ActivationName, Architecture, Pathway
from deepmedic.config.layer_lists import LayerLists
from deepmedic.config.model_keys import ModelKeys
from deepmedic.config.options import Size3
from deepmedic.config.schema import declared_keys
from deepmedic.config.source import Refusals, listed, shown

_REQUIRED = {
    "classes": "numberOfOutputClasses",
    "channels": "numberOfInputChannels",
    "feature_maps": "numberFMsPerLayerNormal",
    "kernels": "kernelDimPerLayerNormal",
    "segment_train": "segmentsDimTrain",
}
_SUBSAMPLED_KEYS = (
    "subsampled_feature_maps",
    "subsampled_kernels",
    "subsampled_paddings",
    "factors",
    "subsampled_residuals",
    "subsampled_low_rank",
    "subsampled_dropout",
)


@dataclass(frozen=True)
class SegmentSizes:
    """Sizes of the normal pathway's segments."""

    train: Size3
    validation: Size3
    inference: Size3


class ArchitectureResolver:
    """Resolves the keys of one file; what does not fit together is refused."""

    def __init__(self, keys: ModelKeys, refusals: Refusals, theano: bool) -> None:
        self._keys = keys
        self._refusals = refusals
        self._theano = theano
        self._lists = LayerLists(refusals)
        self.notes: list[str] = []

    def architecture(self) -> Architecture | None:
        """Return the architecture, or None when it was refused."""
        keys = self._keys
        for attribute, key in _REQUIRED.items():
            if getattr(keys, attribute) is None and self._refusals.usable(key):
                self._refusals.refuse(key, "is missing; it has no default and must be given")
        normal = self._normal()
        subsampled = self._subsampled(normal) if keys.use_subsampled and normal is not None else ()
        fc = self._fc()
        self._check_initialisation()
        self._check_names()
        self._note_unused()
        if normal is None or subsampled is None or fc is None:
            return None
        self._note_even(normal, subsampled, fc)
        return Architecture(
            input_channels=keys.channels or 1,
            classes=keys.classes or 2,
            normal=normal,
            subsampled=subsampled,
            fc=fc,
            activation=cast(ActivationName, keys.activation),
            batch_norm_window=keys.batch_norm_window,
            batch_norm_epsilon=keys.batch_norm_epsilon,
            weights_init=keys.weights_init,
        )

    def segments(self, architecture: Architecture) -> SegmentSizes | None:
        """Return the sizes of segments, or None when one is too small for the network."""
        keys = self._keys
        unpadded = [
            kernel
            for kernel, padding in zip(architecture.fc.kernels, architecture.fc.paddings, strict=True)
            if padding == "valid"
        ]
        smallest = geometry.receptive_field((*architecture.normal.kernels, *unpadded))
        train = keys.segment_train or smallest  # a missing one has been refused
        sizes = {
            "segmentsDimTrain": train,
            "segmentsDimVal": keys.segment_validation or smallest,
            "segmentsDimInference": keys.segment_inference or train,
        }
        for key, size in sizes.items():
            inherited = key == "segmentsDimInference" and keys.segment_inference is None
            if not inherited and any(length < least for length, least in zip(size, smallest, strict=True)):
                self._refusals.refuse(
                    key,
                    f"found {list(size)}; allowed: at least the receptive field {list(smallest)} along each axis; "
                    "enlarge the segment, or use fewer layers or smaller kernels",
                )
        if not self._refusals.usable(*sizes):
            return None
        return SegmentSizes(train, sizes["segmentsDimVal"], sizes["segmentsDimInference"])

    def _normal(self) -> Pathway | None:
        keys = self._keys
        feature_maps, kernels = keys.feature_maps or (), keys.kernels or ()
        depth = len(feature_maps)
        if not self._refusals.usable("numberFMsPerLayerNormal", "kernelDimPerLayerNormal"):
            return None
        if len(kernels) != depth:
            self._lists.refuse_length("kernelDimPerLayerNormal", len(kernels), depth, "numberFMsPerLayerNormal")
            return None
        return Pathway(
            name="normal",
            feature_maps=feature_maps,
            kernels=kernels,
            paddings=self._lists.paddings("padTypePerLayerNormal", keys.paddings, depth),
            dropout_rates=self._lists.dropout("dropoutRatesNormal", keys.dropout, depth),
            residual_layers=self._lists.residuals("layersWithResidualConnNormal", keys.residuals or (), depth),
            low_rank_layers=self._lists.layers("lowerRankLayersNormal", keys.low_rank or (), depth),
        )

    def _subsampled(self, normal: Pathway) -> tuple[Pathway, ...] | None:
        keys = self._keys
        if not self._refusals.usable("numberFMsPerLayerSubsampled", "kernelDimPerLayerSubsampled", "subsampleFactor"):
            return None
        feature_maps, factors = self._pathways_per_factor(normal)
        depth = len(feature_maps[0])
        if any(len(maps) != depth for maps in feature_maps):
            depths = listed(len(maps) for maps in feature_maps)
            self._refusals.refuse(
                "numberFMsPerLayerSubsampled",
                f"found pathways of {depths} layers; allowed: the same number of layers in all of them, because they "
                "share their kernels",
            )
            return None
        kernels = self._subsampled_kernels(normal, depth)
        if kernels is None:
            return None
        paddings = self._lists.paddings("padTypePerLayerSubsampled", keys.subsampled_paddings, depth)
        self._lists.refuse_padding("padTypePerLayerNormal", normal.kernels, normal.paddings)
        self._lists.refuse_padding("padTypePerLayerSubsampled", kernels, paddings)
        dropout = self._lists.dropout("dropoutRatesSubsampled", keys.subsampled_dropout, depth)
        residuals = self._inherited(
            "layersWithResidualConn", keys.subsampled_residuals, normal.residual_layers, depth, first=2
        )
        low_rank = self._inherited("lowerRankLayers", keys.subsampled_low_rank, normal.low_rank_layers, depth)
        return tuple(
            Pathway(
                name=f"subsampled{number}",
                feature_maps=maps,
                kernels=kernels,
                paddings=paddings,
                dropout_rates=dropout,
                residual_layers=residuals,
                low_rank_layers=low_rank,
                factor=factor,
            )
            for number, (maps, factor) in enumerate(zip(feature_maps, factors, strict=True), 1)
        )

    def _pathways_per_factor(self, normal: Pathway) -> tuple[list[tuple[int, ...]], list[Size3]]:
        """Return feature maps and factor of each low-resolution pathway, as many of the one as of the other."""
        keys = self._keys
        feature_maps = _one_per_pathway(keys.subsampled_feature_maps or normal.feature_maps)
        factors = cast(list[Size3], _one_per_pathway(keys.factors or (3, 3, 3)))
        if len(feature_maps) > len(factors) and not self._theano:
            self._refusals.refuse(
                "numberFMsPerLayerSubsampled",
                f"found feature maps of {len(feature_maps)} pathways, but {len(factors)} in subsampleFactor; give one "
                "factor per pathway",
            )
        while len(feature_maps) < len(factors):
            # The Theano version gave each further pathway half of the feature maps, the later one repeats them.
            feature_maps.append(tuple(max(1, count // (2 if self._theano else 1)) for count in feature_maps[-1]))
        while len(factors) < len(feature_maps):
            x, y, z = factors[-1]
            factors.append((x + 2, y + 2, z + 2))
        return feature_maps, factors

    def _subsampled_kernels(self, normal: Pathway, depth: int) -> tuple[Size3, ...] | None:
        key = "kernelDimPerLayerSubsampled"
        kernels = self._keys.subsampled_kernels
        if kernels is None and depth == normal.depth:
            return normal.kernels
        if kernels is None:
            self._refusals.refuse(
                key,
                f"is missing; the low-resolution pathways have {depth} layers and the normal pathway {normal.depth}: "
                f"give kernels with the receptive field of the normal pathway, {list(normal.receptive_field)}",
            )
            return None
        if len(kernels) != depth:
            self._lists.refuse_length(key, len(kernels), depth, "numberFMsPerLayerSubsampled")
            return None
        receptive_field = geometry.receptive_field(kernels)
        if receptive_field != normal.receptive_field:
            self._refusals.refuse(
                key,
                f"found kernels with the receptive field {list(receptive_field)}; allowed: that of the normal pathway, "
                f"{list(normal.receptive_field)}; leave the key out to use the same kernels",
            )
            return None
        return kernels

    def _fc(self) -> Pathway | None:
        keys = self._keys
        if not self._refusals.usable("numberFMsPerLayerFC", "kernelDimPerLayerFC", "padTypePerLayerFC"):
            return None
        depth = len(keys.fc_feature_maps) + 1
        kernels = keys.fc_kernels or ((1, 1, 1),) * depth
        given_paddings = keys.fc_paddings
        if keys.fc_first_kernel is not None:
            if keys.fc_kernels is not None or keys.fc_paddings is not None:
                self._refusals.refuse(
                    "kernelDimFor1stFcLayer",
                    "stands with kernelDimPerLayerFC or padTypePerLayerFC, which replaced it; keep one of them",
                )
                return None
            kernels = (keys.fc_first_kernel, *kernels[1:])
            given_paddings = ("mirror", *["valid"] * (depth - 1)) if keys.fc_first_kernel != (1, 1, 1) else None
        if len(kernels) != depth:
            self._lists.refuse_length(
                "kernelDimPerLayerFC", len(kernels), depth, "numberFMsPerLayerFC", classifier=True
            )
            return None
        default_dropout = (0.0,) + (0.5,) * (depth - 1) if depth > 1 else (0.5,)
        dropout = default_dropout if keys.fc_dropout is None else keys.fc_dropout
        return Pathway(
            name="fc",
            feature_maps=(*keys.fc_feature_maps, keys.classes or 2),
            kernels=kernels,
            paddings=self._lists.paddings("padTypePerLayerFC", given_paddings, depth, classifier=True),
            dropout_rates=self._lists.dropout("dropoutRatesFc", dropout, depth, classifier=True),
            residual_layers=self._lists.residuals("layersWithResidualConnFC", keys.fc_residuals, depth),
        )

    def _inherited(
        self, key: str, given: tuple[int, ...] | None, normal: tuple[int, ...], depth: int, first: int = 1
    ) -> tuple[int, ...]:
        subsampled_key = f"{key}Subsampled"
        if given is not None:
            check = self._lists.residuals if first == 2 else self._lists.layers
            return check(subsampled_key, given, depth)
        outside = [layer for layer in normal if layer > depth]
        if outside and self._refusals.usable(f"{key}Normal"):
            self._refusals.refuse(
                subsampled_key,
                f"is missing; layer {listed(outside)} of {key}Normal would be taken over, but the low-resolution "
                f"pathways have {depth} layers; give the layers of these pathways, or [] for none",
            )
        return normal

    def _check_initialisation(self) -> None:
        kind, number = self._keys.weights_init
        if kind not in ("fanIn", "normal") or number <= 0:
            self._refusals.refuse(
                "convWeightsInit",
                f"found [{shown(kind)}, {number:g}]; "
                'allowed: ["fanIn", a] or ["normal", s] with a number greater than 0',
            )

    def _check_names(self) -> None:
        keys = self._keys
        for key, names, count_key, count in (
            ("channelNames", keys.channel_names, "numberOfInputChannels", keys.channels),
            ("classNames", keys.class_names, "numberOfOutputClasses", keys.classes),
        ):
            if names is None or count is None:
                continue
            if len(names) != count:
                self._refusals.refuse(key, f"found {len(names)} names; allowed: {count}, as {count_key} says")
            elif len(set(names)) != len(names):
                self._refusals.refuse(key, f"found {shown(list(names))}; allowed: each name once")
            elif not all(name.isprintable() for name in names):
                self._refusals.refuse(key, f"found {shown(list(names))}; allowed: names of printable characters")

        shares = keys.class_frequencies
        if shares is not None and keys.classes is not None and len(shares) != keys.classes:
            self._refusals.refuse(
                "classFrequencies", f"found {len(shares)} shares; allowed: one per class, {keys.classes}"
            )

    def _note_unused(self) -> None:
        subsampled = [key for key in declared_keys(ModelKeys) if key.attributes[0] in _SUBSAMPLED_KEYS]
        given = [key.name for key in subsampled if getattr(self._keys, key.attributes[0]) not in (None, ())]
        if given and not self._keys.use_subsampled and self._refusals.usable("useSubsampledPathway"):
            self.notes.append(f"{listed(given)} not used, because useSubsampledPathway is off")

    def _note_even(self, normal: Pathway, subsampled: tuple[Pathway, ...], fc: Pathway) -> None:
        parts = []
        kernels = [kernel for pathway in (normal, *subsampled, fc) for kernel in pathway.kernels]
        if any(length % 2 == 0 for kernel in kernels for length in kernel):
            parts.append("kernels")
        if any(length % 2 == 0 for pathway in subsampled for length in pathway.factor):
            parts.append("factors of subsampling")
        if parts:
            self.notes.append(f"even {' and '.join(parts)} shift the outputs by half a voxel; odd ones are recommended")


def _one_per_pathway(value: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Return a list of one tuple per pathway, from one tuple or several."""
    several = [item for item in value if isinstance(item, tuple)]
    return several or [tuple(item for item in value if isinstance(item, int))]
