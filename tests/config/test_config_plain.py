"""Configurations as plain dicts, and what changed."""

import json

from deepmedic.config.load import load_model_config, load_test_config, load_train_config
from deepmedic.config.plain import settings_changed, to_plain

TRAIN = """\
folderForOutput = "out"
channelsTraining = ["c1.cfg", "c2.cfg"]
gtLabelsTraining = "labels.cfg"
batchsize_train = 10
"""
MODEL = """\
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5]
kernelDimPerLayerNormal = [[3, 3, 3], [3, 3, 3]]
segmentsDimTrain = [15, 15, 15]
"""


def test_settings_go_by_their_keys(write):
    path = write(TRAIN + "norm_zscore_prms = {apply_to_all_channels = true}\nlosses_and_weights = {dsc = 1.0}\n")
    plain = to_plain(load_train_config(path))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["learningRate"] == 0.001
    assert plain["folderForOutput"] == str(path.parent / "out")
    assert plain["channelsTraining"] == [str(path.parent / "c1.cfg"), str(path.parent / "c2.cfg")]
    assert plain["typeOfSamplingForVal"] == 1
    assert plain["norm_zscore_prms"]["apply_to_all_channels"] is True
    assert plain["losses_and_weights"] == {"cross_entropy": None, "iou": None, "dice": 1.0}
    assert "source" not in plain
    assert "weightedMapsForSamplingEachCategory" not in plain


def test_all_three_kinds_are_json(write):
    model = load_model_config(write(MODEL))
    assert json.loads(json.dumps(to_plain(model)))["architecture"]["normal"]["feature_maps"] == [4, 5]
    test = load_test_config(write('folderForOutput = "out"\nchannels = ["c"]\n'))
    assert json.loads(json.dumps(to_plain(test)))["batchsize"] == 10


def test_equal_settings_are_equal_wherever_they_stand_in_the_file(write):
    first = to_plain(load_train_config(write(TRAIN)))
    second = to_plain(load_train_config(write("# comment\n" + TRAIN + "numberOfEpochs = 35\n", "other.cfg")))
    assert json.dumps(first) == json.dumps(second)
    assert settings_changed(first, second) == []


def test_changes_are_told_by_key(write):
    old = to_plain(load_train_config(write(TRAIN)))
    extra = (
        "learningRate = 0.0005\nnorm_zscore_prms = {apply_to_all_channels = true, cutoff_percents = [5.0, 95.0]}\n"
        "augm_sample_prms_tr = {reflect = [0.5, 0.0, 0.0]}\ntypeOfSamplingForTraining = 0\n"
    )
    new = to_plain(load_train_config(write(TRAIN + extra)))
    assert settings_changed(old, new) == [
        "typeOfSamplingForTraining: 3 -> 0",
        "learningRate: 0.001 -> 0.0005",
        'augm_sample_prms_tr: none -> {"reflect": [0.5, 0.0, 0.0]}',
        "norm_zscore_prms.apply_to_all_channels: false -> true",
        "norm_zscore_prms.cutoff_percents: none -> [5.0, 95.0]",
    ]
    assert settings_changed({"a": 1}, {"a": 1, "b": 2, "unknown to an earlier version, and off": None}) == [
        "b: not set -> 2"
    ]
    assert settings_changed({"a": [1], "b": "x"}, {"a": [1]}) == ['b: "x" -> not set']
