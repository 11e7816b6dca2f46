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
    assert (config.epochs, config.subepochs, config.cases_per_subepoch, config.segments_per_subepoch) == (
        35,
        20,
        50,
        1000,
    )
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
    "table",
    ["{'hist_dist': None, 'reflect': None, 'rotate90': None}", "{'rotate90': {'xy': {'0': 0., '90': 0.}}}", "{}"],
)
def test_augmentation_with_nothing_in_it_is_off(write, table):
    assert load(write, f"augm_sample_prms_tr = {table}\n").augmentation.segment is None


def test_the_older_keys_of_augmentation_work_in_later_files(write):
    extra = (
        "reflectImagesPerAxis = [true, false, true]\nperformIntAugm = true\nsampleIntAugmShiftWithMuAndStd = [0, 0.2]\n"
    )
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
    extra = (
        "norm_zscore_prms = {'apply_to_all_channels': True, 'apply_per_channel': None, 'cutoff_percents': [5., 95.]}\n"
    )
    zscore = load(write, extra).preprocessing.zscore
    assert zscore.applies
    assert zscore.applies_to(1)
    assert zscore.cutoff_percents == (5.0, 95.0)
    per_channel = load(write, "norm_zscore_prms = {apply_per_channel = [false, true]}\n").preprocessing.zscore
    assert not per_channel.applies_to(0)
    assert per_channel.applies_to(1)


@pytest.mark.parametrize(
    ("given", "frozen"),
    [("", None), ("[]", ()), ("[1, 2]", (1, 2)), ("[[1], [1, 2]]", ((1,), (1, 2))), ("[[], [1]]", ((), (1,)))],
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
