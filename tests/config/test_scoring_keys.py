"""Keys that say how segmentations are scored."""

import pytest

from deepmedic.config.explain import explain
from deepmedic.config.load import fit_test_config, load_model_config, load_test_config

TEST = 'folderForOutput = "out"\nchannels = ["c1.cfg", "c2.cfg"]\n'
MODEL = """\
numberOfOutputClasses = 4
numberOfInputChannels = 2
classNames = ["background", "necrosis", "edema", "enhancing"]
numberFMsPerLayerNormal = [4]
kernelDimPerLayerNormal = [[3, 3, 3]]
numberFMsPerLayerFC = []
segmentsDimTrain = [9, 9, 9]
"""


@pytest.mark.parametrize(
    "text",
    [
        "regions = {wholeTumour = [1, 2, 3], core = [1, 3]}\nsurfaceDistances = false\nlesionCounts = false\n",
        "surfaceDistances = false\nlesionCounts = false\n[regions]\nwholeTumour = [1, 2, 3]\ncore = [1, 3]\n",
        "regions = {'wholeTumour': [1, 2, 3], 'core': [1, 3]}\nsurfaceDistances = False\nlesionCounts = False\n",
    ],
    ids=["inline-table", "table", "original-dialect"],
)
def test_regions_in_every_spelling(write, text):
    scoring = load_test_config(write(TEST + text)).scoring
    assert scoring.regions == {"wholeTumour": (1, 2, 3), "core": (1, 3)}
    assert (scoring.surface_distances, scoring.lesion_counts) == (False, False)


def test_everything_but_regions_is_on_by_default(write):
    scoring = load_test_config(write(TEST)).scoring
    assert (dict(scoring.regions), scoring.surface_distances, scoring.lesion_counts) == ({}, True, True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 2]", "found [1, 2] (a list of 2); allowed: a table {name = a list of whole numbers, ...}"),
        ("{core = 1}", "regions.core: found 1 (a whole number); allowed: a list of whole numbers at least 1"),
        ("{core = [0, 1]}", "regions.core, entry 1: found 0; allowed: a whole number at least 1"),
        ("{core = []}", "regions.core: found an empty list; allowed: at least one entry"),
        ('{core = ["edema"]}', 'found "edema" (text); allowed: a whole number at least 1'),
        ('{" " = [1]}', "found the name ' '; allowed: text of at least one printable character"),
    ],
    ids=["list", "number", "background", "empty", "text", "blank-name"],
)
def test_what_is_no_region_is_refused(refusal, value, message):
    assert message in refusal(load_test_config, TEST + f"regions = {value}\n")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("core = [1, 4]", "regions.core: found class 4; allowed: 1 to 3"),
        ("core = [1, 3, 1]", "regions.core: found 1, 3, 1; name each class once"),
        ("edema = [1, 2]", "regions.edema: is the name of a class, or of all of them; choose another name"),
        ('"whole foreground" = [1]', "is the name of a class, or of all of them; choose another name"),
    ],
    ids=["no-such-class", "twice", "class-name", "foreground"],
)
def test_regions_must_fit_the_model(write, refusal, region, message):
    model = load_model_config(write(MODEL, "model.cfg"))
    refused = refusal(lambda path: fit_test_config(load_test_config(path), model), TEST + f"regions = {{{region}}}\n")
    assert message in refused
    assert "some.cfg:3" in refused


def test_explain_shows_the_type_of_regions():
    assert "Type: a table {name = a list of whole numbers, ...}" in explain("regions")
