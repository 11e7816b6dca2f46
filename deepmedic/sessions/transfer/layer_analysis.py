"""`-analyseLayers`: what training did to every layer of a model, from its file and labelled cases alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from tqdm import tqdm

from deepmedic import devices
from deepmedic.analysis.bank import Bank
from deepmedic.analysis.cka import Similarity, cka
from deepmedic.analysis.features import FeatureSettings, bytes_per_voxel, stream_features
from deepmedic.analysis.layer_importance import Importance, layer_importance, units_of
from deepmedic.analysis.layerwise_knn import KnnRow, layerwise_knn
from deepmedic.analysis.taps import all_layers
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.analysis.weight_distance import LayerDistance, weight_distances
from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import stream
from deepmedic.data.residency import volume_bytes
from deepmedic.errors import CommandLineError, DataError, ModelError, ProblemList
from deepmedic.inference.segment_cases import CaseSource, SegmentationOptions, segment_cases
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.common import estimates
from deepmedic.sessions.inference import testing
from deepmedic.sessions.inference.ensemble import NamedModel
from deepmedic.sessions.inference.testing import TestPlan
from deepmedic.sessions.models.weights import read_model
from deepmedic.sessions.transfer.kept_units import KeptUnits
from deepmedic.sessions.transfer.subjects import refuse_single_subject
from deepmedic.words import counted

log = logging.getLogger(__name__)

TRAINED, START, OTHER = "trained", "start", "other"
DRAWS = 3
"""Times that a unit is drawn anew, and networks with random weights."""
_MOST_VOXELS, _FEWEST_VOXELS = 3600, 2000
"""Over all cases and classes, not all of which every case has; and the least that CKA is not warned of for."""
_FEWEST_PER_CLASS = 48
_SEGMENTS = 24


@dataclass
class LayerPlan:
    """An analysis of layers that can be made: all checks but those of voxels are passed."""

    inference: TestPlan
    """Of segmenting the cases with the model."""
    other: NamedModel | None
    """A second model, whose layers are compared with those of the first."""
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> SavedModel:
        return self.inference.model

    @property
    def start(self) -> dict[str, torch.Tensor]:
        """Parameters before the first training step."""
        assert self.model.start_parameters is not None
        return self.model.start_parameters

    @property
    def seed(self) -> int:
        return self.inference.arguments.seed

    @property
    def memory(self) -> int:
        """Bytes that features may take, and after them the cases that are segmented again and again."""
        return estimates.feature_budget(self.inference.config.execution)


@dataclass(frozen=True, eq=False)
class LayerFindings:
    """What is known of every layer."""

    layers: tuple[str, ...]
    """Rows of `knn` and of the matrices, in the order of the network."""
    distances: list[LayerDistance]
    importance: list[Importance]
    knn: list[KnnRow]
    similarities: dict[str, Similarity]
    """By pair of networks, such as "trained-start": [layer, layer] (both have the same layers)."""
    voxels: int
    """That `similarities` were computed from."""
    skipped: dict[str, str]
    """Name of each case that was left out -> why."""


def prepare(arguments: Arguments, config: TestConfig) -> LayerPlan:
    """Read the models, listing files and headers; check them together.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    named = arguments.models or (() if config.model_path is None else (config.model_path,))
    if not 1 <= len(named) <= 2:
        raise CommandLineError(
            f"-analyseLayers needs one trained model, or two to compare with each other; found {len(named)}: add "
            "-model X.save, or -model X.save Y.save."
        )
    problems, other = ProblemList(), None
    plan = None
    with problems.gather():
        if len(named) == 2:
            other = NamedModel(*read_model(named[1]))
    with problems.gather():
        config = replace(config, ensemble=None)
        plan = testing.prepare(replace(arguments, model=named[0], models=(named[0],)), config, None)
        _check(plan, problems)
    problems.raise_if_any()
    assert plan is not None
    if other is not None:
        _check_alike(plan.models[0], other)
    return LayerPlan(plan, other, list(plan.notes))


def analyse(plan: LayerPlan, kept: KeptUnits) -> LayerFindings:
    """Make the analysis; the same plan gives the same numbers on the same device, interrupted or not.

    Args:
        plan: of it.
        kept: units that were replaced before an interruption; gets the others.

    Raises:
        DataError: a case cannot be used.
        ResourceError: memory is not enough.
    """
    inference, model = plan.inference, plan.model
    with ExitStack() as stack:
        stack.enter_context(devices.session_numerics(inference.device, inference.config.execution))
        distances = weight_distances(model.architecture, model.parameters, plan.start)
        bank, others = _features(plan)
        layers = all_layers(model.architecture)
        random = [name for name in bank.features if name.startswith("random")]
        groups = {TRAINED: [TRAINED], START: [START], "random": random}
        knn = layerwise_knn(bank, groups, layers, plan.seed)
        similarities = _similarities(plan, bank, layers, others)
        voxels = len(bank.labels)
        del bank  # its memory is for the cases that are segmented now
        importance = _importance(plan, kept)
    return LayerFindings(layers, distances, importance, knn, similarities, voxels, kept.skipped)


def _check(plan: TestPlan, problems: ProblemList) -> None:
    """Refuse what an inference can do without."""
    path, model, cases = plan.models[0].path, plan.model, plan.data.cases
    if model.start_parameters is None:
        problems.add(
            ModelError(
                f"{path}: this model was never trained, so that there is nothing that training did to its layers; name "
                "a model that -train wrote."
            )
        )
    unlabelled = [case.name for case in cases if case.labels is None]
    if unlabelled:
        problems.add(
            DataError(f"inference: no labels for {', '.join(unlabelled)}; list them with gtLabels, or leave it out.")
        )
    with problems.gather():
        refuse_single_subject(cases, "inference", "an analysis of layers")


def _check_alike(one: NamedModel, other: NamedModel) -> None:
    """Refuse a second model whose layers cannot be compared with those of the first."""
    first, second = one.model.architecture, other.model.architecture
    if first != second:
        raise ModelError(
            f"{other.path}: this model has another architecture than {one.path}, so their layers do not correspond; "
            "name two models of one architecture, such as two trainings of the same network."
        )


def most_voxels(plan: LayerPlan) -> int:
    """Voxels whose features are kept, at most."""
    return _per_class(plan) * len(plan.inference.data) * plan.model.architecture.classes


def _per_class(plan: LayerPlan) -> int:
    """Voxels of each class from each case: as many as CKA needs, and as the memory has room for."""
    groups = len(plan.inference.data) * plan.model.architecture.classes
    wanted = max(_FEWEST_PER_CLASS, -(-_MOST_VOXELS // groups))
    layers = all_layers(plan.model.architecture)
    per_voxel = bytes_per_voxel(plan.model.architecture, layers) * (2 + DRAWS + (plan.other is not None))
    return max(1, min(wanted, plan.memory // (per_voxel * groups)))


def _features(plan: LayerPlan) -> tuple[Bank, list[str]]:
    """Features of all networks at the same voxels; names of those of the second model."""
    model, data = plan.model, plan.inference.data
    networks = {TRAINED: model.network(), START: _at_start(model)}
    networks |= {f"random {n}": SavedModel.new(model.config, plan.seed + n).network() for n in range(DRAWS)}
    if plan.other is not None:
        networks[OTHER] = plan.other.model.network()
    config, segment = model.config, model.config.segment_size_train
    settings = FeatureSettings(
        voxels=VoxelSettings(_per_class(plan), _SEGMENTS, plan.seed),
        device=plan.inference.device,
        layers=all_layers(config.architecture),
        precision=plan.inference.config.execution.precision,
    )
    prepared = data.for_segment(segment, config.architecture.margins(segment))
    with tqdm(desc="features", unit="case", leave=False, disable=None) as bar:

        def case_begins(name: str, number: int, count: int) -> None:
            log.info("Features of %s, case %d of %d: %s", counted(len(networks), "network"), number, count, name)
            bar.total = count
            bar.update()

        bank = Bank.of(stream_features(networks, prepared, segment, settings, case_begins), config.architecture.classes)
    if len(bank.labels) < _FEWEST_VOXELS:
        log.warning(
            "CKA is computed from %d voxels; %d and more are better: list more cases.", len(bank.labels), _FEWEST_VOXELS
        )
    return bank, [OTHER] if plan.other is not None else []


def _at_start(model: SavedModel) -> DeepMedicNet:
    assert model.start_parameters is not None
    return replace(model, parameters=model.start_parameters, rolling_rows={}).network()


def _similarities(plan: LayerPlan, bank: Bank, layers: Sequence[str], others: Sequence[str]) -> dict[str, Similarity]:
    """CKA between all layers of pairs of networks, of voxels in an order drawn from the seed."""
    order = torch.from_numpy(stream(plan.seed, "voxels of CKA").permutation(len(bank.labels)))
    names = [TRAINED, START, *others]
    found = cka([bank.features[name][layer][order] for name in names for layer in layers])
    count = len(layers)
    why = {f"{names[place // count]} {layers[place % count]}": reason for place, reason in found.reasons.items()}
    similarities = {}
    for row, column in [(0, 0), (1, 1), (0, 1), *([(0, 2)] if others else [])]:
        rows, columns = (slice(count * place, count * (place + 1)) for place in (row, column))
        pair = names[row], names[column]
        reasons = {name: reason for name, reason in why.items() if name.partition(" ")[0] in pair}
        similarities["-".join(pair)] = Similarity(found.values[rows, columns], reasons)
    return similarities


def _importance(plan: LayerPlan, kept: KeptUnits) -> list[Importance]:
    """Replace the units that were not replaced before; return what all of them do, in their order."""
    inference, units = plan.inference, units_of(plan.model.architecture)
    source, skipped = _Held(inference.data, plan.memory), dict[str, str]()
    options = SegmentationOptions(
        inference=testing.inference_settings(inference),
        purpose="Validation",
        allow_skipped_cases=inference.config.preprocessing.allow_skipped_cases,
        class_names=plan.model.config.class_names,
    )

    def score(network: DeepMedicNet) -> float:
        summary = segment_cases(network, source, options)
        skipped.update(summary.failures)
        return summary.mean_foreground_dice

    network = plan.model.network().to(inference.device)
    to_do = [unit for unit in units if kept.find(unit) is None]
    with tqdm(desc="layers replaced", unit="unit", total=len(to_do), leave=False, disable=None) as bar:
        for one in layer_importance(network, plan.start, score, DRAWS, plan.seed, to_do, kept.reference):
            kept.keep(one, skipped)
            drop, deviation = one.random_drop
            text = f", drawn anew: {drop:+.4f} (sd {deviation:.4f})" if one.rerandomised else ""
            log.info("%s: drop in Dice as at the start: %+.4f%s", one.unit.name, one.criticality, text)
            bar.update()
    return [one for one in map(kept.find, units) if one is not None]


class _Held:
    """Cases that are segmented again and again: in memory after the first time, if all of them have room."""

    def __init__(self, data: DataSet, memory: int) -> None:
        self._data: CaseSource = data
        self._keeps = volume_bytes(data) <= memory
        self._kept: dict[int, list[PreparedCase]] = {}

    @property
    def cases(self) -> Sequence[Case]:
        return self._data.cases

    def read_each(self, index: int, needs: Sequence[CaseNeeds] = ()) -> list[PreparedCase]:
        case = self._kept.get(index) or self._data.read_each(index, needs)
        if self._keeps:
            self._kept[index] = case
        return case

    def bytes_to_read(self, index: int) -> int:
        return self._data.bytes_to_read(index)

    def tell(self, index: int) -> None:
        self._data.tell(index)
