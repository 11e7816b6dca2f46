"""Running sums of a subepoch, whole and interrupted."""

import json

import pytest
import torch

from deepmedic.training.tally import SubepochTally

CPU = torch.device("cpu")


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1000, (3, 4), generator=generator), torch.rand((), generator=generator)


def test_counts_are_added_and_costs_averaged():
    tally = SubepochTally(3, CPU)
    batches = [batch(seed) for seed in range(4)]
    for counts, cost in batches:
        tally.add(counts, cost)
    record = tally.record()
    assert [list(row) for row in record.counts] == sum(counts for counts, _ in batches).tolist()
    assert record.cost == pytest.approx(sum(cost.item() for _, cost in batches) / 4)


def test_validation_has_no_cost():
    tally = SubepochTally(3, CPU)
    tally.add(batch(0)[0])
    assert tally.record().cost is None


def test_counts_do_not_overflow_32_bits():
    tally = SubepochTally(2, CPU)
    for _ in range(3):
        tally.add(torch.full((2, 4), 2**31 - 1, dtype=torch.int32))
    assert tally.record().counts[0][0] == 3 * (2**31 - 1)


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_tally_restored_half_way_ends_as_the_uninterrupted_one(cut):
    whole, part = SubepochTally(3, CPU), SubepochTally(3, CPU)
    for seed in range(7):
        whole.add(*batch(seed))
        if seed == cut:
            part = SubepochTally.from_plain(json.loads(json.dumps(part.to_plain())), CPU)
        part.add(*batch(seed))
    assert part.record() == whole.record()
    assert part.to_plain() == whole.to_plain()


def test_costs_that_need_gradients_leave_no_graph_behind():
    tally = SubepochTally(3, CPU)
    tally.add(batch(0)[0], torch.ones((), requires_grad=True) * 2)
    assert tally.record().cost == 2.0
    assert not tally._cost.requires_grad
