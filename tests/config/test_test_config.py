"""The test config: defaults and cross-checks."""

import pytest

from deepmedic.config.inference import TestConfig
from deepmedic.config.load import load_test_config
from deepmedic.config.sections import OutputConfig

TEST = """\
folderForOutput = "out"
channels = ["c1.cfg", "c2.cfg"]
"""


def test_all_defaults(write):
    path = write(TEST)
    config = load_test_config(path)
    expected = TestConfig(folder_for_output=path.parent / "out")
    assert config.session_name == "testSession"
    assert config.batch_size == 10
    assert config.tiling is None
    assert config.output == expected.output == OutputConfig()
    assert config.preprocessing == expected.preprocessing
    assert config.data.channels == (path.parent / "c1.cfg", path.parent / "c2.cfg")
    assert config.data.names is None
    assert config.model_path is None
    assert config.source.notes == ()


def test_everything_given(write):
    extra = """\
sessionName = "s"
cnnModelFilePath = "m/x.save"
roiMasks = "roi.cfg"
gtLabels = "gt.cfg"
namesForPredictionsPerCase = "names.cfg"
batchsize = 3
tiling = "segments"
saveSegmentation = False
saveProbMapsForEachClass = [True, False, True]
suffixForSegmAndProbsDict = {"segm": "Labels", "prob": "P"}
saveIndividualFms = True
minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway = [[], [1, 3], None]
minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway = []
minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway = [[0, 150]]
run_input_checks = False
padInputImagesBool = False
norm_verbosity_lvl = 2
"""
    config = load_test_config(write(TEST + extra), 3)
    assert config.source.dialect == "python"
    assert config.output == OutputConfig(
        save_segmentation=False,
        save_probability_maps=(True, False, True),
        suffixes={"segm": "Labels", "prob": "P"},
        save_feature_maps=True,
        feature_maps_normal=((), (1, 3), ()),
        feature_maps_subsampled=(),
        feature_maps_fc=((0, 150),),
    )
    assert config.tiling == "segments"
    assert not config.preprocessing.pad_images
    assert config.data.roi_masks.name == "roi.cfg"
    assert config.model_path.name == "x.save"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("batchsize = 0", "batchsize: found 0; allowed: a whole number at least 1"),
        ('tiling = "Segments"', 'tiling: found "Segments"; allowed: "segments", "auto"; did you mean "segments"?'),
        ("numberOfEpochs = 3", "numberOfEpochs: is a key of the train config, not of the test config; move it there"),
        ("saveProbMapsForEachClass = [true]", "saveProbMapsForEachClass: found 1 entries; allowed: one per class, 3"),
        ("saveProbMapsForEachClass = true", "found true (a truth value); allowed: a list of true or false values"),
        (
            "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway = [[1]]",
            "entry 1: found [1]; allowed: [first, last + 1]",
        ),
        (
            "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway = [[-1, 2]]",
            "entry 1, entry 1: found -1; allowed: a whole",
        ),
        ("norm_zscore_prms = {apply_per_channel = [true, true, true]}", "found 3 entries; allowed: one per channel, 2"),
        ('nonFiniteVoxels = "ignore"', 'nonFiniteVoxels: found "ignore"; allowed: "refuse", "zero", "mean"'),
        ("affineTolerance = -1", "affineTolerance: found -1; allowed: a number at least 0"),
        ("memoryBudget = 0", "memoryBudget: found 0; allowed: a number greater than 0"),
    ],
)
def test_what_cannot_be_used_is_refused(refusal, extra, message):
    found = refusal(load_test_config, TEST + extra, 3)
    assert found.startswith("some.cfg:3: ")
    assert message in found


@pytest.mark.parametrize("key", ["folderForOutput", "channels"])
def test_a_missing_required_key_is_refused(refusal, key):
    text = "\n".join(line for line in TEST.splitlines() if not line.startswith(key))
    assert refusal(load_test_config, text).startswith(f"some.cfg: {key}: is missing; ")


def test_a_table_stands_for_listing_files(write):
    assert load_test_config(write('folderForOutput = "out"\ndataframe = "cases.csv"\n')).data.table.name == "cases.csv"


def test_a_session_without_results_is_noted(write):
    nothing = "saveSegmentation = false\nsaveProbMapsForEachClass = [false, false, false]\n"
    (note,) = load_test_config(write(TEST + nothing)).source.notes
    assert note.endswith("nothing is saved and there are no labels to score: this session has no results")
    assert load_test_config(write(TEST + nothing + 'gtLabels = "gt.cfg"\n')).source.notes == ()
