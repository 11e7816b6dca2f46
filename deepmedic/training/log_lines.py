"""Lines of the training log in the wording of the original, so that scripts that search its logs go on working.

The original's plotTrainingProgress.py, for instance, looks for `TRAINING:`, `Class-0:` or `Overall:`, and
`mean accuracy of each subepoch:` followed by a list in brackets.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepmedic.config.training import LossConfig, TrainConfig
from deepmedic.metrics import mean_defined
from deepmedic.training.history import DICE_KINDS, RATIO_NAMES, Role, SampleRecord, VolumeRecord
from deepmedic.words import counted

NOT_APPLICABLE = "N/A"
_DEFINITIONS = {
    "accuracy": "(TruePos+TrueNeg)/All-Predicted-Voxels",
    "sensitivity": "TruePos/RealPos",
    "precision": "TruePos/(TruePos+FalsePos)",
    "specificity": "TrueNeg/RealNeg",
}
_TITLES = {"dice": "Dice"}


def number(value: float | None, decimals: int = 4) -> str:
    """Return a number with fixed decimals, or N/A for None."""
    return NOT_APPLICABLE if value is None else f"{value:.{decimals}f}"


def number_list(values: Sequence[float | None], decimals: int = 4) -> str:
    """Return numbers as `[ 0.1234 N/A 0.5678 ]`."""
    return " ".join(["[", *(number(value, decimals) for value in values), "]"])


def settings(config: TrainConfig, classes: int) -> list[str]:
    """Return what the session is about to do, at its start."""
    lines = [
        f"Session's name = {config.session_name}",
        f"Number of Classes (including background) = {classes}",
        f"Number of Epochs = {config.total_epochs}",
        f"Number of Subepochs per epoch = {config.subepochs}",
        f"Perform Full-Inference on Val. cases every few epochs = {config.validate_on_volumes}",
        f"Perform Full-Inference on Val. cases every that many epochs = {config.epochs_between_volume_validation}",
    ]
    return lines + _cost_terms(config.loss) + _refinements(config)


def cost_terms(loss: LossConfig) -> dict[str, float]:
    """Return the terms of the training cost by name, each with its weight."""
    terms = {"cross entropy": loss.weights.cross_entropy, "iou loss": loss.weights.iou, "dsc loss": loss.weights.dice}
    return {term: weight for term, weight in terms.items() if weight is not None}


def _cost_terms(loss: LossConfig) -> list[str]:
    return [f"COST: Using {term} with weight: {weight}" for term, weight in cost_terms(loss).items()]


def _refinements(config: TrainConfig) -> list[str]:
    """Return what is asked for beyond the original's training; nothing for what is off."""
    asked, stopping = config.refinements, config.early_stopping
    lines = {
        f"Largest norm of the gradient: {asked.gradient_clipping}": asked.gradient_clipping is not None,
        f"The learning rate rises over the first {asked.warm_up_epochs:g} epochs": asked.warm_up_epochs > 0,
        f"Decoupled weight decay of convolution kernels: {asked.weight_decay:g}": asked.weight_decay > 0,
        f"Learning rates are for batches of {asked.reference_batch_size} and scaled to {config.batch_size}": (
            asked.reference_batch_size is not None
        ),
        f"Weights are averaged with decay {asked.weight_averaging}: validation and saved models use the averages": (
            asked.weight_averaging is not None
        ),
        f"COST: Using L2 pull to the starting weights with weight: {asked.l2_to_start:g}": asked.l2_to_start > 0,
        f"Learning rate per layer below the classification layer: times {asked.rate_decay_per_layer}": (
            asked.rate_decay_per_layer is not None
        ),
        f"The training ends after {counted(stopping.patience or 0, 'epoch')} without a rise of the validation score by "
        f"more than {stopping.minimum_change:g}": stopping.patience is not None,
    }
    return [line for line, is_asked in lines.items() if is_asked]


def optimisation_start(*, uninitialized: bool, reset: bool) -> list[str]:
    """Return the block that says whether optimisation starts anew; with neither reason it is continued."""
    lines = [
        "=======================================================",
        "=========== Compiling the Training Function ===========",
        "=======================================================",
    ]
    if uninitialized or reset:
        reason = f"Uninitialized: [{uninitialized}], Reset requested: [{reset}]"
        lines.append(f"(Re)Initializing parameters for the optimization. Reason: {reason}")
        lines.append("...Initializing attributes for the optimization...")
    return lines


def subepoch_report(role: Role, epoch: int, subepoch: int, record: SampleRecord) -> list[str]:
    """Return the metrics of one subepoch: overall, then per class."""
    place = f"{role.upper()}: Epoch #{epoch}, Subepoch #{subepoch}"
    lines = [
        "+++++++++++++++++++++++ Reporting Accuracy over whole subepoch +++++++++++++++++++++++",
        f"{place}, Overall:\t mean accuracy:   \t{number(record.accuracy)}"
        f"\t=> Correctly-Classified-Voxels/All-Predicted-Voxels = {record.correct}/{record.voxels}",
    ]
    if role == "training":
        lines.append(f"{place}, Overall:\t mean cost:      \t{number(record.cost, 5)}")
    for class_index in range(len(record.counts)):
        lines += _class_report(f"{place}, Class-{class_index}:", class_index, record)
    return lines


def _class_report(place: str, class_index: int, record: SampleRecord) -> list[str]:
    real_positives, real_negatives, true_positives, true_negatives = record.counts_of(class_index)
    fractions = {
        "accuracy": (true_positives + true_negatives, real_positives + real_negatives),
        "sensitivity": (true_positives, real_positives),
        "precision": (true_positives, true_positives + real_negatives - true_negatives),
        "specificity": (true_negatives, real_negatives),
    }
    ratios = record.ratios(class_index)
    lines = [f"+++++++++++++++ Reporting Accuracy over whole subepoch for {_class_title(class_index)} ++++++++"]
    for name in RATIO_NAMES:
        line = f"{place}\t {_padded(f'mean {_TITLES.get(name, name)}:')}\t{number(getattr(ratios, name))}"
        if name in fractions:
            line += f"\t=> {_DEFINITIONS[name]} = {fractions[name][0]}/{fractions[name][1]}"
        lines.append(line)
    return lines


def epoch_report(role: Role, epoch: int, records: Sequence[SampleRecord]) -> list[str]:
    """Return means and lists over the subepochs of one epoch: overall, then per class."""
    place = f"{role.upper()}: Epoch #{epoch}"
    accuracies = [record.accuracy for record in records]
    costs = [record.cost for record in records]
    overall = f"{place}, Overall:\t mean"
    lines = [
        ">>>>>>>>>>>>>>>>>>>> Reporting Accuracy over whole epoch <<<<<<<<<<<<<<<<<<<<",
        f"{overall} accuracy of epoch:\t{number(mean_defined(accuracies))}"
        "\t=> Correctly-Classified-Voxels/All-Predicted-Voxels",
        f"{overall} accuracy of each subepoch:\t{number_list(accuracies)}",
    ]
    if role == "training":
        lines.insert(2, f"{overall} cost of epoch:    \t{number(mean_defined(costs), 5)}")
        lines.append(f"{overall} cost of each subepoch:    \t{number_list(costs, 5)}")
    for class_index in range(len(records[0].counts)):
        lines += _class_report_of_epoch(f"{place}, Class-{class_index}:\t mean", class_index, records)
    return lines


def _class_report_of_epoch(place: str, class_index: int, records: Sequence[SampleRecord]) -> list[str]:
    ratios = [record.ratios(class_index) for record in records]
    means, lists = [], []
    for name in RATIO_NAMES:
        values = [getattr(ratio, name) for ratio in ratios]
        title = _TITLES.get(name, name)
        definition = f"\t=> {_DEFINITIONS[name]}" if name in _DEFINITIONS else ""
        means.append(f"{place} {title} of epoch:\t{number(mean_defined(values))}{definition}")
        lists.append(f"{place} {title} of each subepoch:\t{number_list(values)}")
    heading = f">>>>>>>>>>>> Reporting Accuracy over whole epoch for {_class_title(class_index)} <<<<<<<<<<<<"
    return [heading, *means, *lists]


def volume_report(record: VolumeRecord) -> list[str]:
    """Return the mean Dice per class over the validation cases, segmented as whole volumes."""
    lists = " ".join(f"{kind.upper()}={number_list(record.dice[kind])}" for kind in DICE_KINDS if kind in record.dice)
    return [f"ACCURACY: (Validation) The Per-Class average DICE Coefficients over all subjects are: {lists}"]


def _class_title(class_index: int) -> str:
    if class_index:
        return f"Class-{class_index} [This Class (Pos) Vs All Others (Neg)]"
    return "Class-0 [Whole Foreground (Pos) Vs Background (Neg)]"


def _padded(title: str) -> str:
    return title.ljust(17)
