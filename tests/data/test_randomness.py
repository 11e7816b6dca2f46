import subprocess
import sys
from pathlib import Path

from deepmedic.data.randomness import SubepochId, stream

ROOT = Path(__file__).parents[2]


def first(*purpose):
    return stream(0, *purpose).integers(0, 2**62)


def test_same_purpose_same_numbers():
    one, other = SubepochId(3, "train", 2, 1).stream("order"), SubepochId(3, "train", 2, 1).stream("order")
    assert one.random(5).tolist() == other.random(5).tolist()


def test_every_part_of_the_purpose_counts():
    ids = [SubepochId(0, "train", 0, 0), SubepochId(1, "train", 0, 0), SubepochId(0, "val", 0, 0)]
    ids += [SubepochId(0, "train", 1, 0), SubepochId(0, "train", 0, 1), SubepochId(0, "train", 0, 10)]
    numbers = [subepoch.stream("order").integers(0, 2**62) for subepoch in ids]
    numbers += [ids[0].stream("cases").integers(0, 2**62), ids[0].stream("centres", 1).integers(0, 2**62)]
    assert len(set(numbers)) == len(numbers)


def test_parts_do_not_run_into_each_other():
    assert len({first(1, 11), first(11, 1), first(111), first("1", 11), first("1\nint:11")}) == 5


def test_numbers_do_not_depend_on_the_process():
    """Python's own hash of a string differs from process to process; this must not."""
    code = "from deepmedic.data.randomness import stream; print(stream(0, 'train', 4).integers(0, 2**62))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(shown.stdout) == first("train", 4)
