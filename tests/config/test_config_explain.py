"""What `-explain` says, and the page of the documentation made from the same declarations."""

from pathlib import Path

import pytest

from deepmedic.config.explain import explain, reference_markdown
from deepmedic.config.kinds import CLASSES, REMOVED, key_names

PAGE = Path(__file__).parents[2] / "documentation" / "configuration.md"


def test_a_key_is_explained_with_meaning_type_range_default_and_kind():
    assert explain("momentumValue") == (
        "momentumValue  (train config)\n"
        "    Momentum of gradient descent and RMSProp; 0 is none.\n"
        "    Type: a number\n"
        "    Allowed: from 0 to 1\n"
        "    Default: 0.6"
    )


@pytest.mark.parametrize("word", ["LEARNINGRATE", " learningRate "])
def test_case_and_blanks_do_not_matter_and_an_exact_name_stands_alone(word):
    assert explain(word).startswith("learningRate  (train config)\n")
    assert explain(word).count("Default:") == 1


def test_words_are_found_in_names_and_meanings():
    found = explain("freez")
    assert found.index("layersToFreezeNormal") < found.index("layersToFreezeFC")
    assert "gzip" not in found
    assert "sgd0orAdam1orRms2" in explain("rmsprop")
    assert "norm_zscore_prms.cutoff_percents  (train config and test config and analysis config)" in explain(
        "percentile"
    )


def test_choices_tables_origins_and_required_keys_are_told():
    assert 'Allowed: "poly"' not in explain("typeOfLearningRateSchedule")
    assert 'Allowed: "stable", "predef", "poly", "auto", "expon"' in explain("typeOfLearningRateSchedule")
    assert "Allowed: affine" in explain("augm_img_prms_tr")
    assert "batchNormEpsilon  (model config, new in this program)" in explain("batchNormEpsilon")
    assert "batchSizeTrain  (model config, Theano version only)" in explain("batchSizeTrain")
    assert "Default: none: it must be given" in explain("batchsize_train")
    assert "Default: required" in explain("numberOfOutputClasses")
    assert "Default: {apply_to_all_channels = false, cutoff_below_mean = false}" in explain("norm_zscore_prms")
    assert "Allowed: greater than 0" in explain("learningRate")


def test_keys_of_several_kinds_are_told_once_where_they_mean_the_same():
    assert explain("padInputImagesBool").startswith(
        "padInputImagesBool  (train config and test config and analysis config)\n"
    )
    assert explain("sessionName").count("sessionName  (") == 4


def test_removed_keys_say_what_to_write():
    assert explain("relu0orPrelu1") == (
        'relu0orPrelu1 is no longer a key; write activationFunction instead: "relu" for 0, "prelu" for 1.'
    )


def test_an_unknown_word_names_the_nearest_keys():
    assert explain("numberOfEpochz") == (
        "No config key has 'numberOfEpochz' in its name or meaning. The nearest keys are numberOfEpochs, "
        "numberOfSubepochs, "
        "phase.numberOfEpochs."
    )
    assert explain("") == "No config key has '' in its name or meaning."


def test_every_key_can_be_explained():
    for kind in CLASSES:
        for name in key_names(kind):
            assert explain(name).startswith(f"{name}  (")


def test_the_page_has_every_key_and_is_up_to_date():
    page = reference_markdown()
    for kind in CLASSES:
        assert all(f"### `{name}`" in page for name in key_names(kind))
        assert all(f"- `{name}` is no longer a key" in page for name in REMOVED[kind])
    assert PAGE.read_text(encoding="utf-8") == page, (
        "documentation/configuration.md is out of date; write it anew with\n"
        "python -c \"from deepmedic.config.explain import reference_markdown as page; print(page(), end='')\" "
        "> documentation/configuration.md"
    )
