"""The configs in `configs/`: they load, fit together, and are the original's architectures."""

from pathlib import Path

import pytest

from deepmedic.config.load import (
    config_kind,
    load_analysis_config,
    load_model_config,
    load_test_config,
    load_train_config,
)

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*/*.cfg"))
LISTS = CONFIGS.parent / "examples" / "lists"
THREE = (3, 3, 3)


def model_of(folder: Path):
    return load_model_config(folder / "model.cfg")


def test_all_are_there():
    assert {str(path.relative_to(CONFIGS)) for path in FILES} >= {
        "tiny/model.cfg",
        "tiny/train.cfg",
        "tiny/train_with_validation.cfg",
        "tiny/test.cfg",
        "deepmedic/model.cfg",
        "deepmedic/model_wide.cfg",
        "deepmedic/train.cfg",
        "deepmedic/test.cfg",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_loads_without_a_note_and_fits_its_model(path):
    kind = config_kind(path)
    assert path.stem.startswith(("test", "layers") if kind == "test" else kind)  # layers are looked at with test cases
    if kind == "model":
        config = load_model_config(path)
    elif kind == "train":
        config = load_train_config(path, model=model_of(path.parent))
    elif kind == "analysis":
        config = load_analysis_config(path)
    else:
        config = load_test_config(path, model=model_of(path.parent))
    assert config.source.dialect == "toml"
    assert config.source.notes == ()


SESSIONS = [path for path in FILES if not path.stem.startswith("model")]


def load_session(path: Path):
    if path.stem.startswith("analysis"):
        return load_analysis_config(path)
    return load_train_config(path) if path.stem.startswith("train") else load_test_config(path)


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_sessions_normalise_all_channels(path):
    assert load_session(path).preprocessing.zscore.all_channels


@pytest.mark.parametrize("folder", ["tiny", "deepmedic"])
def test_training_and_inference_normalise_alike(folder):
    sessions = [load_session(path) for path in SESSIONS if path.parent.name == folder]
    assert len({session.preprocessing.zscore for session in sessions}) == 1


@pytest.mark.parametrize(
    "path",
    [path for path in SESSIONS if path.parent.name in ("tiny", "deepmedic")],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_sessions_read_the_lists_of_the_examples(path):
    config = load_session(path)
    purpose = path.stem.split("_")[0]
    assert config.data.channels == (LISTS / f"{purpose}_t1.cfg",)
    assert config.data.labels == LISTS / f"{purpose}_labels.cfg"
    assert config.data.roi_masks == LISTS / f"{purpose}_masks.cfg"
    if purpose == "test":
        assert config.data.names == LISTS / "test_names.cfg"
    elif config.validate_on_volumes:
        assert config.validation_data.channels == (LISTS / "validation_t1.cfg",)
        assert config.validation_data.names == LISTS / "validation_names.cfg"


def test_tiny_is_the_tiny_network_of_the_original():
    config = model_of(CONFIGS / "tiny")
    architecture = config.architecture
    assert architecture.normal.feature_maps == (4, 5, 6)
    assert architecture.normal.kernels == (THREE,) * 3
    assert [pathway.factor for pathway in architecture.subsampled] == [THREE]
    assert architecture.fc.feature_maps == (4,)
    assert architecture.fc.dropout_rates == (0.5,)
    assert config.segment_size_train == (25, 25, 25)
    assert config.segment_size_inference == (45, 45, 45)
    assert config.channel_names == ("T1",)
    assert config.class_names == ("background", "CSF", "grey matter", "white matter")


@pytest.mark.parametrize(
    ("name", "parallel", "hidden"),
    [
        ("model", (30, 30, 40, 40, 40, 40, 50, 50), (250, 250)),
        ("model_wide", (30, 40, 50, 60, 70, 80, 90, 100), (300, 300)),
    ],
)
def test_deepmedic_is_the_three_pathway_network_of_the_original(name, parallel, hidden):
    config = load_model_config(CONFIGS / "deepmedic" / f"{name}.cfg")
    architecture = config.architecture
    assert [pathway.factor for pathway in architecture.parallel] == [(1, 1, 1), THREE, (5, 5, 5)]
    for pathway in architecture.parallel:
        assert pathway.feature_maps == parallel
        assert pathway.kernels == (THREE,) * 8
        assert pathway.residual_layers == (4, 6, 8)
        assert pathway.paddings == ("valid",) * 8
        assert pathway.dropout_rates == (0.0,) * 8
    assert architecture.fc.feature_maps == (*hidden, 4)
    assert architecture.fc.kernels == (THREE, (1, 1, 1), (1, 1, 1))
    assert architecture.fc.paddings == ("mirror", "valid", "valid")
    assert architecture.fc.residual_layers == (2,)
    assert architecture.fc.dropout_rates == (0.0, 0.5, 0.5)
    assert architecture.receptive_field == (19, 19, 19)
    assert config.segment_size_train == (37, 37, 37)
    assert config.segment_size_validation == (17, 17, 17)
    assert architecture.input_sizes((37, 37, 37)) == ((37,) * 3, (23,) * 3, (21,) * 3)


def test_the_sessions_have_the_settings_of_the_original():
    tiny = load_train_config(CONFIGS / "tiny" / "train_with_validation.cfg")
    assert (tiny.epochs, tiny.subepochs, tiny.segments_per_subepoch, tiny.batch_size) == (2, 2, 1000, 10)
    assert tiny.schedule.kind == "poly"
    assert tiny.sampling.kind == 0
    assert tiny.augmentation.image.probability == 0.7
    assert tiny.augmentation.segment.rotate90["xy"] == pytest.approx((0.8, 0.1, 0.0, 0.1))
    assert tiny.validation_segments == 5000
    default = load_train_config(CONFIGS / "deepmedic" / "train.cfg")
    assert default.schedule.predefined_epochs == (17, 22, 27, 30, 33)
    assert default.sampling.kind == 3
    assert (default.optimizer.kind, default.optimizer.normalized_momentum) == (2, 0)
    assert default.augmentation.image.probability == 0.0
    assert default.augmentation.segment.reflect == (0.5, 0.0, 0.0)
    assert default.epochs_between_volume_validation == 5
