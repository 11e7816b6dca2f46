"""Growth without forgetting: a larger network that computes what a smaller one computes (`-pretrained A -grow exact`).

Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer" (2016), deepen with identities as here; new kernels
have random incoming and zero outgoing weights as in Wei et al., "Network Morphism" (2016): zero weights onto the small
network's feature maps are the first to learn, and with the first step all others begin to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepmedic.config.architecture import Pathway
from deepmedic.model.layers import Dropout
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.assembly import Assembly, match_layers
from deepmedic.transfer.growth_network import NetworkPlan, plan_growth
from deepmedic.transfer.growth_parts import PathwayPlan, Step
from deepmedic.transfer.matching import NEW, LayerMatch, LayerPair, low_rank_groups, pairs_of
from deepmedic.transfer.receiving import receive
from deepmedic.transfer.report import TransferResult
from deepmedic.transfer.selection import source_pathway

_SLOPES = {"relu": 0.0, "linear": 1.0}
"""Slope with which a PReLU is another activation."""


@torch.no_grad()
def grow_exactly(source: SavedModel, target: SavedModel, source_sha256: str | None = None) -> TransferResult:
    """Return a copy of `target` that gives the same probabilities as `source`, up to rounding; neither is changed.

    The target may have more feature maps, layers, image channels and pathways. In inference both agree on a predicted
    box, each given the segment that its margins need, whatever the new image channels show. Additional pathways start
    from the source's last parallel pathway where kernels agree; nothing listens to them at first. Inserted batch norms
    have the statistics that the source knows of the same feature maps. Weights make up for other dropout rates.

    Raises:
        ModelError: the target cannot compute the same; says why.
    """
    assembly = Assembly(source, target)
    plan = plan_growth(source, target)
    for pathway in target.architecture.parallel:
        pathway_plan = plan.parallel.get(pathway.name)
        if pathway_plan is None:
            _additional_pathway(assembly, pathway)
        else:
            _Growth(assembly, plan, pathway_plan).fill()
    _Growth(assembly, plan, plan.fc).fill()
    return assembly.result("grown", source_sha256)


def _additional_pathway(assembly: Assembly, pathway: Pathway) -> None:
    source, target = assembly.source, assembly.target
    giver = source_pathway(pathway, target.architecture, source.architecture)
    for layer in range(1, pathway.depth + 1):
        pair = LayerPair(pathway, layer, giver, layer)
        if layer > giver.depth or pathway.kernels[layer - 1] != giver.kernels[layer - 1]:
            assembly.add_new(pathway, layer)
        else:
            received = receive(match_layers(pair, source, target), assembly.parameters, source.parameters)
            assembly.add(pathway, layer, received, pair)
        if layer == pathway.depth:
            assembly.note_layer("the FC pathway does not listen to this pathway at first")


class _Growth:
    """Fills the parameters of one pathway."""

    def __init__(self, assembly: Assembly, network: NetworkPlan, plan: PathwayPlan) -> None:
        self._assembly = assembly
        self._network = network
        self._plan = plan
        self._parameters = assembly.parameters
        self._source = assembly.source

    def fill(self) -> None:
        for layer, step in enumerate(self._plan.steps, 1):
            match step.part:
                case "mapped":
                    self._map(layer, step)
                case "identity":
                    self._insert_identity(layer, step)
                case "free":
                    self._set_statistics(layer, step)
                    self._assembly.add_new(self._plan.pathway, layer, "inserted, under a residual connection")
                case "shortcut":
                    self._silence(layer, [channel for channel, origin in enumerate(step.outputs) if origin != NEW])
                    self._assembly.add_new(self._plan.pathway, layer, "inserted, adds nothing at first")
        for layer, channel in self._plan.silent:
            self._silence(layer, [channel])

    def _map(self, layer: int, step: Step) -> None:
        pair = LayerPair(self._plan.pathway, layer, self._plan.source, step.source_stage)
        received = receive(LayerMatch(pair, step.inputs, step.outputs), self._parameters, self._source.parameters)
        self._assembly.add(pair.pathway, layer, received, pair)
        new_inputs = [channel for channel, origin in enumerate(step.inputs) if origin == NEW]
        if new_inputs:
            self._assembly.note_layer(f"does not listen to {len(new_inputs)} new inputs at first")
        factor = _kept(self._plan.source, step.source_stage) / _kept(self._plan.pathway, layer)
        for name, weight, first in self._weights(layer):
            rows = _rows(step, weight, first)
            weight[torch.tensor(rows, dtype=torch.int64)[:, None], torch.tensor(new_inputs, dtype=torch.int64)] = 0.0
            if factor != 1:
                weight[rows] *= factor
                self._assembly.note_tensor(name, f"times {factor:.3g} for the dropout rate")
        slope = _SLOPES.get(self._source.architecture.activation)
        alpha = self._parameters.get(f"{pair.name}/prelu_alpha")
        if slope is not None and alpha is not None:
            alpha[pairs_of(step.inputs)[0]] = slope
            self._assembly.note_tensor(
                f"{pair.name}/prelu_alpha", f"{slope:g}, as {self._source.architecture.activation}"
            )

    def _insert_identity(self, layer: int, step: Step) -> None:
        name = f"{self._plan.pathway.name}/{layer}"
        columns = pairs_of(step.inputs)[0]
        self._set_statistics(layer, step)
        self._undo_normalization(name, columns)
        if f"{name}/prelu_alpha" in self._parameters:
            self._parameters[f"{name}/prelu_alpha"][columns] = 1.0
        kept = _kept(self._plan.pathway, layer)
        for _, weight, first in self._weights(layer):
            x, y, z = ((length - 1) // 2 for length in weight.shape[2:])
            for row in _rows(step, weight, first):
                weight[row] = 0.0
                weight[row, step.inputs.index(step.outputs[first + row]), x, y, z] = 1.0 / kept
        self._assembly.add_new(self._plan.pathway, layer, "inserted, passes its input on")

    def _set_statistics(self, layer: int, step: Step) -> None:
        """Take the rolling statistics of an inserted layer's input from the source's layer that has the same input.

        For what a parallel pathway gives this is the first FC layer.
        """
        giver, start = f"{self._plan.source.name}/{step.source_stage + 1}", 0
        if step.source_stage == self._plan.source.depth:
            giver, start = "fc/1", self._network.starts[self._plan.source.name]
        columns, origins = pairs_of(step.inputs)
        for role in ("bn_mean_rolling", "bn_var_rolling"):
            own = self._parameters.get(f"{self._plan.pathway.name}/{layer}/{role}")
            if own is None:
                return
            given = self._source.parameters[f"{giver}/{role}"][:, [start + origin for origin in origins]]
            own[:, columns] = given if len(own) == len(given) else given.mean(dim=0)

    def _undo_normalization(self, name: str, columns: list[int]) -> None:
        """Let gamma and beta cancel the rolling statistics, or the bias be 0."""
        if f"{name}/bn_gamma" not in self._parameters:
            self._parameters[f"{name}/bias"][columns] = 0.0
            return
        mean, variance = (self._parameters[f"{name}/bn_{what}_rolling"] for what in ("mean", "var"))
        constant = variance.mean(dim=0) == 0  # batch norm passes nothing of such channels on
        variance[:, constant] = 1.0
        epsilon = self._assembly.target.architecture.batch_norm_epsilon
        self._parameters[f"{name}/bn_gamma"][columns] = (variance.mean(dim=0) + epsilon).sqrt()[columns]
        self._parameters[f"{name}/bn_beta"][columns] = mean.mean(dim=0)[columns]

    def _silence(self, layer: int, channels: Sequence[int]) -> None:
        for _, weight, first in self._weights(layer):
            weight[[channel - first for channel in channels if first <= channel < first + len(weight)]] = 0.0

    def _weights(self, layer: int) -> list[tuple[str, Tensor, int]]:
        """Return each weight of a layer with its name and the first feature map that it makes."""
        pathway = self._plan.pathway
        starts = {"weight": 0}
        if layer in pathway.low_rank_layers:
            starts = {role: maps.start for role, maps in low_rank_groups(pathway.feature_maps[layer - 1]).items()}
        names = {f"{pathway.name}/{layer}/{role}": start for role, start in starts.items()}
        return [(name, self._parameters[name], start) for name, start in names.items()]


def _rows(step: Step, weight: Tensor, first: int) -> list[int]:
    """Return the rows of a weight that make feature maps of the source."""
    return [row for row in range(len(weight)) if step.outputs[first + row] != NEW]


def _kept(pathway: Pathway, layer: int) -> float:
    """Return what dropout multiplies by in inference."""
    return float(Dropout(pathway.dropout_rates[layer - 1]).eval()(torch.ones(1)))
