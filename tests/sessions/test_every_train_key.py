"""Every key of the train config has an effect that a test shows: here, in tiny sessions, or where the table says.

Sessions of two training steps are run with and without a key. A key that decides what is learnt gives other parameters;
one that decides validation gives another history and the same parameters; one that decides what is written gives other
files; one that must not change a number gives the same parameters. What the values mean is tested beside the code that
uses them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from study import VALIDATION, Study
from study_fixtures import quick

from deepmedic import checkpoints, cli
from deepmedic.config.kinds import CLASSES
from deepmedic.config.schema import Key, declared_keys
from deepmedic.logs import init_logging

TESTS = Path(__file__).resolve().parents[1]
QUICK = {"numberOfEpochs": 1, "numberOfSubepochs": 1}
TWO = {"numberOfEpochs": 2, "numberOfSubepochs": 1}
SGD = {"sgd0orAdam1orRms2": 0}
ADAM = {"sgd0orAdam1orRms2": 1}
AFFINE = {"prob": 1.0, "max_rot_xyz": [45.0, 45.0, 45.0], "max_scaling": 0.3}
CONSTANT = {**AFFINE, "boundary_mode": "constant"}
PREDEFINED = {**TWO, "numberOfEpochs": 3, "typeOfLearningRateSchedule": "predef", "predefinedSchedule": [1]}
RECIPE = {**VALIDATION, "recipe": "headFirst", "recipeEpochs": [1], "numberOfEpochs": None}
PHASES = [{"numberOfEpochs": 1}, {"numberOfEpochs": 1}]
PHASED = {**VALIDATION, "numberOfEpochs": None}
MAPS = ["lists/train_roi.cfg", "lists/train_labels.cfg", "lists/train_roi.cfg"]
SWAPPED = "lists/swapped.cfg"


@dataclass(frozen=True)
class Effect:
    """A key with the value that is tried, and what else both sessions have in their configs."""

    key: str
    """As in the file, sub-keys after a point."""
    value: Any
    """Of the top-level key."""
    beside: Any = None


def _rotations() -> Iterator[Effect]:
    for plane in ("xy", "yz", "xz"):
        for angle in ("0", "90", "180", "270"):
            always, never = ({str(a): float(str(a) == one) for a in (0, 90, 180, 270)} for one in (angle, "90"))
            if angle == "90":
                never = {"0": 1.0, "90": 0.0, "180": 0.0, "270": 0.0}
            beside = {"augm_sample_prms_tr": {"rotate90": {plane: never}}}
            yield Effect(f"augm_sample_prms_tr.rotate90.{plane}.{angle}", {"rotate90": {plane: always}}, beside)
        yield Effect(f"augm_sample_prms_tr.rotate90.{plane}", {"rotate90": {plane: {"0": 0.0, "180": 1.0}}})


LEARNS = (
    Effect("channelsTraining", ["lists/train_t2.cfg", "lists/train_t1.cfg"]),
    Effect("gtLabelsTraining", SWAPPED),
    Effect("roiMasksTraining", None),
    Effect("weightedMapsForSamplingEachCategoryTrain", MAPS),
    Effect("typeOfSamplingForTraining", 1),
    Effect("proportionOfSamplesToExtractPerCategoryTraining", [0.0, 0.0, 1.0]),
    Effect("numberOfEpochs", 2),
    Effect("numberOfSubepochs", 2),
    Effect("numOfCasesLoadedPerSubepoch", 1),
    Effect("numberTrainingSegmentsLoadedOnGpuPerSubep", 4),
    Effect("batchsize_train", 8),
    Effect("typeOfLearningRateSchedule", "stable", TWO),
    Effect("whenDecreasingDivideLrBy", 4.0, PREDEFINED),
    Effect("numEpochsToWaitBeforeLoweringLr", 1, TWO),
    Effect("predefinedSchedule", [5], PREDEFINED),
    Effect("paramsForExpSchedForLrAndMom", [1e-5, 0.1], {**TWO, "typeOfLearningRateSchedule": "expon"}),
    Effect("sgd0orAdam1orRms2", 0),
    Effect("learningRate", 0.01),
    Effect("classicMom0OrNesterov1", 0, SGD),
    Effect("momentumValue", 0.1, SGD),
    Effect("momNonNorm0orNormalized1", 0, SGD),
    Effect("b1Adam", 0.1, ADAM),
    Effect("b2Adam", 0.1, ADAM),
    Effect("epsilonAdam", 1e-2, ADAM),
    Effect("rhoRms", 0.1),
    Effect("epsilonRms", 1e-1),
    Effect("L1_reg", 0.1),
    Effect("L2_reg", 0.1),
    Effect("gradientClipping", 1e-3, SGD),
    Effect("warmUpEpochs", 1),
    Effect("weightDecay", 0.5),
    Effect("scaleLearningRateWithBatch", 1),
    Effect("weightAveraging", 0.9),
    Effect("l2ToStart", 10.0),
    Effect("learningRateDecayPerLayer", 0.1),
    Effect("losses_and_weights", {"xentr": 0.5}),
    Effect("losses_and_weights.xentr", {"xentr": 0.5}),
    Effect("losses_and_weights.iou", {"xentr": 1.0, "iou": 1.0}),
    Effect("losses_and_weights.dsc", {"xentr": 1.0, "dsc": 1.0}),
    Effect("reweight_classes_in_cost", {"type": "freq", "schedule": [0, 5]}),
    Effect("reweight_classes_in_cost.type", {"type": "freq", "schedule": [0, 5]}),
    Effect("reweight_classes_in_cost.prms", {"type": "per_c", "prms": [1.0, 5.0, 9.0], "schedule": [0, 5]}),
    Effect(
        "reweight_classes_in_cost.schedule",
        {"type": "per_c", "prms": [1.0, 5.0, 9.0], "schedule": [0, 9]},
        {**TWO, "reweight_classes_in_cost": {"type": "per_c", "prms": [1.0, 5.0, 9.0], "schedule": [0, 1]}},
    ),
    Effect("layersToFreezeNormal", [1], {"layersToFreezeSubsampled": []}),
    Effect("layersToFreezeSubsampled", [1]),
    Effect("layersToFreezeFC", [1]),
    Effect("batchNormOfFrozenLayers", "moving", {"layersToFreezeNormal": [1, 2]}),
    Effect("augm_img_prms_tr", {"affine": AFFINE}),
    Effect("augm_img_prms_tr.affine", {"affine": AFFINE}),
    Effect(
        "augm_img_prms_tr.affine.prob", {"affine": {**AFFINE, "prob": 0.0}}, {"augm_img_prms_tr": {"affine": AFFINE}}
    ),
    Effect(
        "augm_img_prms_tr.affine.max_rot_xyz",
        {"affine": {**AFFINE, "max_rot_xyz": [9.0, 0.0, 0.0]}},
        {"augm_img_prms_tr": {"affine": AFFINE}},
    ),
    Effect(
        "augm_img_prms_tr.affine.max_scaling",
        {"affine": {**AFFINE, "max_scaling": 0.01}},
        {"augm_img_prms_tr": {"affine": AFFINE}},
    ),
    Effect("augm_img_prms_tr.affine.seed", {"affine": {**AFFINE, "seed": 7}}, {"augm_img_prms_tr": {"affine": AFFINE}}),
    Effect(
        "augm_img_prms_tr.affine.interp_order_imgs",
        {"affine": {**AFFINE, "interp_order_imgs": 0}},
        {"augm_img_prms_tr": {"affine": AFFINE}},
    ),
    Effect(
        "augm_img_prms_tr.affine.interp_order_lbls",
        {"affine": {**AFFINE, "interp_order_lbls": 1}},
        {"augm_img_prms_tr": {"affine": AFFINE}},
    ),
    Effect(
        "augm_img_prms_tr.affine.interp_order_roi",
        {"affine": {**AFFINE, "interp_order_roi": 1}},
        {"augm_img_prms_tr": {"affine": AFFINE}, "typeOfSamplingForTraining": 1},
    ),
    Effect(
        "augm_img_prms_tr.affine.interp_order_wmaps",
        {"affine": {**AFFINE, "interp_order_wmaps": 0}},
        {"augm_img_prms_tr": {"affine": AFFINE}, "weightedMapsForSamplingEachCategoryTrain": MAPS},
    ),
    Effect("augm_img_prms_tr.affine.boundary_mode", {"affine": CONSTANT}, {"augm_img_prms_tr": {"affine": AFFINE}}),
    Effect(
        "augm_img_prms_tr.affine.cval",
        {"affine": {**CONSTANT, "cval": 5.0}},
        {"augm_img_prms_tr": {"affine": CONSTANT}},
    ),
    Effect("augm_sample_prms_tr", {"reflect": [1.0, 0.0, 0.0]}),
    Effect("augm_sample_prms_tr.hist_dist", {"hist_dist": {"shift": {"mu": 1.0, "std": 0.0}}}),
    Effect("augm_sample_prms_tr.hist_dist.shift", {"hist_dist": {"shift": {"mu": 1.0, "std": 0.0}}}),
    Effect("augm_sample_prms_tr.hist_dist.shift.mu", {"hist_dist": {"shift": {"mu": 1.0, "std": 0.0}}}),
    Effect("augm_sample_prms_tr.hist_dist.shift.std", {"hist_dist": {"shift": {"mu": 0.0, "std": 1.0}}}),
    Effect("augm_sample_prms_tr.hist_dist.scale", {"hist_dist": {"scale": {"mu": 2.0, "std": 0.0}}}),
    Effect("augm_sample_prms_tr.hist_dist.scale.mu", {"hist_dist": {"scale": {"mu": 2.0, "std": 0.0}}}),
    Effect("augm_sample_prms_tr.hist_dist.scale.std", {"hist_dist": {"scale": {"mu": 1.0, "std": 0.5}}}),
    Effect("augm_sample_prms_tr.reflect", {"reflect": [1.0, 0.0, 0.0]}),
    Effect("augm_sample_prms_tr.rotate90", {"rotate90": {"xy": {"0": 0.0, "90": 1.0}}}),
    *_rotations(),
    Effect("recipeLearningRates", [0.01, 0.01], RECIPE),
    Effect("recipeHead", "fc", RECIPE),
    Effect("recipeDepths", 1, RECIPE),
    Effect(
        "phase.requiredImprovement", [PHASES[0], {**PHASES[1], "requiredImprovement": 1.0}], {**PHASED, "phase": PHASES}
    ),
    Effect("padInputImagesBool", False),
    Effect("norm_zscore_prms", None),
    Effect("norm_zscore_prms.apply_to_all_channels", {"apply_to_all_channels": False}),
    Effect("norm_zscore_prms.apply_per_channel", {"apply_per_channel": [True, False]}),
    Effect("norm_zscore_prms.cutoff_percents", {"apply_to_all_channels": True, "cutoff_percents": [5.0, 95.0]}),
    Effect("norm_zscore_prms.cutoff_times_std", {"apply_to_all_channels": True, "cutoff_times_std": [1.0, 1.0]}),
    Effect("norm_zscore_prms.cutoff_below_mean", {"apply_to_all_channels": True, "cutoff_below_mean": True}),
    Effect("precision", "bf16"),
)
"""Keys that decide what is learnt."""

VALIDATES = (
    Effect("channelsValidation", ["lists/val_t2.cfg", "lists/val_t1.cfg"]),
    Effect("gtLabelsValidation", "lists/val_roi.cfg"),
    Effect("roiMasksValidation", None),
    Effect("weightedMapsForSamplingEachCategoryVal", ["lists/val_labels.cfg"]),
    Effect("typeOfSamplingForVal", 3),
    Effect("proportionOfSamplesToExtractPerCategoryVal", [0.0, 0.0, 1.0], {"typeOfSamplingForVal": 3}),
    Effect("numberValidationSegmentsLoadedOnGpuPerSubep", 8),
    Effect("batchsize_val_samples", 3),
    Effect("performValidationOnSamplesThroughoutTraining", False),
    Effect("performFullInferenceOnValidationImagesEveryFewEpochs", False),
    Effect("numberOfEpochsBetweenFullInferenceOnValImages", 2, TWO),
)
"""Keys that decide what validation measures, and nothing that is learnt."""

_FMS = "minMaxIndicesOfFmsToSaveFromEachLayerOf{}PathwayVal"
_RESULTS = "predictions/first/predictions/case2_"
_FEATURES = "predictions/first/features/case2_"
_FMS_ON = {"saveIndividualFmsVal": True}
WRITES = (
    (
        Effect("sessionName", "other"),
        {"cnnModels/other/net.other.latest.save"},
        {"cnnModels/first/net.first.latest.save"},
    ),
    (
        Effect("namesForPredictionsPerCaseVal", "lists/names.cfg"),
        {"predictions/first/predictions/renamed_Segm.nii.gz"},
        {f"{_RESULTS}Segm.nii.gz"},
    ),
    (Effect("saveSegmentationVal", False), set(), {f"{_RESULTS}Segm.nii.gz"}),
    (
        Effect("saveProbMapsForEachClassVal", [False, True, False]),
        set(),
        {f"{_RESULTS}ProbMapClass{number}.nii.gz" for number in (0, 2)},
    ),
    *(
        (
            Effect(f"suffixForSegmAndProbsDictVal{sub}", value),
            {f"{_RESULTS}{name}.nii.gz" for name in appear},
            {f"{_RESULTS}{name}.nii.gz" for name in vanish},
        )
        for sub, value, appear, vanish in (
            ("", {"segm": "labels", "prob": "P"}, {"labels", "P1"}, {"Segm", "ProbMapClass1"}),
            (".segm", {"segm": "labels"}, {"labels"}, {"Segm"}),
            (".prob", {"prob": "P"}, {"P0", "P2"}, {"ProbMapClass0"}),
        )
    ),
    (
        Effect("saveIndividualFmsVal", True, {"saveIndividualFmsVal": False, _FMS.format("Normal"): [[0, 1], []]}),
        {f"{_FEATURES}pathway0_layer0_fm0.nii.gz"},
        set(),
    ),
    *(
        (
            Effect(_FMS.format(pathway), [[], [1, 2]], {**_FMS_ON, _FMS.format(other): [[0, 1], []]}),
            {f"{_FEATURES}pathway{number}_layer1_fm1.nii.gz"},
            set(),
        )
        for number, pathway, other in (
            (0, "Normal", "FullyConnected"),
            (1, "Subsampled", "Normal"),
            (2, "FullyConnected", "Normal"),
        )
    ),
)
"""Keys that decide which files are written: some that appear, and some that vanish."""

SAME = (
    Effect("num_processes_sampling", 2),
    Effect("dataframe_train", "lists/train.csv", {"channelsTraining": None, "gtLabelsTraining": None}),
    Effect("batchsize_val_whole", 1),
    Effect("dataframe_val", "lists/val.csv", {"channelsValidation": None, "gtLabelsValidation": None}),
    Effect("deterministic", False),
    Effect("memoryBudget", 0.5),
)
"""Keys that must not change a number, and tables that say the same as the listing files beside them."""

HERE = "sessions/test_every_train_key.py"
SHOWN = {
    "folderForOutput": f"{HERE}::test_output_lies_where_the_key_says",
    "cnnModelFilePath": f"{HERE}::test_a_session_starts_from_the_model_of_the_config",
    "norm_verbosity_lvl": f"{HERE}::test_what_is_logged_of_normalisation",
    "run_input_checks": f"{HERE}::test_checks_are_always_made_and_a_note_says_so",
    "min_incr_of_val_acc_considered": "training/test_schedules.py::test_rates_and_momenta_equal_the_original",
    "tensorboard_log": "sessions/test_training_session.py::"
    "test_tensorboard_events_agree_with_the_history_after_a_resume",
    "subjectsTraining": "sessions/test_splitting.py::test_scans_of_one_subject_stay_together",
    "lowestLearningRate": "sessions/test_refined_training.py::test_plateau_follows_the_score",
    "earlyStoppingPatience": "sessions/test_refined_training.py::test_it_ends_the_session_and_says_why",
    "earlyStoppingMinimumChange": "training/test_early_stopping.py::test_it_ends_after_the_patience",
    "earlyStoppingRestoreBest": "sessions/test_refined_training.py::"
    "test_best_weights_are_restored_and_the_last_kept_to_go_on_from",
    "recipe": "sessions/test_phased_training.py::test_a_depth_that_helps_is_kept",
    "recipeEpochs": "sessions/test_phased_training.py::test_check_prints_the_phases",
    "phase": "sessions/test_phased_training.py::test_rates_of_each_phase_follow_its_own_schedule",
    "phase.name": "sessions/test_phased_training.py::test_check_prints_the_phases",
    "phase.numberOfEpochs": "sessions/test_phased_training.py::test_rates_of_each_phase_follow_its_own_schedule",
    "phase.resetOptimizer": "sessions/test_phased_training.py::test_optimiser_is_new_unless_its_state_is_kept",
    "resampleTo": "sessions/test_resampled_inference.py::test_training_and_validation_on_resampled_cases",
    "spacingTolerance": "sessions/test_resampled_inference.py::"
    "test_another_spacing_is_refused_unless_something_was_chosen",
    "nonFiniteVoxels": "sessions/test_refusals.py::test_voxels_that_are_no_numbers",
    "affineTolerance": "sessions/test_refusals.py::test_shifted_labels",
    "orientation": "data/test_volumes.py::test_mixed_axis_orders_need_ras_and_then_arrays_agree",
    "allowSkippedCases": "sessions/test_more_cases_than_memory.py::"
    "test_bad_case_is_left_out_where_that_is_allowed_the_same_with_all_memory",
    "keepLastCheckpoints": f"{HERE}::test_so_many_checkpoints_are_kept",
    "strictSplits": "sessions/test_splitting.py::test_an_image_in_two_parts_is_named_or_refused",
    "sourceTask": "sessions/test_source_task.py::test_scores_are_those_of_an_inference_on_the_same_cases",
    "findLr": "sessions/test_rate_finder.py::test_grid_and_ramp_of_a_trained_model_which_stays_as_it_is",
    "findLr.method": "sessions/test_rate_finder.py::test_a_grid_without_validation",
    "findLr.minPower": "sessions/test_rate_finder.py::test_grid_and_ramp_of_a_trained_model_which_stays_as_it_is",
    "findLr.maxPower": "sessions/test_rate_finder.py::test_grid_and_ramp_of_a_trained_model_which_stays_as_it_is",
    "findLr.resolution": "sessions/test_rate_finder.py::test_grid_and_ramp_of_a_trained_model_which_stays_as_it_is",
    "findLr.rampSteps": "sessions/test_rate_finder.py::test_grid_and_ramp_of_a_trained_model_which_stays_as_it_is",
    "findLr.epochs": "sessions/test_rate_finder.py::test_each_rate_of_the_grid_is_trained_for_so_many_epochs",
    "sourceTask.channels": "sessions/test_source_task.py::test_scores_are_those_of_an_inference_on_the_same_cases",
    "sourceTask.gtLabels": "sessions/test_source_task.py::test_scores_are_those_of_an_inference_on_the_same_cases",
    "sourceTask.roiMasks": "sessions/test_source_task.py::test_scores_are_those_of_an_inference_on_the_same_cases",
    "sourceTask.dataframe": "sessions/test_source_task.py::test_refusals",
    "sourceTask.model": "sessions/test_source_task.py::test_source_classifier_is_put_on_the_trained_layers",
    "sourceTask.everyEpochs": "sessions/test_source_task.py::test_history_has_its_rows_and_plots_its_curve",
    "sourceTask.largestLoss": "sessions/test_source_task.py::test_warning",
    "sourceTask.whenExceeded": "sessions/test_source_task.py::test_stop_and_going_on_with_a_larger_tolerance",
    "report": "sessions/test_reporting.py::test_no_report_when_none_is_wanted",
    "crossValidationModel": "sessions/test_cross_validation.py::test_the_best_model_is_scored_when_it_is_asked_for",
    "useDefaultTrainingSamplingFromGtAndRoi": "config/test_theano_configs.py::"
    "test_default_sampling_ignores_the_other_keys_of_sampling",
    "useDefaultUniformValidationSampling": "config/test_theano_configs.py::test_sampling_of_ones_own",
    "stable0orAuto1orPredefined2orExponential3LrSchedule": "config/test_theano_configs.py::"
    "test_stable_lowers_every_few_epochs",
    "minIncreaseInValidationAccuracyThatResetsWaiting": "config/test_theano_configs.py::"
    "test_auto_waits_three_epochs_for_a_rise_of_half_a_thousandth",
    "exponentialSchedForLrAndMom": "config/test_theano_configs.py::"
    "test_the_exponential_schedule_has_a_first_epoch_a_factor_and_a_momentum",
    "reflectImagesPerAxis": "config/test_theano_configs.py::test_augmentation",
    "performIntAugm": "config/test_theano_configs.py::test_augmentation",
    "sampleIntAugmShiftWithMuAndStd": "config/test_train_config.py::"
    "test_the_older_keys_of_augmentation_work_in_later_files",
    "sampleIntAugmMultiWithMuAndStd": "config/test_theano_configs.py::test_augmentation",
    "saveAllFmsIn4DimImageVal": "config/test_train_refusals.py::test_what_cannot_be_used_is_refused",
}
"""Keys whose effect other tests show."""


@dataclass(frozen=True)
class Outcome:
    """What a session left."""

    parameters: str
    """A digest."""
    history: str
    files: frozenset[str]
    printed: str


class Sessions:
    """Runs tiny sessions of one study, each once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.run = cache(self._run)
        self._count = 0

    def outcome(self, *, validate: bool = False, **changes: Any) -> Outcome:
        return self.run(validate, json.dumps(changes))

    def _run(self, validate: bool, changes: str) -> Outcome:
        self._count += 1
        out = self.study.folder / f"out{self._count}"
        settings = {**QUICK, "folderForOutput": str(out), **json.loads(changes)}
        config = self.study.train("session", validate=validate, **settings)
        code = cli.main(["-newModel", str(self.study.folder / "model.cfg"), "-train", str(config), "-dev", "cpu"])
        assert code == 0, settings
        (newest,) = out.glob("cnnModels/*/net.*.latest.save")
        tensors = checkpoints.load(newest)["parameters"]
        content = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
        (history,) = out.glob("logs/*.metrics.csv")
        return Outcome(
            parameters=hashlib.sha256(content).hexdigest(),
            history=history.read_text(),
            files=frozenset(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()),
            printed=next(path.read_text() for path in out.glob("logs/*.txt") if path.stem != "net"),
        )


@pytest.fixture(scope="module")
def sessions(written_once, tmp_path_factory) -> Iterator[Sessions]:
    folder = tmp_path_factory.mktemp("keys") / "study"
    shutil.copytree(written_once, folder)
    study = Study(folder)
    lists = folder / "lists"
    (lists / "swapped.cfg").write_text("".join(reversed((lists / "train_labels.cfg").read_text().splitlines(True))))
    (lists / "names.cfg").write_text("renamed.nii.gz\n")
    for role in ("train", "val"):
        columns = {"channel_1": "t1", "channel_2": "t2", "ground_truth": "labels", "roi_mask": "roi"}
        cells = [(lists / f"{role}_{kind}.cfg").read_text().split() for kind in columns.values()]
        names = (lists / f"{role}_names.cfg").read_text().split()
        rows = zip(*cells, names, strict=True)
        text = "\n".join([",".join([*columns, "prediction_filename"]), *(",".join(row) for row in rows)])
        (lists / f"{role}.csv").write_text(text + "\n")
    with quick():
        yield Sessions(study)
    init_logging(console=False)


def with_and_without(sessions: Sessions, effect: Effect, *, validate: bool = False) -> tuple[Outcome, Outcome]:
    beside, key = effect.beside or {}, effect.key.partition(".")[0]
    without = sessions.outcome(validate=validate, **beside)
    return sessions.outcome(validate=validate, **{**beside, key: effect.value}), without


@pytest.mark.parametrize("effect", LEARNS, ids=lambda effect: effect.key)
def test_other_parameters_are_learnt(sessions, effect):
    with_it, without = with_and_without(sessions, effect)
    assert with_it.parameters != without.parameters


@pytest.mark.parametrize("effect", VALIDATES, ids=lambda effect: effect.key)
def test_validation_measures_something_else_and_nothing_else_is_learnt(sessions, effect):
    with_it, without = with_and_without(sessions, effect, validate=True)
    assert with_it.parameters == without.parameters
    assert with_it.history != without.history


@pytest.mark.parametrize(("effect", "appear", "vanish"), WRITES, ids=[effect.key for effect, _, _ in WRITES])
def test_other_files_are_written(sessions, effect, appear, vanish):
    with_it, without = with_and_without(sessions, effect, validate=True)
    assert appear <= with_it.files - without.files
    assert vanish <= without.files - with_it.files
    assert with_it.parameters == without.parameters


@pytest.mark.parametrize("effect", SAME, ids=lambda effect: effect.key)
def test_no_number_changes(sessions, effect):
    with_it = sessions.outcome(validate=True, **{**(effect.beside or {}), effect.key: effect.value})
    plain = sessions.outcome(validate=True)
    assert (with_it.parameters, with_it.history) == (plain.parameters, plain.history)


def test_output_lies_where_the_key_says(sessions):
    assert "cnnModels/first/net.first.latest.save" in sessions.outcome(validate=True).files


@pytest.mark.parametrize("keep", [1, 2])
def test_so_many_checkpoints_are_kept(sessions, keep):
    files = sessions.outcome(**TWO, keepLastCheckpoints=keep).files
    assert sum(name.startswith("cnnModels/first/net.first.2") for name in files) == keep


def test_a_session_starts_from_the_model_of_the_config(study, source, run):
    config = study.train(cnnModelFilePath="A.save", **QUICK)
    outcome = run("-train", config, "-resetOptimizer")
    assert outcome.code == 0, outcome.err
    assert f"Starting from {source}" in outcome.out


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        (0, ()),
        (1, ("Normalising case0_t1: channels 1, 2, cut-offs percentiles 5 to 95; ",)),
        (2, ("Normalising case0_t1: ", "   channel 1: mean ", "   channel 2: mean ")),
    ],
    ids=["nothing", "cut_offs", "statistics"],
)
def test_what_is_logged_of_normalisation(sessions, level, lines):
    zscore = {"apply_to_all_channels": True, "cutoff_percents": [5.0, 95.0]}
    outcome = sessions.outcome(norm_verbosity_lvl=level, norm_zscore_prms=zscore)
    assert all(line in outcome.printed for line in lines)
    assert ("Normalising" in outcome.printed) == (level > 0)
    assert ("channel 1: mean" in outcome.printed) == (level > 1)


def test_checks_are_always_made_and_a_note_says_so(study, run, sessions):
    outcome = sessions.outcome(run_input_checks=False)
    assert "run_input_checks = false has no effect: labels and masks are always checked" in outcome.printed
    assert "run_input_checks" not in sessions.outcome().printed
    labels = study.folder / "lists" / "train_labels.cfg"
    labels.write_text(labels.read_text().replace("labels", "t1"))
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(run_input_checks=False, **QUICK))
    assert outcome.code == 4


def keys_of_train_configs() -> list[tuple[str, Key]]:
    def below(key: Key, prefix: str) -> Iterator[tuple[str, Key]]:
        yield prefix + key.name, key
        for sub_key in key.sub_keys():
            yield from below(sub_key, f"{prefix}{key.name}.")

    return [found for cls in CLASSES["train"] for key in declared_keys(cls) for found in below(key, "")]


def test_every_key_of_the_train_config_is_shown():
    """A new key: add it to one of the tables above, or to `SHOWN` with the test that shows its effect."""
    here = [effect.key for effect in (*LEARNS, *VALIDATES, *SAME, *(effect for effect, _, _ in WRITES))]
    shown, keys = {*here, *SHOWN}, {name for name, _ in keys_of_train_configs()}
    assert (sorted(keys - shown), sorted(shown - keys)) == ([], [])
    assert len(here) == len(set(here))


@pytest.mark.parametrize("key", SHOWN)
def test_tests_that_show_an_effect_are_there_and_about_it(key):
    file, _, function = SHOWN[key].partition("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    functions = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert function in functions
    words = key.rpartition(".")[2], dict(keys_of_train_configs())[key].attributes[-1]
    assert any(word in text for word in words)
