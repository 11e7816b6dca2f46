"""`-selfTest`: passes here, fails with any fault planted, and says so."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from deepmedic import cli, devices, nvidia
from deepmedic.data import preprocessing, segments
from deepmedic.model import activation, compilation, compiled_rows, layers, normalization, parameters
from deepmedic.sessions.selftest import (
    selftest,
    selftest_convolutions,
    selftest_numbers,
    selftest_reference,
    selftest_resume,
    selftest_volumes,
)
from deepmedic.sessions.selftest.selftest_reference import Check, Comparison, NotTestedError
from deepmedic.training.optimisers import Optimiser

DATA = Path(selftest.__file__).parent / "data"
CPU = torch.device("cpu")
LARGEST_DATA = 600_000


def rows(report: str) -> dict[str, str]:
    """Result by name of check."""
    lines = report.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("check "))
    width = lines[first].index("compared with")
    table = lines[first + 1 : lines.index("", first)]
    return {line[:width].strip(): line.split("  ")[-1].strip() for line in table}


@pytest.fixture(scope="module")
def done() -> tuple[int, str]:
    """Exit code and report of the whole self-test on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr(cli.sys.stdout, "write", written.append)
        code = cli.main(["-selfTest", "-dev", "cpu"])
    torch.set_num_threads(before)
    return code, "".join(written)


class TestOnThisMachine:
    def test_everything_passes(self, done: tuple[int, str]) -> None:
        code, report = done
        assert code == 0, report
        assert set(rows(report).values()) == {"ok"}
        assert f"All {len(rows(report))} checks passed in " in report

    def test_every_part_is_checked(self, done: tuple[int, str]) -> None:
        names = " ".join(rows(done[1]))
        for part in (
            "forward",
            "backward",
            "Adam",
            "frozen",
            "batch norm",
            "conv3d",
            "segments",
            "inference",
            "kill -9",
        ):
            assert part in names

    def test_the_report_names_the_installation(self, done: tuple[int, str]) -> None:
        device, parts = done[1].splitlines()[:2]
        assert "on CPU with " in device
        for part in (
            f"torch {torch.__version__}",
            "CUDA ",
            "cuDNN ",
            "driver ",
            "Python ",
            f"numba {numba.__version__}",
        ):
            assert part in parts

    def test_errors_stand_beside_what_is_allowed(self, done: tuple[int, str]) -> None:
        line = next(line for line in done[1].splitlines() if line.startswith("forward, two resolutions"))
        assert "the original DeepMedic" in line
        *_, error, allowed, _, _ = line.split()
        assert 0 < float(error) <= float(allowed) == pytest.approx(2e-5)


def report_of(patch: pytest.MonkeyPatch, *checks: Check) -> tuple[dict[str, str], str, bool]:
    patch.setattr(selftest, "_CHECKS", checks)
    report, passed = selftest.run("cpu")
    return rows(report), report, passed


def named(checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def wrong_activation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layers.functional, "prelu", lambda images, _: torch.relu(images))
    patch.setattr(activation, "_slope", lambda _, count, __: torch.zeros(count))


def repeated_edge(patch: pytest.MonkeyPatch) -> None:
    """Zeros where the edge voxel should be repeated."""
    patch.setattr(
        layers,
        "mirror_pad",
        lambda images, sides: torch.nn.functional.pad(images, (*sides[2], *sides[1], *sides[0])),
    )


def wrong_gradient(patch: pytest.MonkeyPatch) -> None:
    """Batch norm as if its statistics did not depend on the images."""

    def normalize(images: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
        return normalization._normalize(images, gamma, beta, mean, var, epsilon)

    patch.setattr(normalization._NormalizeByBatch, "apply", normalize)
    known = compiled_rows.Normalization
    patch.setattr(compiled_rows, "Normalization", lambda *values: known(*values[:-1], of_batch=False))


def wrong_step(patch: pytest.MonkeyPatch) -> None:
    step = Optimiser.step
    patch.setattr(Optimiser, "step", lambda self, rate, momentum: step(self, 1.01 * rate, momentum))


def no_guard_for_constants(patch: pytest.MonkeyPatch) -> None:
    def normalize(images: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
        return torch.nn.functional.batch_norm(images, mean, var, gamma, beta, training=False, eps=epsilon)

    patch.setattr(normalization, "_normalize", normalize)


def statistics_move(patch: pytest.MonkeyPatch) -> None:
    freeze = parameters.freeze
    patch.setattr(parameters, "freeze", lambda net, config: freeze(net, replace(config, batch_norm="moving")))


def nothing_is_trained(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Optimiser, "step", lambda self, rate, momentum: None)


def coarse_float32(patch: pytest.MonkeyPatch) -> None:
    """Convolutions that round float32 to the precision of TF32."""
    conv3d = torch.nn.functional.conv3d

    def rounded(images: Tensor, weight: Tensor) -> Tensor:
        if images.dtype == torch.float32:
            images, weight = images * (1 + 2**-11), weight
        return conv3d(images, weight)

    patch.setattr(selftest_convolutions.functional, "conv3d", rounded)


def shifted_by_one(patch: pytest.MonkeyPatch) -> None:
    positions = segments._positions
    patch.setattr(segments, "_positions", lambda first, size, factor: positions(first + 1, size, factor))


def wrong_border(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(preprocessing, "_corner_means", lambda channels: torch.zeros(len(channels)))


def forgotten_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Optimiser, "load_state_dict", lambda self, state: None)


def no_kill(patch: pytest.MonkeyPatch) -> None:
    def ended(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 3, "", "first line\nno such device\n")

    patch.setattr(selftest_resume.subprocess, "run", ended)


@pytest.mark.parametrize(
    ("fault", "checks", "name", "said"),
    [
        (wrong_activation, selftest_numbers.CHECKS, "forward, two resolutions", ""),
        (repeated_edge, selftest_numbers.CHECKS, "forward, padded convolutions", ""),
        (wrong_gradient, selftest_numbers.CHECKS, "backward, all gradients", ""),
        (wrong_step, selftest_numbers.CHECKS, "SGD, Adam, RMSProp", ""),
        (no_guard_for_constants, selftest_numbers.CHECKS, "batch norm, constant channel", ""),
        (statistics_move, selftest_numbers.CHECKS, "frozen layers", ""),
        (nothing_is_trained, selftest_numbers.CHECKS, "frozen layers", "not trained although not frozen: normal/3/"),
        (coarse_float32, selftest_convolutions.CHECKS, "conv3d, float32", ""),
        (coarse_float32, selftest_convolutions.CHECKS, "conv3d, float32, channels last", ""),
        (shifted_by_one, selftest_volumes.CHECKS, "sampling and cutting segments", ""),
        (wrong_border, selftest_volumes.CHECKS, "inference of a volume", ""),
        (forgotten_state, selftest_resume.CHECKS, "save, kill -9, resume", ""),
        (no_kill, selftest_resume.CHECKS, "save, kill -9, resume", "ended with exit code 3: no such device"),
    ],
)
def test_a_fault_fails_its_check(
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    checks: tuple[Check, ...],
    name: str,
    said: str,
) -> None:
    selftest_convolutions._reference.cache_clear()
    for shape in selftest_convolutions._SHAPES:
        selftest_convolutions._reference(shape)  # before the fault
    fault(monkeypatch)
    results, report, passed = report_of(monkeypatch, named(checks, name))
    assert not passed
    assert results == {name: "FAILED"}
    assert f"FAILED: 1 of 1 checks: {name}. Do not trust results" in report
    assert said in report


@pytest.mark.parametrize(
    ("fault", "name"),
    [(wrong_activation, "forward, two resolutions"), (wrong_gradient, "backward, all gradients")],
)
def test_a_fault_of_torch_alone_fails_its_check(monkeypatch: pytest.MonkeyPatch, fault, name: str) -> None:
    monkeypatch.setattr(compilation, "is_possible", lambda: False)
    check = named(selftest_numbers.CHECKS, name)
    assert report_of(monkeypatch, check)[0] == {name: "ok"}
    fault(monkeypatch)
    assert report_of(monkeypatch, check)[0] == {name: "FAILED"}


def test_the_fault_of_one_check_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_activation(monkeypatch)
    results, _, _ = report_of(monkeypatch, *selftest_numbers.CHECKS)
    assert results["forward, two resolutions"] == results["backward, all gradients"] == "FAILED"
    assert results["SGD, Adam, RMSProp"] == results["batch norm, constant channel"] == "ok"


def test_a_failed_check_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong_step(monkeypatch)
    monkeypatch.setattr(selftest, "_CHECKS", (named(selftest_numbers.CHECKS, "SGD, Adam, RMSProp"),))
    assert cli.main(["-selfTest", "-dev", "cpu"]) == 1
    assert rows(capsys.readouterr().out) == {"SGD, Adam, RMSProp": "FAILED"}


def comparison(error: float, allowed: float = 1.0) -> Callable[[torch.device], Comparison]:
    return lambda device: Comparison("something", error, allowed)


def broken(device: torch.device) -> Comparison:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")


def impossible(device: torch.device) -> Comparison:
    raise NotTestedError("this GPU has no bf16 arithmetic")


def test_the_report_of_all_kinds_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        Check("good", comparison(0.5)),
        Check("at the limit", comparison(1.0)),
        Check("bad", comparison(1.5)),
        Check("not a number", comparison(float("nan"))),
        Check("broken", broken),
        Check("impossible", impossible),
        Check("only on a GPU", broken, only_cuda=True),
    )
    results, report, passed = report_of(monkeypatch, *checks)
    assert not passed
    assert results == {
        "good": "ok",
        "at the limit": "ok",
        "bad": "FAILED",
        "not a number": "FAILED",
        "broken": "FAILED",
        "impossible": "not tested",
    }
    assert "broken: RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED" in report
    assert "impossible: this GPU has no bf16 arithmetic" in report
    assert report.splitlines()[-1] == (
        "FAILED: 3 of 5 checks: bad, not a number, broken. 1 could not be made. "
        "Do not trust results of this installation on this device."
    )


def test_what_cannot_be_tested_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report, passed = report_of(monkeypatch, Check("good", comparison(0.0)), Check("impossible", impossible))
    assert passed
    assert report.splitlines()[-1].startswith("All 1 checks passed in ")
    assert report.endswith("1 could not be made.")


def test_an_interruption_is_not_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(device: torch.device) -> Comparison:
        raise KeyboardInterrupt

    monkeypatch.setattr(selftest, "_CHECKS", (Check("interrupted", interrupted),))
    with pytest.raises(KeyboardInterrupt):
        selftest.run("cpu")


def test_a_gpu_that_is_absent_is_exit_6(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(nvidia, "find_driver", lambda: None)
    assert cli.main(["-selfTest", "-dev", "cuda"]) == 6
    assert "-dev cuda: there is no CUDA device here" in capsys.readouterr().err


def test_settings_of_torch_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    report_of(monkeypatch, named(selftest_numbers.CHECKS, "forward, bf16"))
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before
    assert not torch.is_autocast_enabled("cpu")


def test_only_some_checks_use_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(device: torch.device) -> Comparison:
        seen.append(torch.get_num_threads())
        return Comparison("", 0.0, 0.0)

    torch.set_num_threads(2)  # back to one after the test, as all tests here
    report_of(monkeypatch, Check("one", look), Check("all", look, all_threads=True))
    assert seen == [1, 2]
    assert torch.get_num_threads() == 2


def test_checks_compute_as_sessions_do_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(device: torch.device) -> Comparison:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32))
        return Comparison("", 0.0, 0.0)

    report_of(monkeypatch, Check("look", look))
    assert seen == [(True, False)]


def test_large_convolutions_are_compared_in_their_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    right = selftest_convolutions._corners(CPU, (5, 70, 50))
    assert 0 < right.error <= right.allowed
    conv3d = torch.nn.functional.conv3d

    def wrong_at_the_end(images: Tensor, weight: Tensor) -> Tensor:
        output = conv3d(images, weight)
        if images.dtype == torch.bfloat16:
            output.view(-1)[-5:] = 0
        return output

    monkeypatch.setattr(selftest_convolutions.functional, "conv3d", wrong_at_the_end)
    assert not selftest_convolutions._corners(CPU, (5, 70, 50)).passed


def test_the_large_convolution_passes_2_gib() -> None:
    x, y, z = selftest_convolutions._LARGE
    assert 2 * 16 * x * (y - 2) * (z - 2) > 2**31


@pytest.mark.parametrize(
    ("capability", "free", "reason"),
    [((7, 0), 80, "this GPU has no bf16 arithmetic"), ((9, 0), 11, "needs 12 GiB of free GPU memory")],
)
def test_a_small_or_old_gpu_does_without_the_large_convolution(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], free: int, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 2**30, 80 * 2**30))
    with pytest.raises(NotTestedError, match=reason):
        selftest_convolutions.large_convolution(torch.device("cuda", 0))


def test_an_old_gpu_does_without_reduced_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for name in ("forward, tf32", "forward, bf16"):
        with pytest.raises(NotTestedError, match=f"this GPU has no {name[-4:]} arithmetic"):
            named(selftest_numbers.CHECKS, name).run(torch.device("cuda", 0))


@pytest.mark.parametrize(("version", "text"), [(None, "none"), (8902, "8.9.2"), (90501, "9.5.1"), (91002, "9.10.2")])
def test_versions_of_cudnn(version: int | None, text: str) -> None:
    assert selftest._cudnn_text(version) == text


@pytest.mark.parametrize(("version", "known"), [(90701, False), (91002, True), (91500, False)])
def test_a_defective_cudnn_is_named(monkeypatch: pytest.MonkeyPatch, version: int, known: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    monkeypatch.setattr(devices, "describe", lambda device: "a GPU")
    head = "\n".join(selftest._head(torch.device("cuda", 0)))
    assert ("is known to give wrong convolutions in bf16" in head) == known
    assert selftest._cudnn_text(version) in head


class TestGoldenNumbers:
    def test_they_are_small(self) -> None:
        assert 0 < sum(path.stat().st_size for path in DATA.iterdir()) < LARGEST_DATA

    def test_they_hold_no_pickles_and_only_finite_numbers(self) -> None:
        archives = sorted(DATA.glob("*.npz"))
        assert len(archives) == 3
        for path in archives:
            with np.load(path, allow_pickle=False) as arrays:
                assert all(np.isfinite(arrays[name]).all() for name in arrays.files)

    def test_every_file_is_described(self) -> None:
        text = (DATA / "README.md").read_text(encoding="utf-8")
        assert [path.name for path in DATA.iterdir() if path.name != "README.md" and path.name not in text] == []

    def test_they_are_those_of_the_test_suite(self) -> None:
        golden = Path(__file__).parents[1] / "golden" / "forward" / "tiny_prelu" / "io.npz"
        shipped = selftest_reference.golden("forward").arrays
        with np.load(golden) as arrays:
            np.testing.assert_array_equal(shipped["multiscale/infer/probabilities"], arrays["infer.probs"][:1])
            np.testing.assert_array_equal(shipped["multiscale/train/labels"], arrays["train.y_gt"])


class TestDifferences:
    def test_they_are_the_largest(self) -> None:
        found, expected = torch.tensor([1.0, 2.5, -3.0]), torch.tensor([1.0, 2.0, -4.0])
        assert selftest_reference.difference(found, expected) == 1.0
        assert selftest_reference.relative_difference(found, expected, floor=1.0) == pytest.approx(0.2)

    def test_other_shapes_are_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"found the shape \[2\], expected \[1\]"):
            selftest_reference.difference(torch.zeros(2), torch.zeros(1))

    def test_nan_never_passes(self) -> None:
        error = selftest_reference.difference(torch.tensor([float("nan")]), torch.tensor([1.0]))
        assert not Comparison("", error, float("inf")).passed
