"""Configs against the model they are used with."""

from dataclasses import replace

import pytest

from deepmedic.config.load import (
    fit_test_config,
    fit_train_config,
    load_model_config,
    load_test_config,
    load_train_config,
)
from deepmedic.config.training import TrainConfig
from deepmedic.errors import ModelError

MODEL = """\
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5, 6]
kernelDimPerLayerNormal = [[3, 3, 3], [3, 3, 3], [3, 3, 3]]
segmentsDimTrain = [15, 15, 16]
useSubsampledPathway = true
subsampleFactor = [[3, 3, 3], [5, 5, 5]]
numberFMsPerLayerFC = [8]
"""
TRAIN = """\
folderForOutput = "out"
channelsTraining = ["c1.cfg", "c2.cfg"]
gtLabelsTraining = "labels.cfg"
batchsize_train = 10
"""
TEST = 'folderForOutput = "out"\nchannels = ["c1.cfg", "c2.cfg"]\n'


@pytest.fixture
def model(write):
    return load_model_config(write(MODEL, "model.cfg"))


def test_a_config_that_fits_stays_as_it_is(write, model):
    extra = (
        "layersToFreezeNormal = [3]\nlayersToFreezeSubsampled = [[1], [3]]\nlayersToFreezeFC = [2]\n"
        "augm_sample_prms_tr.rotate90.xy = {0 = 1, 90 = 1}\naugm_sample_prms_tr.rotate90.yz = {0 = 1, 180 = 1}\n"
    )
    config = load_train_config(write(TRAIN + extra))
    assert fit_train_config(config, model) == config == load_train_config(write(TRAIN + extra), model=model)
    test = load_test_config(write(TEST))
    assert fit_test_config(test, model) == test == load_test_config(write(TEST), model=model)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "layersToFreezeNormal = [1, 4]",
            "layersToFreezeNormal: found layer 4; allowed: layers 1 to 3 of the pathway normal",
        ),
        ("layersToFreezeFC = [3]", "layersToFreezeFC: found layer 3; allowed: layers 1 to 2 of the pathway fc"),
        ("layersToFreezeSubsampled = [4]", "found layer 4; allowed: layers 1 to 3 of the pathway subsampled1"),
        ("layersToFreezeSubsampled = [[1], [4]]", "found layer 4; allowed: layers 1 to 3 of the pathway subsampled2"),
        ("layersToFreezeSubsampled = [[1]]", "found 1 lists; allowed: one per low-resolution pathway, 2"),
        (
            "saveProbMapsForEachClassVal = [true]",
            "saveProbMapsForEachClassVal: found 1 entries; allowed: one per class, 3",
        ),
        (
            "augm_sample_prms_tr.rotate90.yz = {0 = 1, 90 = 1}",
            "augm_sample_prms_tr.rotate90.yz: needs segments of all pathways as long along both axes; "
            "segmentsDimTrain is "
            "[15, 15, 16]",
        ),
        (
            "saveIndividualFmsVal = true\nminMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal = [[0, 1]]",
            "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal: found 1 entries; allowed: one per layer, 3, or "
            "[]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(refusal, write, model, extra, message):
    found = refusal(load_train_config, TRAIN + extra, model=model)
    assert found.startswith(("some.cfg:5: ", "some.cfg:6: "))
    assert message in found
    config = load_train_config(write(TRAIN + extra))
    assert refusal(lambda _: fit_train_config(config, model), TRAIN + extra) == found


def test_another_number_of_channels_is_no_fault_of_the_config_alone(refusal, write, model):
    text = TEST.replace('"c2.cfg"', '"c2.cfg", "c3.cfg"')
    message = refusal(load_test_config, text, code=5, model=model)
    assert message == (
        "some.cfg:2: channels: found 3 channels, but the model has 2; give one listing file per channel of the model, "
        "in its "
        "order"
    )
    with pytest.raises(ModelError):
        fit_test_config(load_test_config(write(text)), model)
    train = TRAIN.replace('["c1.cfg", "c2.cfg"]', '["c1.cfg"]')
    assert "channelsTraining: found 1 channels, but the model has 2" in refusal(
        load_train_config, train, code=5, model=model
    )


def test_normalised_channels_are_those_of_the_model(refusal, model):
    text = 'folderForOutput = "out"\ndataframe = "x.csv"\nnorm_zscore_prms = {apply_per_channel = [true]}\n'
    assert refusal(load_test_config, text, model=model) == (
        "some.cfg:3: norm_zscore_prms.apply_per_channel: found 1 entries; allowed: one per channel of the model, 2"
    )


def test_feature_maps_of_low_resolution_and_fc_layers(refusal, model):
    for pathway, depth in (("Subsampled", 3), ("FullyConnected", 2)):
        key = f"minMaxIndicesOfFmsToSaveFromEachLayerOf{pathway}Pathway"
        message = refusal(load_test_config, TEST + f"saveIndividualFms = true\n{key} = [[]]\n", model=model)
        assert message == f"some.cfg:4: {key}: found 1 entries; allowed: one per layer, {depth}, or []"


def test_a_config_made_in_python_can_be_fitted(tmp_path, model):
    config = TrainConfig(folder_for_output=tmp_path, batch_size=10)
    assert fit_train_config(config, model) == config
    theano = replace(model, batch_size_train=3, batch_size_validation=4, batch_size_inference=5)
    fitted = fit_train_config(config, theano)
    assert (fitted.batch_size, fitted.validation_batch_size, fitted.volume_batch_size) == (10, 4, 5)


def test_problems_with_the_model_and_of_the_file_are_listed_together(refusal, model):
    text = TRAIN.replace('["c1.cfg", "c2.cfg"]', '["c1.cfg"]') + "learningRate = 0\nlayersToFreezeFC = [9]\n"
    message = refusal(load_train_config, text, model=model)  # of several kinds the config decides: exit code 3
    assert message.startswith("3 problems were found")
    for part in ("some.cfg:5: learningRate", "some.cfg:6: layersToFreezeFC", "some.cfg:2: channelsTraining"):
        assert part in message
