"""Which feature maps a config selects."""

from __future__ import annotations

from deepmedic.config.sections import OutputConfig
from deepmedic.inference.feature_maps import selected_feature_maps

RANGES = {
    "feature_maps_normal": ((), (1, 3)),
    "feature_maps_subsampled": ((0, 1), ()),
    "feature_maps_fc": ((0, 9999), (5, 9)),
}


def test_ranges_are_limited_to_what_exists(make_net) -> None:
    architecture = make_net(((3, 3, 3), (5, 5, 5))).architecture
    selected = selected_feature_maps(architecture, OutputConfig(save_feature_maps=True, **RANGES))
    assert selected == {0: {1: (1, 3)}, 1: {0: (0, 1)}, 2: {0: (0, 1)}, 3: {0: (0, 6)}}


def test_nothing_is_selected_unless_asked_for(make_net) -> None:
    architecture = make_net().architecture
    assert selected_feature_maps(architecture, OutputConfig(save_feature_maps=False, **RANGES)) == {}
    assert selected_feature_maps(architecture, OutputConfig(save_feature_maps=True)) == {}
