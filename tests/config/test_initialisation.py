"""Names of initialisations."""

import pytest

from deepmedic.config.initialisation import Initialisation


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("RI", set()),
        ("WT", {("normal", 1), ("normal", 2), ("fc", 3)}),
        ("ST", set()),
        ("shuffle", set()),
        ("WT-ST-0", set()),
        ("WT-ST-1", {("normal", 1)}),
        ("WT-shuffle-2", {("normal", 1), ("normal", 2)}),
        ("WT-ST-3", {("normal", 1), ("normal", 2), ("fc", 3)}),
        ("WT-ST-fc", {("fc", 3)}),
        ("WT-ST-subsampled12", set()),
    ],
)
def test_which_layers_keep_their_weights(name, kept) -> None:
    initialisation = Initialisation.of(name)
    assert initialisation.name == name
    assert {layer for layer in (("normal", 1), ("normal", 2), ("fc", 3)) if initialisation.keeps(*layer)} == kept


@pytest.mark.parametrize("name", ["", "wt", "WT-ST", "WT-ST--1", "ST-3", "WT-ST-left", "WT-WT-2", "WT-ST-2 "])
def test_others_are_refused_with_those_that_there_are(name) -> None:
    with pytest.raises(ValueError, match=r"found '.*'; allowed: \"WT\" \(weights\), \"ST\""):
        Initialisation.of(name)
