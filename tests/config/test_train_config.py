"""The train config: defaults, tables of settings, cross-checks."""

from pathlib import Path

import pytest

from deepmedic.config.load import load_train_config
from deepmedic.config.training import (
    AffineAugmentation,
    ClassReweighting,
    Gaussian,
    LossWeights,
    SamplingConfig,
    SegmentAugmentation,
    TrainConfig,
)

TRAIN = """\
folderForOutput = "out"
channelsTraining = ["c1.cfg", "c2.cfg"]
gtLabelsTraining = "labels.cfg"
batchsize_train = 10
"""
VALIDATION = """\
performValidationOnSamplesThroughoutTraining = true
performFullInferenceOnValidationImagesEveryFewEpochs = true
channelsValidation = ["v1.cfg", "v2.cfg"]
gtLabelsValidation = "v_labels.cfg"
namesForPredictionsPerCaseVal = "v_names.cfg"
"""


def load(write, extra="", **named) -> TrainConfig:
    return load_train_config(write(TRAIN + extra), **named)


def test_all_defaults(write):
    path = write(TRAIN)
    config = load_train_config(path)
    expected = TrainConfig(folder_for_output=path.parent / "out", batch_size=10)
    assert config.data.channels == (path.parent / "c1.cfg", path.parent / "c2.cfg")
    assert config.data.labels == path.parent / "labels.cfg"
    assert config.session_name == "trainSession"
    assert (config.epochs, config.subepochs, config.cases_per_subepoch, config.segments_per_subepoch) == (35, 20, 50, 1000)
    assert config.sampling == SamplingConfig(kind=3, proportions=None)
    assert config.validation_sampling == SamplingConfig(kind=1, proportions=None)
    assert config.schedule.kind == "poly"
    assert config.schedule.waiting(config.epochs) == pytest.approx(35 / 3)
    assert config.loss == expected.loss
    assert config.loss.weights == LossWeights(cross_entropy=1.0, iou=None, dice=None)
    assert config.optimizer == expected.optimizer
    assert (config.optimizer.kind, config.optimizer.learning_rate, config.optimizer.momentum) == (2, 0.001, 0.6)
    assert config.freezing == expected.freezing
    assert config.augmentation.image is None
    assert config.augmentation.segment is None
    assert config.preprocessing == expected.preprocessing
    assert not config.preprocessing.zscore.applies
    assert config.validation_output.suffixes == {"segm": "Segm", "prob": "ProbMapClass"}
    assert config.validation_output.save_probability_maps is None
    assert config.keep_last_checkpoints == 3
    assert config.source.dialect == "toml"
    assert config.source.given == {"folderForOutput", "channelsTraining", "gtLabelsTraining", "batchsize_train"}
    assert config.source.notes == ()


def test_sessions_are_compared_without_their_source(write):
    assert load_train_config(write(TRAIN)) == load_train_config(write("\n# moved down\n" + TRAIN))


def test_sections_have_keys_of_their_own(write):
    extra = VALIDATION + (
        'roiMasksTraining = "masks.cfg"\nroiMasksValidation = "v_masks.cfg"\ntypeOfSamplingForTraining = 0\n'
        "typeOfSamplingForVal = 3\nproportionOfSamplesToExtractPerCategoryTraining = [0.3, 0.7]\n"
        'weightedMapsForSamplingEachCategoryVal = ["w.cfg"]\nsaveSegmentationVal = false\n'
        'suffixForSegmAndProbsDictVal = {segm = "Labels"}\n'
    )
    config = load(write, extra)
    assert config.data.roi_masks.name == "masks.cfg"
    assert config.validation_data.roi_masks.name == "v_masks.cfg"
    assert config.sampling == SamplingConfig(kind=0, proportions=(0.3, 0.7))
    assert config.validation_sampling.kind == 3
    assert [path.name for path in config.validation_data.weight_maps] == ["w.cfg"]
    assert not config.validation_output.save_segmentation
    assert config.validation_output.suffixes == {"segm": "Labels", "prob": "ProbMapClass"}


def test_an_empty_list_of_probability_maps_means_all(write):
    assert load(write, "saveProbMapsForEachClassVal = []\n").validation_output.save_probability_maps is None


def test_augmentation_of_images(write):
    extra = "augm_img_prms_tr = {affine = {prob = 0.7, max_rot_xyz = [45, 30.0, 0], interp_order_imgs = 3, seed = 5}}\n"
    expected = AffineAugmentation(probability=0.7, max_rotation=(45.0, 30.0, 0.0), order_images=3, seed=5)
    assert load(write, extra).augmentation.image == expected
    assert load_train_config(
        write(TRAIN + "augm_img_prms_tr = {'affine': {'prob': 0.7, 'seed': None}}\n")
    ).augmentation.image == AffineAugmentation(probability=0.7)
    assert load(write, 'augm_img_prms_tr = {affine = "none"}\n').augmentation.image is None


SEGMENT_TABLES = [
    """\
augm_sample_prms_tr = {'hist_dist': {'shift': {'mu': 0., 'std': 0.05}, 'scale': None}, 'reflect': (0.5, 0., 0.),
                       'rotate90': {'xy': {'0': 8, '90': 1, '180': 0., '270': 1},
                                    'yz': {'0': 0., '90': 0., '180': 0., '270': 0.}, 'xz': None} }
""",
    """\
augm_sample_prms_tr.hist_dist.shift = {mu = 0.0, std = 0.05}
augm_sample_prms_tr.reflect = [0.5, 0, 0]
augm_sample_prms_tr.rotate90 = {xy = {0 = 0.8, 90 = 0.1, 270 = 0.1}}
""",
    """\
[augm_sample_prms_tr]
reflect = [0.5, 0.0, 0.0]
[augm_sample_prms_tr.hist_dist]
shift = {mu = 0, std = 0.05}
[augm_sample_prms_tr.rotate90.xy]
0 = 0.4
90 = 0.05
270 = 0.05
""",
]


@pytest.mark.parametrize("table", SEGMENT_TABLES, ids=["python", "dotted", "tables"])
def test_augmentation_of_segments(write, table):
    segment = load(write, table).augmentation.segment
    assert segment.shift == Gaussian(mean=0.0, std=0.05)
    assert segment.scale is None
    assert segment.reflect == (0.5, 0.0, 0.0)
    assert list(segment.rotate90) == ["xy"]
    assert segment.rotate90["xy"] == pytest.approx((0.8, 0.1, 0.0, 0.1))


@pytest.mark.parametrize(
    "table", ["{'hist_dist': None, 'reflect': None, 'rotate90': None}", "{'rotate90': {'xy': {'0': 0., '90': 0.}}}", "{}"]
)
def test_augmentation_with_nothing_in_it_is_off(write, table):
    assert load(write, f"augm_sample_prms_tr = {table}\n").augmentation.segment is None


def test_the_older_keys_of_augmentation_work_in_later_files(write):
    extra = "reflectImagesPerAxis = [true, false, true]\nperformIntAugm = true\nsampleIntAugmShiftWithMuAndStd = [0, 0.2]\n"
    config = load(write, extra)
    assert config.augmentation.segment == SegmentAugmentation(
        reflect=(0.5, 0.0, 0.5), shift=Gaussian(mean=0.0, std=0.2), scale=Gaussian(mean=1.0, std=0.0)
    )
    assert config.schedule.kind == "poly"
    assert not config.schedule.theano
    assert load(write, "performIntAugm = false\n").augmentation.segment is None


@pytest.mark.parametrize(
    ("table", "weights"),
    [
        ("{'xentr': 1.0, 'iou': None, 'dsc': None}", LossWeights(cross_entropy=1.0)),
        ("{dsc = 2}", LossWeights(cross_entropy=None, dice=2.0)),
        ('{xentr = 0.5, iou = "none", dsc = 0.0}', LossWeights(cross_entropy=0.5, dice=0.0)),
    ],
)
def test_terms_of_the_cost_that_are_left_out_are_not_computed(write, table, weights):
    assert load(write, f"losses_and_weights = {table}\n").loss.weights == weights


def test_class_weights(write):
    extra = 'reweight_classes_in_cost = {type = "per_c", prms = [0.0, 2, 1], schedule = [0, 20]}\n'
    expected = ClassReweighting(kind="per_c", weights=(0.0, 2.0, 1.0), schedule=(0.0, 20.0))
    assert load(write, extra).loss.reweighting == expected
    assert load_train_config(write(TRAIN + extra), 3).loss.reweighting == expected


def test_normalisation(write):
    extra = "norm_zscore_prms = {'apply_to_all_channels': True, 'apply_per_channel': None, 'cutoff_percents': [5., 95.]}\n"
    zscore = load(write, extra).preprocessing.zscore
    assert zscore.applies
    assert zscore.applies_to(1)
    assert zscore.cutoff_percents == (5.0, 95.0)
    per_channel = load(write, "norm_zscore_prms = {apply_per_channel = [false, true]}\n").preprocessing.zscore
    assert not per_channel.applies_to(0)
    assert per_channel.applies_to(1)


@pytest.mark.parametrize(
    ("given", "frozen"), [("", None), ("[]", ()), ("[1, 2]", (1, 2)), ("[[1], [1, 2]]", ((1,), (1, 2))), ("[[], [1]]", ((), (1,)))]
)
def test_frozen_low_resolution_layers_are_one_list_or_one_per_pathway(write, given, frozen):
    extra = f"layersToFreezeSubsampled = {given}\n" if given else ""
    assert load(write, extra).freezing.subsampled == frozen


def test_a_tensorflow_checkpoint_is_named_by_its_prefix(write):
    config = load(write, 'cnnModelFilePath = "models/m.2020-01-01.model.ckpt.index"\n')
    assert config.model_path.name == "m.2020-01-01.model.ckpt"
    assert config.source.notes[0].endswith(
        "m.2020-01-01.model.ckpt.index is one file of a checkpoint; m.2020-01-01.model.ckpt is used"
    )
    assert load(write, 'cnnModelFilePath = "m.model.ckpt"\n').model_path.name == "m.model.ckpt"
    assert load(write, 'cnnModelFilePath = "x.save"\n').model_path.name == "x.save"


def test_paths_do_not_depend_on_the_working_folder(write, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "t.cfg").write_text(TRAIN.replace('"c1.cfg"', '"../lists/c1.cfg"'))
    monkeypatch.chdir(tmp_path)
    config = load_train_config(Path("sub/t.cfg"))
    assert config.data.channels[0] == tmp_path / "lists" / "c1.cfg"
    assert config.folder_for_output == tmp_path / "sub" / "out"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("numberOfEpochs = 0", "numberOfEpochs: found 0; allowed: a whole number at least 1"),
        ("numberOfEpochs = 3.0", "numberOfEpochs: found 3.0 (a number with decimals); allowed: a whole number at least 1"),
        ("numberOfSubepochs = true", "numberOfSubepochs: found true (a truth value); allowed: a whole number at least 1"),
        ("learningRate = 0.0", "learningRate: found 0.0; allowed: a number greater than 0"),
        ("learningRate = -1e-3", "learningRate: found -0.001; allowed: a number greater than 0"),
        ("learningRate = nan", "learningRate: found NaN (not a finite number); allowed: a number greater than 0"),
        ("momentumValue = 1.5", "momentumValue: found 1.5; allowed: a number from 0 to 1"),
        ("b1Adam = 1.0", "b1Adam: found 1.0; allowed: a number at least 0 and less than 1"),
        ("L1_reg = -0.1", "L1_reg: found -0.1; allowed: a number at least 0"),
        ("sgd0orAdam1orRms2 = 3", "sgd0orAdam1orRms2: found 3; allowed: 0, 1, 2"),
        ("typeOfSamplingForTraining = 4", "typeOfSamplingForTraining: found 4; allowed: 0, 1, 2, 3"),
        ("num_processes_sampling = -2", "num_processes_sampling: found -2; allowed: a whole number at least -1"),
        ('typeOfLearningRateSchedule = "exponential"', 'found "exponential"; allowed: "stable", "predef", "poly", "auto"'),
        ('precision = "fp32"', 'precision: found "fp32"; allowed: "float32", "tf32", "bf16"; did you mean "float32"?'),
        ("keepLastCheckpoints = 0", "keepLastCheckpoints: found 0; allowed: a whole number at least 1"),
        ("numberOfEpochz = 3", "numberOfEpochz: is not a key of the train config; did you mean numberOfEpochs?"),
        ("batchSizeTrain = 3", "batchSizeTrain: is a key of the model config, not of the train config; move it there"),
        ("batchsize = 3", "batchsize: is a key of the test config, not of the train config; move it there"),
        ("percentOfSamplesToExtractPositiveTrain = 0.5", "is no longer a key; write typeOfSamplingForTraining = 0 and"),
        ("augm_params_tr = {}", "is no longer a key; write augm_sample_prms_tr instead"),
        ('sessionName = "a/b"', "sessionName: found 'a/b'; allowed: a name that can be part of file names"),
        ('sessionName = ".."', "sessionName: found '..'; allowed: a name that can be part of file names"),
        ('sessionName = " x"', "sessionName: found ' x'; allowed: a name that can be part of file names"),
        ("channelsTraining_ = []", "is not a key of the train config; did you mean channelsTraining?"),
        ("augm_img_prms_tr = {affine = {prob = 1.5}}", "augm_img_prms_tr.affine.prob: found 1.5; allowed: a number from 0"),
        ("augm_img_prms_tr = {prob = 0.5}", "augm_img_prms_tr.prob: is not a key of this table (allowed: affine)"),
        ("augm_img_prms_tr = {affine = {max_scaling = 1.0}}", "max_scaling: found 1.0; allowed: a number at least 0 and"),
        ("augm_img_prms_tr = {affine = {interp_order_imgs = 4}}", "interp_order_imgs: found 4; allowed: 0, 1, 2, 3"),
        ('augm_img_prms_tr = {affine = {boundary_mode = "miror"}}', 'did you mean "mirror"?'),
        ("augm_sample_prms_tr.reflect = [0.5, 1.2, 0]", "augm_sample_prms_tr.reflect, entry 2: found 1.2; allowed: a number"),
        ("augm_sample_prms_tr.reflect = [0.5]", "found [0.5] (a list of 1); allowed: a list of 3 numbers from 0 to 1"),
        ("augm_sample_prms_tr = {hist_dst = {}}", "augm_sample_prms_tr.hist_dst: is not a key of this table; did you mean"),
        ("augm_sample_prms_tr.hist_dist.shift = {mu = 0}", "hist_dist.shift: std is missing; give mu, std"),
        ("augm_sample_prms_tr.hist_dist.shift = {mu = 0, std = -1}", "shift.std: found -1; allowed: a number at least 0"),
        ("augm_sample_prms_tr.rotate90.zz = {}", "rotate90.zz: is not a key of this table; did you mean"),
        ("augm_sample_prms_tr.rotate90.xy = {45 = 1}", "rotate90.xy.45: is not a key of this table (allowed: 0, 90, 180, 270)"),
        ("losses_and_weights = {xentr = 0.0}", "losses_and_weights: has no term with a weight above 0; give at least one"),
        ("losses_and_weights = {dice = 1.0}", "losses_and_weights.dice: is not a key of this table; did you mean"),
        ("losses_and_weights = {xentr = -1}", "losses_and_weights.xentr: found -1; allowed: a number at least 0"),
        ('reweight_classes_in_cost = {type = "per_c"}', 'reweight_classes_in_cost.prms: is missing; type "per_c" needs one'),
        ('reweight_classes_in_cost = {type = "freq", prms = [1]}', 'prms: stands with type "freq", which computes the'),
        ("reweight_classes_in_cost = {schedule = [9, 3]}", "schedule: found [9.0, 3.0]; allowed: [first, last] in rising"),
        ("norm_zscore_prms = {apply_all = true}", "norm_zscore_prms.apply_all: is not a key of this table; did you mean"),
        ("norm_zscore_prms = {apply_to_all_channels = true, apply_per_channel = [true, true]}", "stands together with apply"),
        ("norm_zscore_prms = {apply_per_channel = [true]}", "found 1 entries; allowed: one per channel, 2"),
        ("norm_zscore_prms = {cutoff_percents = [5.0, 101.0]}", "cutoff_percents, entry 2: found 101.0; allowed: a number"),
        ("norm_zscore_prms = {cutoff_percents = [95.0, 5.0]}", "found [95.0, 5.0]; allowed: [low, high] with low below high"),
        ("norm_zscore_prms = {cutoff_times_std = [0, 3]}", "cutoff_times_std, entry 1: found 0; allowed: a number greater"),
        ("layersToFreezeNormal = [0]", "layersToFreezeNormal, entry 1: found 0; allowed: a whole number at least 1"),
        ("proportionOfSamplesToExtractPerCategoryTraining = [0, 0]", "found [0.0, 0.0]; allowed: shares of which at least"),
        ('typeOfLearningRateSchedule = "predef"', 'predefinedSchedule: is missing; the schedule "predef" needs the epochs'),
        ('typeOfLearningRateSchedule = "auto"', "found false; allowed: true for the schedule \"auto\", which lowers"),
        ("numEpochsToWaitBeforeLoweringLr = 35", "found 35; allowed: less than numberOfEpochs (35) for the schedule \"poly\""),
        ("numberTrainingSegmentsLoadedOnGpuPerSubep = 9", "found 9; allowed: at least one batch, 10, because incomplete ones"),
        ("minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal = [[], [3, 1]]", "entry 2: found [3, 1]; allowed: [first"),
        ("saveAllFmsIn4DimImageVal = true", "found true; allowed: false, because feature maps are saved one file each; set"),
        ('suffixForSegmAndProbsDictVal = {segm = "a/b"}', "found 'a/b'; allowed: text that can be part of a file name"),
        ("performFullInferenceOnValidationImagesEveryFewEpochs = 1", "found 1 (a whole number); allowed: true or false"),
    ],
)
def test_what_cannot_be_used_is_refused(refusal, extra, message):
    found = refusal(load_train_config, TRAIN + extra)
    assert found.startswith(("some.cfg:5: ", "some.cfg: "))
    assert message in found
    assert "\n" not in found


def test_a_rising_list_of_epochs_is_needed(refusal):
    extra = 'typeOfLearningRateSchedule = "predef"\npredefinedSchedule = [17, 12]\n'
    assert refusal(load_train_config, TRAIN + extra) == (
        "some.cfg:6: predefinedSchedule: found [17, 12]; allowed: epochs in rising order"
    )


@pytest.mark.parametrize(("target", "place"), [("[-0.1, 0.9]", 1), ("[1e-5, 1.5]", 2)])
def test_the_exponential_target_is_in_range(refusal, target, place):
    extra = f'typeOfLearningRateSchedule = "expon"\nparamsForExpSchedForLrAndMom = {target}\n'
    assert f"paramsForExpSchedForLrAndMom, entry {place}: found " in refusal(load_train_config, TRAIN + extra)


@pytest.mark.parametrize("key", ["folderForOutput", "channelsTraining", "gtLabelsTraining", "batchsize_train"])
def test_a_missing_required_key_is_refused(refusal, key):
    text = "\n".join(line for line in TRAIN.splitlines() if not line.startswith(key))
    assert refusal(load_train_config, text).startswith(f"some.cfg: {key}: is missing; ")


@pytest.mark.parametrize("key", ["channelsValidation", "gtLabelsValidation", "namesForPredictionsPerCaseVal"])
def test_validation_needs_its_cases(refusal, key):
    text = TRAIN + "\n".join(line for line in VALIDATION.splitlines() if not line.startswith(key))
    assert refusal(load_train_config, text).startswith(f"some.cfg: {key}: is missing; ")


def test_validation_on_samples_needs_no_names_and_nothing_saved_needs_none(write):
    names = 'namesForPredictionsPerCaseVal = "v_names.cfg"\n'
    on_samples = VALIDATION.replace(names, "").replace("EveryFewEpochs = true", "EveryFewEpochs = false")
    assert load(write, on_samples).validate_on_samples
    nothing = "saveSegmentationVal = false\nsaveProbMapsForEachClassVal = [false, false]\n"
    assert load(write, VALIDATION.replace(names, "") + nothing).validate_on_volumes


def test_a_table_stands_for_listing_files(write):
    text = 'folderForOutput = "out"\nbatchsize_train = 10\ndataframe_train = "train.csv"\n'
    validation = VALIDATION.splitlines()[:2]
    config = load_train_config(write("\n".join([text, *validation, 'dataframe_val = "v.csv"\n'])))
    assert config.data.table.name == "train.csv"
    assert config.validation_data.table.name == "v.csv"
    assert load(write, 'dataframe_train = "train.csv"\n').source.notes[0].endswith(
        "channelsTraining, gtLabelsTraining not used, because dataframe_train is given"
    )


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ('channelsValidation = ["a"]\n', "channelsValidation not used, because neither performValidationOnSamples"),
        (
            "typeOfSamplingForTraining = 1\nproportionOfSamplesToExtractPerCategoryTraining = [0.5, 0.5]\n",
            "proportionOfSamplesToExtractPerCategoryTraining not used, because typeOfSamplingForTraining is 1",
        ),
        ("typeOfSamplingForTraining = 2\n", "typeOfSamplingForTraining = 2 draws segments as 1 does: uniformly"),
        ("norm_zscore_prms = {cutoff_percents = [5.0, 95.0]}\n", "norm_zscore_prms normalises no channel: set its apply"),
        ("saveIndividualFmsVal = true\n", "saveIndividualFmsVal is on, but no minMaxIndices key chooses feature maps"),
    ],
)
def test_odd_things_are_noted(write, extra, note):
    (found,) = load(write, extra).source.notes
    assert f"some.cfg: {note}" in found


def test_a_key_inside_a_table_by_mistake_is_recognised(refusal):
    message = refusal(load_train_config, TRAIN + "[norm_zscore_prms]\napply_to_all_channels = true\nnumberOfEpochs = 3\n")
    assert message == (
        "some.cfg:7: norm_zscore_prms.numberOfEpochs: is a key of the file, not of the table norm_zscore_prms; move it out "
        "of that table"
    )
    message = refusal(load_train_config, TRAIN + "[optimizer]\nlearningRate = 0.1\n")
    assert message.startswith("some.cfg:5: optimizer: is not a table of this config; learningRate is a key of the file")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("proportionOfSamplesToExtractPerCategoryTraining = [0.5, 0.5]", "found 2 shares; allowed: 3, for each of the 3"),
        (
            "typeOfSamplingForTraining = 0\nproportionOfSamplesToExtractPerCategoryTraining = [1, 1, 1]",
            "found 3 shares; allowed: 2, for foreground and background",
        ),
        ('weightedMapsForSamplingEachCategoryTrain = ["a"]', "found 1 listing files; allowed: 3, for each of the 3 classes"),
        ("saveProbMapsForEachClassVal = [true]", "saveProbMapsForEachClassVal: found 1 entries; allowed: one per class, 3"),
        ('reweight_classes_in_cost = {type = "per_c", prms = [1, 2]}', "found 2 weights; allowed: one per class, 3"),
    ],
)
def test_lists_with_one_entry_per_class(refusal, write, extra, message):
    assert message in refusal(load_train_config, TRAIN + extra, 3)
    assert load_train_config(write(TRAIN + extra)).batch_size == 10  # without the number of classes nothing is known


def test_problems_of_all_kinds_are_listed_together(refusal):
    text = TRAIN.replace("batchsize_train = 10", 'batchsize_train = "10"')
    extra = (
        "numberOfEpochz = 3\nlearningRate = -1\ntypeOfSamplingForTraining = 0\n"
        "proportionOfSamplesToExtractPerCategoryTraining = [1]\nperformValidationOnSamplesThroughoutTraining = true\n"
    )
    lines = refusal(load_train_config, text + extra, 3).splitlines()
    assert lines[0] == "6 problems were found; nothing was started:"
    assert sorted(line.split(". ", 1)[1].split(": ")[1] for line in lines[1:]) == [
        "batchsize_train",
        "channelsValidation",
        "gtLabelsValidation",
        "learningRate",
        "numberOfEpochz",
        "proportionOfSamplesToExtractPerCategoryTraining",
    ]
