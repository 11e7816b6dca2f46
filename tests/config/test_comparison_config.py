"""Comparison configs: what is refused before anything else is read."""

import pytest

from deepmedic.config.load import load_comparison_config
from deepmedic.errors import DeepMedicError

GIVEN = {
    "folderForOutput": '"out"',
    "sourceModels": '["A.save"]',
    "modelConfigs": '["model.cfg"]',
    "trainConfig": '"train.cfg"',
}


@pytest.fixture
def load(tmp_path):
    def load(**changes):
        path = tmp_path / "compare.cfg"
        path.write_text("".join(f"{key} = {value}\n" for key, value in {**GIVEN, **changes}.items()))
        return load_comparison_config(path)

    return load


def test_defaults_and_paths(load, tmp_path) -> None:
    config = load()
    assert [arm.name for arm in config.arms] == ["WT", "ST", "RI"]
    assert config.seeds == (0, 1, 2, 3, 4)
    assert config.sources == (tmp_path / "A.save",)
    assert config.case_counts is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initialisations": '["WT", "SW"]'}, "initialisations: found 'SW'; allowed: \"WT\" (weights)"),
        ({"initialisations": '["RI"]'}, "initialisations: found only RI; add one that transfers, such as WT"),
        ({"seeds": "[0, 1, 0]"}, "seeds: found 0 more than once; name each once"),
        ({"seeds": "[-1]"}, "seeds"),
        ({"numbersOfTrainingCases": "[2, 2]"}, "numbersOfTrainingCases: found 2 more than once"),
        ({"domainDistances": "[0.1, 0.2]"}, "domainDistances: found 2 numbers for 1 sourceModels; give one for each"),
        ({"sessionName": '"a/b"'}, "sessionName"),
        ({"learningRate": "0.1"}, "learningRate"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_refused_with_the_key(load, changes, message) -> None:
    with pytest.raises(DeepMedicError) as refusal:
        load(**changes)
    assert refusal.value.exit_code == 3
    assert message in str(refusal.value)
