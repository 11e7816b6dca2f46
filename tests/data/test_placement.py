import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data.placement import Block, Placement


def placed(*lengths, capacity=100):
    placement = Placement()
    for key, length in enumerate(lengths):
        placement.place(key, length, capacity)
    return placement


def test_blocks_follow_each_other():
    placement = placed(3, 5)
    assert placement[1] == Block(3, 5)
    assert (placement.used, placement.end) == (8, 8)


def test_first_gap_that_is_large_enough_is_taken():
    placement = placed(3, 2, 5, 4, 1)
    placement.remove(1)
    placement.remove(3)  # gaps of 2 at 3, of 4 at 10
    assert placement.gap(2, 100) == 3
    assert placement.gap(3, 100) == 10
    assert placement.gap(5, 100) == 15
    assert placement.gap(5, 19) is None


def test_no_gap_to_place_into():
    with pytest.raises(ValueError, match="No gap of 3 elements in 5"):
        placed(3, 3, capacity=5)


def test_least_recently_used_goes_first():
    placement = placed(4, 4, 4)
    placement.touch([0])
    placement.touch([2])
    assert placement.first_to_go(2, 10, set(), {}) == [1]
    assert placement.first_to_go(6, 12, set(), {}) == [1, 0]
    assert placement.first_to_go(6, 12, {1}, {}) == [0, 2]


def test_what_is_wanted_last_goes_first():
    placement = placed(4, 4, 4, 4)
    placement.touch([3])
    next_use = {0: 1, 1: 5, 2: 0}  # 3 is not wanted, although it was used last
    assert placement.first_to_go(4, 16, set(), next_use) == [3]
    assert placement.first_to_go(16, 16, set(), next_use) == [3, 1, 0, 2]
    assert placement.first_to_go(5, 16, {3}, next_use) == [1, 0]


def test_nothing_goes_when_there_is_room():
    assert placed(4).first_to_go(6, 10, set(), {}) == []


def test_nothing_goes_when_that_would_not_help():
    assert placed(4, 4).first_to_go(6, 10, {0}, {}) == [1]
    assert placed(4, 4).first_to_go(7, 10, {0}, {}) is None


def test_gaps_that_meet_become_one():
    placement = placed(3, 2, 5, 4, 1)
    for key in (1, 3, 2):
        placement.remove(key)
    assert placement.gap(11, 100) == 3
    placement.remove(4)
    assert (placement.end, placement.used) == (3, 3)
    placement.remove(0)
    assert placement.place("all", 100, 100) == Block(0, 100)


def test_compaction_moves_what_lies_after_a_gap():
    placement = placed(3, 2, 5, 4)
    placement.remove(1)
    assert placement.compact() == [(Block(5, 5), Block(3, 5)), (Block(10, 4), Block(8, 4))]
    assert placement.end == placement.used == 12
    assert placement.compact() == []


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("prc"), st.integers(1, 9)), max_size=30))
def test_contents_follow_their_blocks(steps):
    """Placing, removing and compacting never overlaps two blocks; a line of cells shows it."""
    placement, line, lengths = Placement(), [None] * 60, {}
    for number, (step, size) in enumerate(steps):
        if step == "p" and placement.gap(size, 60) is not None:
            block = placement.place(number, size, 60)
            assert line[block.start : block.end] == [None] * size
            line[block.start : block.end] = [number] * size
            lengths[number] = size
        elif step == "r" and lengths:
            key = min(lengths)
            line = [None if cell == key else cell for cell in line]
            placement.remove(key)
            del lengths[key]
        elif step == "c":
            for source, target in placement.compact():
                cells = line[source.start : source.end]
                line[source.start : source.end] = [None] * source.length
                line[target.start : target.end] = cells
            assert placement.end == placement.used
    for key, length in lengths.items():
        block = placement[key]
        assert line[block.start : block.end] == [key] * length
