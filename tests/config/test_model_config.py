"""The model config: defaults, cross-checks, and agreement with what the original resolved."""

import json

import pytest

from deepmedic.config.architecture import Architecture
from deepmedic.config.load import load_model_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.source import ConfigSource

MODEL = """\
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5, 6]
kernelDimPerLayerNormal = [[3, 3, 3], [3, 3, 3], [3, 3, 3]]
segmentsDimTrain = [15, 15, 15]
"""
SUBSAMPLED = MODEL + "useSubsampledPathway = true\n"


def test_all_defaults(write):
    config = load_model_config(write(MODEL))
    architecture = config.architecture
    assert config.name == "deepmedic"
    assert config.folder_for_output is None
    assert architecture.subsampled == ()
    assert architecture.normal.paddings == ("valid",) * 3
    assert architecture.normal.dropout_rates == (0.0,) * 3
    assert architecture.normal.residual_layers == ()
    assert architecture.fc.feature_maps == (3,)
    assert architecture.fc.kernels == ((1, 1, 1),)
    assert architecture.fc.dropout_rates == (0.5,)
    assert architecture.activation == "prelu"
    assert architecture.batch_norm_window == 60
    assert architecture.batch_norm_epsilon == 1.1754943508222875e-38
    assert architecture.weights_init == ("fanIn", 2.0)
    assert config.segment_size_train == (15, 15, 15)
    assert config.segment_size_validation == (7, 7, 7)
    assert config.segment_size_inference == (15, 15, 15)
    assert not config.segment_size_inference_given
    assert (config.batch_size_train, config.batch_size_validation, config.batch_size_inference) == (None, None, None)
    assert config.source.notes == ()
    assert "numberOfOutputClasses" in config.source.given


@pytest.mark.parametrize(
    ("hidden", "rates"), [("[]", (0.5,)), ("[8]", (0.0, 0.5)), ("[8, 8, 8]", (0.0, 0.5, 0.5, 0.5))]
)
def test_default_dropout_of_the_fc_pathway(write, hidden, rates):
    config = load_model_config(write(MODEL + f"numberFMsPerLayerFC = {hidden}\n"))
    assert config.architecture.fc.dropout_rates == rates


def test_an_empty_dropout_list_is_no_dropout(write):
    config = load_model_config(write(MODEL + "dropoutRatesFc = []\n"))
    assert config.architecture.fc.dropout_rates == (0.0,)


def test_low_resolution_pathways_are_like_the_normal_one_by_default(write):
    extra = "layersWithResidualConnNormal = [3]\nlowerRankLayersNormal = [2]\ndropoutRatesNormal = [0.0, 0.1, 0.1]\n"
    config = load_model_config(write(SUBSAMPLED + extra))
    (pathway,) = config.architecture.subsampled
    assert pathway.name == "subsampled1"
    assert pathway.factor == (3, 3, 3)
    assert pathway.feature_maps == (4, 5, 6)
    assert pathway.kernels == config.architecture.normal.kernels
    assert pathway.residual_layers == (3,)
    assert pathway.low_rank_layers == (2,)
    assert pathway.dropout_rates == (0.0, 0.0, 0.0)  # dropout is not taken over


def test_an_empty_list_stops_taking_over_from_the_normal_pathway(write):
    extra = "layersWithResidualConnNormal = [3]\nlayersWithResidualConnSubsampled = []\n"
    assert load_model_config(write(SUBSAMPLED + extra)).architecture.subsampled[0].residual_layers == ()


def test_several_low_resolution_pathways(write):
    extra = "subsampleFactor = [[3, 3, 3], [5, 5, 3]]\nnumberFMsPerLayerSubsampled = [[1, 2, 3], [4, 5, 6]]\n"
    first, second = load_model_config(write(SUBSAMPLED + extra)).architecture.subsampled
    assert (first.name, first.factor, first.feature_maps) == ("subsampled1", (3, 3, 3), (1, 2, 3))
    assert (second.name, second.factor, second.feature_maps) == ("subsampled2", (5, 5, 3), (4, 5, 6))


def test_further_factors_repeat_the_last_feature_maps(write):
    extra = (
        "subsampleFactor = [[3, 3, 3], [5, 5, 5], [7, 7, 7]]\nnumberFMsPerLayerSubsampled = [[1, 2, 3], [4, 5, 6]]\n"
    )
    pathways = load_model_config(write(SUBSAMPLED + extra)).architecture.subsampled
    assert [pathway.feature_maps for pathway in pathways] == [(1, 2, 3), (4, 5, 6), (4, 5, 6)]


def test_other_kernels_of_the_same_receptive_field_may_have_another_depth(write):
    extra = (
        "numberFMsPerLayerSubsampled = [3, 3]\nkernelDimPerLayerSubsampled = [[5, 5, 5], [3, 3, 3]]\n"
        "layersWithResidualConnNormal = [3]\nlayersWithResidualConnSubsampled = [2]\n"
    )
    assert load_model_config(write(SUBSAMPLED + extra)).architecture.subsampled[0].depth == 2


@pytest.mark.parametrize("spelling", ["valid", "VALID", "none"])
def test_spellings_of_no_padding(write, spelling):
    config = load_model_config(write(SUBSAMPLED + f'padTypePerLayerNormal = ["{spelling}", "none", "VALID"]\n'))
    assert config.architecture.normal.paddings == ("valid",) * 3


@pytest.mark.parametrize(
    ("spelling", "padding"),
    [("zero", "zero"), ("SAME", "zero"), ("same", "zero"), ("MIRROR", "mirror"), ("Mirror", "mirror")],
)
def test_spellings_of_padding(write, spelling, padding):
    config = load_model_config(write(MODEL + f'padTypePerLayerNormal = ["{spelling}", "none", "none"]\n'))
    assert config.architecture.normal.paddings == (padding, "valid", "valid")


def test_padding_of_kernels_of_one_voxel_does_no_harm(write):
    text = SUBSAMPLED.replace("[3, 3, 3], [3, 3, 3]]", "[3, 3, 3], [1, 1, 1]]")
    config = load_model_config(write(text + 'padTypePerLayerNormal = ["none", "none", "mirror"]\n'))
    assert config.architecture.normal.receptive_field == (5, 5, 5)


def test_the_default_validation_segment_has_room_for_unpadded_fc_kernels(write):
    extra = "numberFMsPerLayerFC = [8]\nkernelDimPerLayerFC = [[3, 3, 3], [1, 1, 1]]\n"
    unpadded = load_model_config(write(MODEL + extra))
    assert unpadded.segment_size_validation == (9, 9, 9)
    assert unpadded.architecture.output_size(unpadded.segment_size_validation) == (1, 1, 1)
    padded = load_model_config(write(MODEL + extra + 'padTypePerLayerFC = ["mirror", "none"]\n'))
    assert padded.segment_size_validation == (7, 7, 7)


def test_new_keys(write):
    extra = 'channelNames = ["T1", "T2"]\nclassNames = ["air", "a", "b"]\nbatchNormEpsilon = 1e-5\n'
    config = load_model_config(write(MODEL + extra))
    assert config.channel_names == ("T1", "T2")
    assert config.class_names == ("air", "a", "b")
    assert config.architecture.batch_norm_epsilon == 1e-5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "layersWithResidualConnNormal = [1, 3]",
            "layersWithResidualConnNormal: found layer 1; allowed: layers 2 to 3",
        ),
        ("layersWithResidualConnNormal = [4]", "layersWithResidualConnNormal: found layer 4; allowed: layers 2 to 3"),
        ("layersWithResidualConnNormal = [0]", "layersWithResidualConnNormal: found layer 0; allowed: layers 2 to 3"),
        ("layersWithResidualConnNormal = [2, 2]", "found [2, 2]; allowed: each layer once"),
        (
            "layersWithResidualConnFC = [2]",
            "layersWithResidualConnFC: found layer 2; allowed: [], as the pathway has a",
        ),
        ("lowerRankLayersNormal = [4]", "lowerRankLayersNormal: found layer 4; allowed: layers 1 to 3"),
        ("dropoutRatesNormal = [0.1]", "dropoutRatesNormal: found 1 entries; allowed: one per layer, 3"),
        (
            "dropoutRatesNormal = [0.0, 0.0, 1.5]",
            "dropoutRatesNormal, entry 3: found 1.5; allowed: a number at least 0",
        ),
        (
            "dropoutRatesFc = [0.1, 0.2]",
            "dropoutRatesFc: found 2 entries; allowed: one per layer, 1 (numberFMsPerLayerFC has 0, and the",
        ),
        (
            "kernelDimPerLayerFC = [[1, 1, 1], [1, 1, 1]]",
            "kernelDimPerLayerFC: found 2 entries; allowed: one per layer, 1",
        ),
        ('padTypePerLayerNormal = ["mirror"]', "padTypePerLayerNormal: found 1 entries; allowed: one per layer, 3"),
        (
            'padTypePerLayerNormal = ["mirrr", "none", "none"]',
            'padTypePerLayerNormal, entry 1: found "mirrr"; allowed: "valid", "none", "zero", "same" or "mirror"',
        ),
        (
            "segmentsDimVal = [6, 7, 7]",
            "segmentsDimVal: found [6, 7, 7]; allowed: at least the receptive field [7, 7, 7]",
        ),
        (
            "segmentsDimInference = [7, 7, 3]",
            "segmentsDimInference: found [7, 7, 3]; allowed: at least the receptive field",
        ),
        (
            'convWeightsInit = ["fanOut", 2]',
            'convWeightsInit: found ["fanOut", 2]; allowed: ["fanIn", a] or ["normal", s]',
        ),
        (
            'convWeightsInit = ["normal", 0]',
            'found ["normal", 0]; allowed: ["fanIn", a] or ["normal", s] with a number',
        ),
        ('activationFunction = "leaky"', 'found "leaky"; allowed: "linear", "relu", "prelu", "elu", "selu"'),
        ('channelNames = ["T1"]', "channelNames: found 1 names; allowed: 2, as numberOfInputChannels says"),
        ('channelNames = ["T1", "T1"]', 'channelNames: found ["T1", "T1"]; allowed: each name once'),
        ('channelNames = ["T1", "T\\n2"]', "allowed: names of printable characters"),
        ('classNames = ["a", "b"]', "classNames: found 2 names; allowed: 3, as numberOfOutputClasses says"),
        (
            "batchNormEpsilon = 0.0",
            "batchNormEpsilon: found 0.0; allowed: a number at least 1.17549e-38 and less than 1",
        ),
        ('modelName = "../x"', "modelName: found '../x'; allowed: a name that can be part of file names"),
        ('modelName = ""', "modelName: found an empty text"),
        ("initializeClassic0orDelving1 = 1", "is no longer a key; write convWeightsInit instead"),
        ("relu0orPrelu1 = 1", 'is no longer a key; write activationFunction instead: "relu" for 0, "prelu" for 1'),
        ("numberFMsPerLayerNormall = [1]", "is not a key of the model config; did you mean numberFMsPerLayerNormal?"),
        ("learningRate = 0.1", "learningRate: is a key of the train config, not of the model config; move it there"),
    ],
)
def test_what_does_not_fit_together_is_refused(refusal, extra, message):
    found = refusal(load_model_config, MODEL + extra)
    assert found.startswith("some.cfg:6: ")
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "kernelDimPerLayerSubsampled = [[3, 3, 3], [3, 3, 3], [5, 5, 3]]",
            "some.cfg:7: kernelDimPerLayerSubsampled: found kernels with the receptive field [9, 9, 7]; allowed: that "
            "of "
            "the normal pathway, [7, 7, 7]",
        ),
        (
            "kernelDimPerLayerSubsampled = [[7, 7, 7]]",
            "kernelDimPerLayerSubsampled: found 1 entries; allowed: one per layer, 3, as in "
            "numberFMsPerLayerSubsampled",
        ),
        (
            "numberFMsPerLayerSubsampled = [4, 4]",
            "some.cfg: kernelDimPerLayerSubsampled: is missing; the low-resolution pathways have 2 layers and the "
            "normal "
            "pathway 3: give kernels with the receptive field of the normal pathway, [7, 7, 7]",
        ),
        (
            "subsampleFactor = [[3, 3, 3], [5, 5, 5]]\nnumberFMsPerLayerSubsampled = [[4, 4, 4], [4, 4]]",
            "numberFMsPerLayerSubsampled: found pathways of 3, 2 layers; allowed: the same number of layers in all",
        ),
        (
            "numberFMsPerLayerSubsampled = [[4, 4, 4], [4, 4, 4]]",
            "numberFMsPerLayerSubsampled: found feature maps of 2 pathways, but 1 in subsampleFactor; give one factor "
            "per",
        ),
        ("subsampleFactor = [3, 3]", "subsampleFactor: found [3, 3] (a list of 2); allowed: a list of 3 whole numbers"),
        (
            "subsampleFactor = [[3, 3, 0]]",
            "subsampleFactor, entry 1, entry 3: found 0; allowed: a whole number at least 1",
        ),
        (
            'padTypePerLayerNormal = ["none", "mirror", "none"]',
            'some.cfg:7: padTypePerLayerNormal, entry 2: found "mirror"; allowed: "valid" for all layers of the '
            "normal and",
        ),
        ('padTypePerLayerSubsampled = ["zero", "none", "none"]', 'padTypePerLayerSubsampled, entry 1: found "zero"'),
        (
            "layersWithResidualConnSubsampled = [1]",
            "layersWithResidualConnSubsampled: found layer 1; allowed: layers 2",
        ),
        ("lowerRankLayersSubsampled = [9]", "lowerRankLayersSubsampled: found layer 9; allowed: layers 1 to 3"),
        ("dropoutRatesSubsampled = [0.5]", "dropoutRatesSubsampled: found 1 entries; allowed: one per layer, 3"),
        (
            "numberFMsPerLayerSubsampled = [4, 4]\nkernelDimPerLayerSubsampled = [[5, 5, 5], [3, 3, 3]]\n"
            "layersWithResidualConnNormal = [3]",
            "some.cfg: layersWithResidualConnSubsampled: is missing; layer 3 of layersWithResidualConnNormal would be",
        ),
    ],
)
def test_low_resolution_pathways_that_do_not_fit_are_refused(refusal, extra, message):
    found = refusal(load_model_config, SUBSAMPLED + extra)
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize("key", [line.split(" ")[0] for line in MODEL.splitlines()])
def test_a_missing_required_key_is_refused(refusal, key):
    text = "\n".join(line for line in MODEL.splitlines() if not line.startswith(key))
    assert refusal(load_model_config, text) == f"some.cfg: {key}: is missing; it has no default and must be given"


def test_a_kernel_larger_than_the_segment_is_refused(refusal):
    text = MODEL.replace("[[3, 3, 3], ", "[[11, 3, 3], ")
    assert refusal(load_model_config, text.replace("15, 15, 15", "14, 15, 15")) == (
        "some.cfg:5: segmentsDimTrain: found [14, 15, 15]; allowed: at least the receptive field [15, 7, 7] along each "
        "axis; enlarge the segment, or use fewer layers or smaller kernels"
    )


def test_all_problems_are_listed_together(refusal):
    text = MODEL.replace("numberOfOutputClasses = 3", "numberOfOutputClasses = 1").replace("15, 15, 15", "5, 5, 5")
    message = refusal(
        load_model_config, text + 'modelName = "a/b"\nlayersWithResidualConnNormal = [1]\nunknownKey = 3\n'
    )
    lines = [line.split(". ", 1)[1] for line in message.splitlines()[1:]]
    assert len(lines) == 5
    for start in ("numberOfOutputClasses: ", "segmentsDimTrain: ", "modelName: ", "layersWithResidual", "unknownKey: "):
        assert any(line.split(": ", 1)[1].startswith(start) for line in lines)


def test_a_refused_list_makes_no_further_problems(refusal):
    text = MODEL.replace("[4, 5, 6]", "[4, 5.5, 6]") + "numberFMsPerLayerFC = [0]\nkernelDimPerLayerFC = [[1, 1, 1]]\n"
    assert refusal(load_model_config, text).startswith("2 problems")


def test_odd_things_are_noted(write):
    even = load_model_config(
        write(SUBSAMPLED.replace("[[3, 3, 3], ", "[[4, 3, 3], ") + "subsampleFactor = [2, 2, 2]\n")
    )
    assert even.source.notes[0].endswith(
        "even kernels and factors of subsampling shift the outputs by half a voxel; odd ones are recommended"
    )
    unused = load_model_config(write(MODEL + "subsampleFactor = [3, 3, 3]\n"))
    assert unused.source.notes[0].endswith("subsampleFactor not used, because useSubsampledPathway is off")


def test_the_folder_for_output_is_relative_to_the_file(write):
    path = write(MODEL + 'folderForOutput = "../out/"\n')
    assert load_model_config(path).folder_for_output == path.parent.parent / "out"


def test_a_model_config_survives_a_saved_model(write):
    extra = 'channelNames = ["T1", "T2"]\nsegmentsDimInference = [20, 20, 20]\nfolderForOutput = "out"\n'
    config = load_model_config(write(SUBSAMPLED + extra))
    plain = json.loads(json.dumps(config.to_dict()))
    restored = ModelConfig.from_dict(plain)
    assert restored.architecture == config.architecture
    assert isinstance(restored.architecture, Architecture)
    assert restored.segment_size_inference == (20, 20, 20)
    assert restored.segment_size_inference_given
    assert restored.channel_names == ("T1", "T2")
    assert restored.folder_for_output is None
    assert restored.source == ConfigSource()
