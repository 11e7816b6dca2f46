"""Loops that numba compiles: what is kept on disk, threads, and machines and programs where they cannot be used."""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import pytest
import torch
from torch import Tensor

from deepmedic.model import compilation
from deepmedic.model.compilation import Kernel

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
import numba
def multiplied(numbers, mask, result):
    for index in numba.prange(len(numbers)):
        kept = 1 if mask is None else mask[index]
        result[index] = {factor} * numbers[index] * kept
def sum_of_products(one, two, three, four, result):
    for index in numba.prange(len(result)):
        result[index] = one[index] * two[index] + three[index] * four[index]
def count_threads(result):
    for index in numba.prange(len(result)):
        result[index] = numba.get_num_threads()
"""
NUMBERS = torch.arange(1000.0)
MASK = torch.arange(1000, dtype=torch.uint8) % 2


@dataclass
class Folder:
    """A source file whose time and size never change, and what numba keeps of its functions."""

    source: Path
    cache: Path

    def kernel(self, name: str = "multiplied", *, factor: int = 2) -> Kernel:
        """The kernel as another process would make it."""
        self.source.write_text(SOURCE.format(factor=factor))
        os.utime(self.source, (1e9, 1e9))
        specification = importlib.util.spec_from_file_location(self.source.stem, self.source)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, self.source.stem, module)
            patch.setattr(numba.config, "CACHE_DIR", str(self.cache))
            return Kernel(getattr(module, name))

    def kept(self, pattern: str) -> list[Path]:
        found = sorted(self.cache.rglob(pattern))
        assert found
        return found


def product(kernel: Kernel, mask: Tensor | None = None) -> Tensor:
    result = torch.empty_like(NUMBERS)
    kernel(NUMBERS, mask, result)
    return result


def taken_from_disk(kernel: Kernel) -> int:
    return sum(kernel._compiled.stats.cache_hits.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """With code for two types of arguments."""
    folder = tmp_path_factory.mktemp("kernels")
    whole = Folder(folder / "loops_of_a_test.py", folder / "cache")
    kernel = whole.kernel()
    for mask in (None, MASK):
        product(kernel, mask)
    assert len(whole.kept("*.nbc")) == 2
    return whole


@pytest.fixture
def folder(whole: Folder, tmp_path: Path) -> Folder:
    shutil.copytree(whole.cache, tmp_path / "cache")
    return Folder(whole.source, tmp_path / "cache")


class TestWhatIsKept:
    def test_is_used_by_the_next_process(self, folder: Folder) -> None:
        kernel = folder.kernel()
        assert torch.equal(product(kernel), 2 * NUMBERS)
        assert torch.equal(product(kernel, MASK), 2 * NUMBERS * MASK)
        assert taken_from_disk(kernel) == 2

    def test_is_not_used_for_another_source_whatever_the_time_of_its_file(self, folder: Folder) -> None:
        kernel = folder.kernel(factor=3)
        assert torch.equal(product(kernel), 3 * NUMBERS)
        assert taken_from_disk(kernel) == 0

    @pytest.mark.parametrize(
        ("pattern", "damage"),
        [
            ("*.nbi", lambda content: b""),
            ("*.nbc", lambda content: content[:-9]),
            ("*.nb?", lambda content: pickle.dumps(["no machine code"])),
        ],
        ids=["empty index", "code cut off", "something else"],
    )
    def test_is_removed_where_it_is_damaged(self, folder: Folder, pattern: str, damage) -> None:
        for path in folder.kept(pattern):
            path.write_bytes(damage(path.read_bytes()))
        self.assert_removed(folder)

    def test_is_removed_where_it_is_code_for_other_arguments(self, folder: Folder) -> None:
        """As two processes can leave it that keep code at the same moment."""
        without, _ = folder.kept("*.nbc")
        for path in folder.kept("*.nbc"):
            if path != without:
                shutil.copy(path, without)
        self.assert_removed(folder)

    def assert_removed(self, folder: Folder) -> None:
        """One process does without it, the next one at the latest keeps its code anew, and the third one uses that."""
        hits = []
        for _ in range(3):
            kernel = folder.kernel()
            assert torch.equal(product(kernel), 2 * NUMBERS)
            hits.append(taken_from_disk(kernel))
        assert (hits[0], hits[2]) == (0, 1)

    def test_is_nothing_where_nothing_can_be_written(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(folder.cache)
        for no_folder in (folder.cache, folder.source.parent / "__pycache__"):
            shutil.rmtree(no_folder, ignore_errors=True)
            no_folder.touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder.cache))
        kernel = folder.kernel()
        assert torch.equal(product(kernel), 2 * NUMBERS)
        assert kernel._compiled.stats.cache_path is None

    def test_is_nothing_where_the_disk_became_full(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        kernel = folder.kernel(factor=5)
        shutil.rmtree(folder.cache)
        folder.cache.touch()
        assert torch.equal(product(kernel), 5 * NUMBERS)


def test_every_number_is_rounded_by_itself(folder: Folder) -> None:
    """Otherwise code that is compiled now and the same from disk differ in the last digits."""
    numbers = torch.randn(4, 10_000, generator=torch.Generator().manual_seed(0))
    result = torch.empty(10_000)
    folder.kernel("sum_of_products")(*numbers.unbind(), result)
    one, two, three, four = numbers.numpy()
    assert result.numpy().tobytes() == (one * two + three * four).tobytes()


class TestThreads:
    @pytest.mark.filterwarnings("ignore:Cannot cache")
    @pytest.mark.parametrize("count", [1, 2])
    def test_are_as_many_as_torch_has(self, folder: Folder, count: int) -> None:
        torch.set_num_threads(count)
        result = torch.empty(3)
        folder.kernel("count_threads")(result)
        assert result.tolist() == [min(count, numba.config.NUMBA_NUM_THREADS)] * 3

    @pytest.mark.parametrize("count", [1, numba.config.NUMBA_NUM_THREADS])
    def test_of_a_program_that_uses_numba_itself_are_left_as_they_were(self, folder: Folder, count: int) -> None:
        before = numba.get_num_threads()
        try:
            numba.set_num_threads(count)
            product(folder.kernel())
            assert numba.get_num_threads() == count
        finally:
            numba.set_num_threads(before)

    def test_of_python_may_compute_at_the_same_time(self, folder: Folder) -> None:
        kernel = folder.kernel()

        def is_right(number: int) -> bool:
            torch.set_num_threads(1 + number % 2)
            mask = MASK if number % 3 else None
            return torch.equal(product(kernel, mask), 2 * NUMBERS * (1 if mask is None else mask))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(is_right, range(24)))


def test_bfloat16_becomes_the_upper_halves_of_float32() -> None:
    values = torch.tensor([1.0, -2.5, float("inf"), -0.0])
    halves = compilation._as_arrays(values.bfloat16().requires_grad_())
    assert halves.dtype == "uint16"
    assert halves.tolist() == (values.numpy().view("uint32") >> 16).tolist()


class TestWithoutIt:
    """Everything is computed by torch alone where numba is no help, and why is told unless it was asked for."""

    @pytest.fixture(autouse=True)
    def _look_anew(self) -> Iterator[None]:
        compilation._process_with_threads.cache_clear()
        yield
        compilation._process_with_threads.cache_clear()

    @pytest.fixture
    def told(self, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
        caplog.set_level("INFO", logger="deepmedic")
        return lambda: [record.getMessage() for record in caplog.records]

    def test_absent(self, monkeypatch: pytest.MonkeyPatch, told) -> None:
        monkeypatch.setitem(sys.modules, "numba", None)
        assert (compilation.is_possible(), told()) == (False, [])

    def test_switched_off(self, monkeypatch: pytest.MonkeyPatch, told) -> None:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
        assert (compilation.is_possible(), told()) == (False, [])

    def test_broken(self, monkeypatch: pytest.MonkeyPatch, told) -> None:
        def fail() -> None:
            raise OSError("Could not find libllvmlite.so")

        monkeypatch.setattr(numba, "get_num_threads", fail)
        assert not compilation.is_possible()
        [message] = told()
        assert "cannot be used, so that networks are slower: Could not find libllvmlite.so" in message

    def test_threads_for_one_thread_of_python_alone(self, monkeypatch: pytest.MonkeyPatch, told) -> None:
        monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
        assert not compilation.is_possible()
        [message] = told()
        assert 'its threading layer is "workqueue", which only one thread may use' in message


SCRIPT = """
import os, sys, torch
from deepmedic.model import compilation, compiled_rows
threads = torch.get_num_threads()
images = torch.arange(4000.0).view(2, 4, 5, 10, 10)
possible = compilation.is_possible(), compiled_rows.takes(images)
def mean():
    from deepmedic.model.normalization import RollingBatchNorm
    return RollingBatchNorm(4, 1, 1e-5).batch_statistics(images)[0].tolist()
assert mean() == [1249.5, 1749.5, 2249.5, 2749.5], mean()
print(*possible, threads == torch.get_num_threads())
if possible[0]:
    import numba
    print(numba.threading_layer(), numba.config.THREADING_LAYER)
sys.stdout.flush()
child = os.fork()
if child == 0:
    print(compilation.is_possible(), mean()[0])
    sys.stdout.flush()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_processes_of_several_kinds_that_start_at_the_same_time(tmp_path: Path) -> None:
    """With nothing on disk yet; each of them then makes a copy of itself, whose threads are not those of numba."""
    settings = [{}, {}, {"NUMBA_THREADING_LAYER": "workqueue"}]
    common = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    running = [
        subprocess.Popen(command, env=os.environ | common | own, stdout=subprocess.PIPE, text=True) for own in settings
    ]
    answers = [process.communicate(timeout=300)[0].split("\n") for process in running]
    compiled = ["True True True", "omp default", "False 1249.5", "0", ""]
    assert answers[:2] == [compiled] * 2
    assert answers[2] == ["False False True", "False 1249.5", "0", ""]
