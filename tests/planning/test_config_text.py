"""Texts of configs: every value reads back as it was, whatever names a data set brings."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.load import load_model_config
from deepmedic.data.cases import ImageRef
from deepmedic.planning.config_plan import ConfigPlan, safe_name, slugs
from deepmedic.planning.config_text import model_text, toml_value
from deepmedic.planning.found import FoundCase
from deepmedic.planning.listing_text import listings, result_names
from deepmedic.planning.networks import choose_network

plain = st.recursive(
    st.booleans() | st.integers(-(2**31), 2**31) | st.text(st.characters(codec="utf-8", exclude_characters="\x7f"))
    | st.decimals(-1000, 1000, places=6).map(float),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["mu", "std", "a"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(plain)
@settings(max_examples=60, deadline=None)
def test_values_read_back_as_they_were(value):
    assert tomllib.loads(f"key = {toml_value(value)}")["key"] == value


def plan(**changes) -> ConfigPlan:
    values = {
        "name": "x", "source": "data", "channel_names": ("T1",), "class_names": None, "classes": 2,
        "network": choose_network((1.0, 1.0, 1.0), gpu=False), "parts": {"training": [], "validation": [], "test": []},
        "test_is": "", "split": "",
    }  # fmt: skip
    return ConfigPlan(**{**values, **changes})


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0)])
def test_every_network_can_be_loaded(tmp_path, gpu, spacing):
    network = choose_network(spacing, gpu=gpu)
    (tmp_path / "model.cfg").write_text(model_text(plan(network=network), None))
    architecture = load_model_config(tmp_path / "model.cfg").architecture
    assert architecture.normal.feature_maps == network.feature_maps
    assert [pathway.factor for pathway in architecture.subsampled] == list(network.factors)
    assert architecture.fc.depth == len(network.fc_feature_maps) + 1


def test_hostile_names_stay_texts():
    name = 'a"]\nmodelName = "b" # \\'
    text = model_text(plan(source=name, channel_names=(name,), class_names=("nothing", name)), None)
    read = tomllib.loads(text)
    assert read["channelNames"] == [name]
    assert read["classNames"] == ["nothing", name]
    assert read["modelName"] == "x"


@pytest.mark.parametrize(
    ("text", "name"), [("Task01_Brain", "Task01_Brain"), ("my data (2)", "my_data_2"), ("../..", "data"), ("ä", "data")]
)
def test_names_for_files(text, name):
    assert safe_name(text) == name


def test_listing_files_of_channels_have_different_names():
    assert slugs(["T1", "t1", "labels", "FLAIR"]) == ["channel1_T1", "channel2_t1", "channel3_labels", "FLAIR"]


def test_results_have_different_names():
    cases = [FoundCase(name, ()) for name in ("a b", "a_b", "..", "c")]
    assert result_names(cases) == ["a_b", "a_b_2", "case", "c"]


def test_paths_are_relative_near_the_configs_and_absolute_elsewhere():
    case = FoundCase("a", (ImageRef(Path("/study/data/a.nii.gz"), 2), ImageRef(Path("/mnt/a.nii")), None))
    planned = plan(channel_names=("T1", "T2", "PD"), parts={"training": [case], "validation": [], "test": []})
    texts = listings(planned, Path("/study/configs"))
    assert texts == {
        "lists/train_T1.cfg": "../../data/a.nii.gz[2]\n",
        "lists/train_T2.cfg": "/mnt/a.nii\n",
        "lists/train_PD.cfg": "-\n",
        "lists/train_names.cfg": "a\n",
    }


def test_the_table_of_all_cases_keeps_channels_in_order_and_subjects_apart():
    image = ImageRef(Path("/study/data/a.nii.gz"), 2)
    channels = tuple("ZYXWVUTSRQP")
    cases = [FoundCase(name, (image,) * 10 + (None,), image) for name in ("a 1", "a 2", "b")]
    subjects = {"a 1": "a/x", "a 2": "a/x", "b": "a x"}
    parts = {"training": cases[:2], "validation": cases[2:], "test": []}
    planned = plan(channel_names=channels, parts=parts, subjects=subjects)
    head, *rows = listings(planned, Path("/study/configs"))["lists/all_cases.csv"].splitlines()
    *columns, labels, subject, name = head.split(",")
    assert columns == sorted(columns) == [f"channel_{n:02}_{channel}" for n, channel in enumerate(channels, 1)]
    assert (labels, subject, name) == ("ground_truth", "subject", "prediction_filename")
    assert [row.split(",")[9:] for row in rows] == [
        ["../../data/a.nii.gz[2]", "-", "../../data/a.nii.gz[2]", *last]
        for last in (["a_x", "a_1"], ["a_x", "a_2"], ["a_x_2", "b"])
    ]
