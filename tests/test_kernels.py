"""Kernels of our own: where they can be tried, and all their tests in Triton's interpreter where there is no GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from hrnet_zoo import kernels
from tests.tables import ROOT

OF_KERNELS = ("resizing", "masking", "head", "cuda")
without_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@without_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreter's run itself")
def test_in_the_interpreter() -> None:
    """In a process of its own, since the interpreter is chosen when triton is imported. Most of it runs on the CPU."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "kernel"]
        + [f"tests/test_{name}.py" for name in OF_KERNELS],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout, done.stdout[-3000:]


def test_on_a_cpu_without_the_interpreter_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernels.installed.cache_clear()
    assert not kernels.installed(torch.device("cpu"))
    kernels.installed.cache_clear()


@pytest.mark.parametrize(
    ("found", "capability", "reason"),
    [(None, (9, 0), "triton is not installed"), (object(), (7, 5), r"compute capability \(7, 5\) is below \(8, 0\)")],
)
def test_one_line_says_why_there_are_none(
    found: object,
    capability: tuple[int, int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    kernels.installed.cache_clear()
    for _ in range(2):
        assert not kernels.installed(torch.device("cuda", 0))
    assert len(caplog.records) == 1
    caplog.records[0].getMessage().endswith(reason)
    kernels.installed.cache_clear()


@without_triton
def test_a_kernel_that_is_wrong_or_fails_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    expected = torch.ones(3)
    assert kernels.right("sums", lambda: torch.ones(3, dtype=torch.float16), expected, 0.0)
    assert not kernels.right("sums", lambda: torch.zeros(3), expected, 0.5)

    def fails() -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    assert not kernels.right("masks", fails, expected, 0.5)
    assert not kernels.right("nan", lambda: torch.full((3,), float("nan")), expected, 0.5)
    assert [each.getMessage() for each in caplog.records] == [
        "the kernel for sums cannot be used, PyTorch's are: its results are off by 1",
        "the kernel for masks cannot be used, PyTorch's are: Failed to find C compiler.",
        "the kernel for nan cannot be used, PyTorch's are: its results are off by nan",
    ]
