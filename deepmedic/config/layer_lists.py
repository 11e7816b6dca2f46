"""Lists with one entry per layer of a pathway, and lists of layer numbers: their lengths and their entries."""

from __future__ import annotations

from collections.abc import Sequence

from deepmedic.config.architecture import Padding
from deepmedic.config.options import Size3
from deepmedic.config.source import Refusals, listed, shown

_PADDINGS: dict[str, Padding] = {
    "valid": "valid",
    "none": "valid",
    "mirror": "mirror",
    "zero": "zero",
    "same": "zero",
}


class LayerLists:
    """Checks such lists of one file, refusing what does not fit the depth of the pathway."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def paddings(
        self, key: str, given: Sequence[str | None] | None, depth: int, classifier: bool = False
    ) -> tuple[Padding, ...]:
        """Return the padding of each layer, in which "valid" is none; none is given: none anywhere."""
        if given is None:
            given = ("valid",) * depth
        names = tuple("none" if name is None else name.lower() for name in given)
        for position, name in enumerate(names):
            if name not in _PADDINGS:
                allowed = '"valid", "none", "zero", "same" or "mirror"'
                self._refusals.refuse((key, position), f"found {shown(given[position])}; allowed: {allowed}")
        if len(names) != depth:
            self.refuse_length(key, len(names), depth, "", classifier)
        paddings: list[Padding] = [_PADDINGS.get(name, "valid") for name in names]
        return tuple(paddings)

    def refuse_padding(self, key: str, kernels: Sequence[Size3], paddings: Sequence[Padding]) -> None:
        """Refuse padded layers of a pathway that runs beside pathways of another resolution."""
        for position, (kernel, padding) in enumerate(zip(kernels, paddings, strict=False)):
            if padding != "valid" and kernel != (1, 1, 1) and self._refusals.usable(key):
                self._refusals.refuse(
                    (key, position),
                    f'found "{padding}"; allowed: "valid" for all layers of the normal and the low-resolution pathways '
                    "when useSubsampledPathway is on, because their outputs would not lie over each other",
                )

    def dropout(self, key: str, rates: tuple[float, ...], depth: int, classifier: bool = False) -> tuple[float, ...]:
        """Return the dropout rate of each layer; an empty list: none anywhere."""
        if not rates:
            return (0.0,) * depth
        if len(rates) != depth:
            self.refuse_length(key, len(rates), depth, "", classifier)
        return rates

    def residuals(self, key: str, layers: tuple[int, ...], depth: int) -> tuple[int, ...]:
        """Return the layers with a residual connection."""
        if 1 in layers:
            self._refusals.refuse(
                key,
                f"found layer 1; allowed: layers 2 to {depth}, because the input of the layer before is added and "
                "layer 1 has no layer before it",
            )
            return layers
        return self.layers(key, layers, depth, first=2)

    def layers(self, key: str, layers: tuple[int, ...], depth: int, first: int = 1) -> tuple[int, ...]:
        """Return numbers of layers, each at least `first` and at most `depth`."""
        outside = [layer for layer in layers if not first <= layer <= depth]
        if outside:
            allowed = f"layers {first} to {depth}" if depth >= first else "[], as the pathway has a single layer"
            self._refusals.refuse(key, f"found layer {listed(outside)}; allowed: {allowed}")
        elif len(set(layers)) != len(layers):
            self._refusals.refuse(key, f"found {list(layers)}; allowed: each layer once")
        return layers

    def refuse_length(self, key: str, found: int, expected: int, like: str, classifier: bool = False) -> None:
        """Refuse a list that has not one entry per layer; `like` names the key that sets the depth."""
        reason = f", as in {like}" if like and not classifier else ""
        reason = f" (numberFMsPerLayerFC has {expected - 1}, and the classification layer)" if classifier else reason
        self._refusals.refuse(key, f"found {found} entries; allowed: one per layer, {expected}{reason}")
