"""Choosing a device never passes over a GPU in silence; settings of torch are put back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from deepmedic import devices, nvidia
from deepmedic.config.sections import ExecutionConfig
from deepmedic.errors import CommandLineError, ResourceError
from deepmedic.nvidia import NvidiaDriver
from deepmedic.words import counted

CPU = torch.device("cpu")
DRIVER = NvidiaDriver("535.104", ("NVIDIA H200",))


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with a driver and with GPUs of so much free memory."""

    def pretend(driver=None, free=(), hidden=None):
        monkeypatch.setattr(nvidia, "find_driver", lambda: driver)
        monkeypatch.setattr(nvidia, "hidden_by_environment", lambda: hidden)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index], 0))
        monkeypatch.setattr(devices, "_usable", lambda device: device)

    return pretend


@pytest.mark.parametrize("wanted", ["cpu", "CPU"])
def test_cpu_needs_no_look_at_gpus(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("was asked"))
    assert devices.choose_device(wanted) == CPU


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("auto", 1), ("cuda", 1), ("gpu", 1), ("cuda0", 0), ("cuda2", 2), ("CUDA:2", 2), ("gpu0", 0)],
)
def test_named_gpu_or_the_one_with_most_free_memory(machine, wanted, index):
    machine(DRIVER, free=(3, 9, 5))
    assert devices.choose_device(wanted) == torch.device("cuda", index)


def test_gpu_whose_memory_cannot_be_read_is_left_out(machine, monkeypatch, caplog):
    machine(DRIVER, free=(3, 9))

    def broken(index):
        if index == 1:
            raise RuntimeError("ECC error")
        return 3, 0

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert devices.choose_device("auto") == torch.device("cuda", 0)
    assert "cuda1 was left out: ECC error" in caplog.text


def test_auto_is_the_cpu_where_there_is_no_gpu(machine):
    machine()
    assert devices.choose_device("auto") == CPU


def test_auto_is_the_cpu_where_gpus_are_hidden_on_purpose(machine):
    machine(DRIVER, hidden="")
    assert devices.choose_device("auto") == CPU


@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda3"])
def test_gpu_that_torch_cannot_use_is_refused_with_the_remedy(machine, wanted):
    machine(DRIVER)
    with pytest.raises(ResourceError) as refusal:
        devices.choose_device(wanted)
    for text in (
        "NVIDIA H200 with driver 535.104",
        f"torch {torch.__version__}",
        f"torch=={torch.__version__.split('+')[0]} --index-url https://download.pytorch.org/whl/cu126",
        "-dev cpu",
    ):
        assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("driver", "hidden", "reason"),
    [(None, None, "no NVIDIA driver was found"), (DRIVER, "-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU")],
)
def test_gpu_asked_for_and_absent_is_refused(machine, driver, hidden, reason):
    machine(driver, hidden=hidden)
    with pytest.raises(ResourceError, match="-dev cuda0: there is no CUDA device here") as refusal:
        devices.choose_device("cuda0")
    assert reason in str(refusal.value)


def test_number_that_the_machine_does_not_have(machine):
    machine(DRIVER, free=(1, 1))
    with pytest.raises(
        ResourceError, match=r"-dev cuda5: this machine has 2 CUDA device\(s\); allowed are cuda0, cuda1"
    ):
        devices.choose_device("cuda5")


def test_other_words_are_refused():
    with pytest.raises(CommandLineError, match="-dev tpu: allowed are cpu, cuda, cuda0"):
        devices.choose_device("tpu")


class TestProbe:
    """A GPU is tried with a small sum before it is used."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
        monkeypatch.setattr(nvidia, "find_driver", lambda: DRIVER)

    @pytest.mark.parametrize(
        ("error", "texts"),
        [
            (
                RuntimeError("no kernel image is available"),
                ["Tesla V100 (compute capability 7.0, driver 535.104)", "sm_80 sm_90", "no kernel image", "cu126"],
            ),
            (torch.OutOfMemoryError("CUDA out of memory."), ["has no free memory: CUDA out of memory.", "-dev cpu"]),
            # not even for what the driver itself needs on a GPU
            (
                RuntimeError("CUDA error: out of memory\nCUDA kernel errors ..."),
                ["no free memory: CUDA error", "-dev cpu"],
            ),
            (
                RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for ..."),
                ["cuda:0 is in use by another program", "choose another device"],
            ),
        ],
    )
    def test_gpu_that_cannot_compute_is_refused(self, monkeypatch, error, texts):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(torch, "ones", fail)
        with pytest.raises(ResourceError) as refusal:
            devices._usable(torch.device("cuda", 0))
        assert all(text in str(refusal.value) for text in texts)
        assert ("Install a build" in str(refusal.value)) == ("no kernel" in str(error))

    def test_gpu_that_computes_wrongly_is_refused(self, monkeypatch):
        monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.full((8,), 1.5))
        with pytest.raises(ResourceError, match=r"gives wrong sums \(16 expected, found 24.0\)"):
            devices._usable(torch.device("cuda", 0))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("FIND was unable to find an engine to execute this computation after trying 8 plans."),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154'),
        RuntimeError("could not create a primitive"),
    ],
    ids=str,
)
def test_what_counts_as_out_of_memory(error):
    assert devices.is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("size mismatch"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_what_does_not(error):
    assert not devices.is_out_of_memory(error)


def test_memory_that_the_system_does_not_give_counts():
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(2**50)
    assert devices.is_out_of_memory(refusal.value)


class TestNumerics:
    @staticmethod
    def settings():
        backends = torch.backends
        return (
            backends.cuda.matmul.allow_tf32,
            backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            backends.cudnn.benchmark,
        )

    @pytest.mark.parametrize(
        ("execution", "inside"),
        [
            (ExecutionConfig(), (False, False, True, False)),
            (ExecutionConfig(precision="tf32"), (True, True, True, False)),
            (ExecutionConfig(precision="bf16", deterministic=False), (False, False, False, True)),
        ],
    )
    def test_they_hold_inside_the_block_only(self, execution, inside):
        before = self.settings()
        with devices.session_numerics(CPU, execution):
            assert self.settings() == inside
        assert self.settings() == before

    def test_they_are_put_back_after_an_error(self):
        before = self.settings()
        with pytest.raises(ZeroDivisionError), devices.session_numerics(CPU, ExecutionConfig(precision="tf32")):
            raise ZeroDivisionError
        assert self.settings() == before

    @pytest.mark.parametrize(
        ("kind", "wanted", "expected"),
        [("cpu", None, True), ("cuda", None, False), ("cuda", True, True), ("cpu", False, False)],
    )
    def test_determinism_is_the_default_on_a_cpu(self, kind, wanted, expected):
        assert devices.is_deterministic(torch.device(kind), ExecutionConfig(deterministic=wanted)) is expected

    @pytest.mark.parametrize("deterministic", [True, False, None])
    def test_deterministic_cublas_needs_a_fixed_workspace_from_its_first_use_on(self, monkeypatch, deterministic):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        with devices.session_numerics(torch.device("cuda"), ExecutionConfig(deterministic=deterministic)):
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"

    def test_bf16_computes_convolutions_in_bfloat16(self):
        weight = torch.randn(2, 3, 3, 3, 3)
        with devices.numerical_precision("bf16", CPU):
            assert torch.nn.functional.conv3d(torch.randn(1, 3, 5, 5, 5), weight).dtype == torch.bfloat16


@pytest.mark.parametrize("searches", [False, True])
def test_kernels_are_searched_for_sizes_that_come_again_only(searches):
    with devices.session_numerics(CPU, ExecutionConfig(deterministic=not searches)):
        with devices.kernels_for(recurring=True):
            assert torch.backends.cudnn.benchmark is searches
        with devices.kernels_for(recurring=False):
            assert torch.backends.cudnn.benchmark is False
        assert torch.backends.cudnn.benchmark is searches


class OnGpu:
    """As much of a tensor on a GPU as copying it takes."""

    device, dtype, shape, nbytes = torch.device("cuda", 0), torch.float32, (3,), 12

    def cpu(self):
        return "by the driver's buffer"


class TestToHost:
    def test_on_the_cpu_nothing_is_copied(self):
        values = torch.ones(3)
        assert devices.to_host(values).data_ptr() == values.data_ptr()

    def test_a_gpu_copies_to_memory_that_it_can_write(self, monkeypatch):
        made = []

        class Pinned:
            def __init__(self, shape, **chosen):
                made.append((shape, chosen))

            def copy_(self, values):
                return self, values

        monkeypatch.setattr(torch, "empty", Pinned)
        values = OnGpu()
        host, copied = devices.to_host(values)
        assert copied is values
        assert isinstance(host, Pinned)
        assert made == [((3,), {"dtype": torch.float32, "pin_memory": True})]

    def test_without_such_memory_it_goes_the_long_way(self, monkeypatch):
        def refuse(*_, **__):
            raise RuntimeError("cudaHostAlloc failed")

        monkeypatch.setattr(torch, "empty", refuse)
        assert devices.to_host(OnGpu()) == "by the driver's buffer"


def test_description_names_the_device():
    assert devices.describe(CPU) == f"CPU with {counted(torch.get_num_threads(), 'thread')}"


def test_generator_is_seeded_as_torch_does_it():
    torch.manual_seed(2**62 + 5)
    expected = torch.rand(7)
    torch.rand(1)
    devices.seed_generator(CPU, 2**62 + 5)
    assert torch.equal(torch.rand(7), expected)


def test_freed_memory_is_used_again() -> None:
    """A large block that was freed comes back at the same place, with no page to be filled with zeros again."""
    program = (
        "import resource, torch\n"
        "from deepmedic.devices import reuse_freed_memory\n"
        "reuse_freed_memory()\n"
        "def pages():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10):\n"
        "        torch.ones(2**24)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "pages()\n"
        "print(pages() * resource.getpagesize() < 2**24)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", done.stderr


def test_memory_that_one_thread_frees_is_used_by_the_next() -> None:
    """However large the block is, and although the thread has ended."""
    program = (
        "import resource, torch\n"
        "from threading import Thread\n"
        "from deepmedic.devices import reuse_freed_memory\n"
        "reuse_freed_memory()\n"
        "def pages():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5):\n"
        "        thread = Thread(target=torch.ones, args=(2**25,))\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "pages()\n"
        "print(pages() * resource.getpagesize() < 2**25)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", done.stderr


def test_freed_memory_goes_back_when_it_is_asked_for():
    program = (
        "import torch\n"
        "from pathlib import Path\n"
        "from deepmedic.devices import return_freed_memory, reuse_freed_memory\n"
        "reuse_freed_memory()\n"
        "def resident():\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "before = resident()\n"
        "volumes = [torch.ones(2**22) for _ in range(6)]\n"
        "volumes = None\n"
        "kept = resident()\n"
        "return_freed_memory()\n"
        "print(kept - before > 2**26, resident() - before < 2**24)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True", done.stderr


def test_another_c_library_is_no_error(monkeypatch):
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: object())
    assert devices.return_freed_memory() is None
