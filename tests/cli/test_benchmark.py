"""The command `benchmark`: what it prints, and its exit codes."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from hrnet_zoo.zoo.catalog import model_info
from tests.cli.conftest import Run


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be measured for seconds."""
    from hrnet_zoo.evaluation import benchmark as benchmarking

    monkeypatch.setattr("hrnet_zoo.evaluation.costs.MIN_RUNS", 2)
    for name in ("benchmark", "benchmark_table"):
        real = getattr(benchmarking, name)
        monkeypatch.setattr(benchmarking, name, lambda *a, real=real, **k: real(*a, **k, seconds=0))


@pytest.mark.usefixtures("_quick")
def test_benchmark(run: Run) -> None:
    text = run("benchmark", "demo", "--device", "cpu")
    assert re.match(r"model +demo\nrandom_weights +yes\nmachine\n  device +cpu\n", text)
    assert len(re.findall(r"\n(?:network|prediction)\n  runs +2\n  minimum +\d", text)) == 2
    assert re.search(r"\nprediction_input +64, 128\n", text)
    facts = json.loads(run("benchmark", "demo", "--size", "32x96", "--batch", "2", "--device", "cpu", "--json"))
    assert (facts["height"], facts["width"], facts["batch"]) == (32, 96, 2)
    assert facts["random_weights"]
    facts = json.loads(run("benchmark", "demo", "--dtype", "bfloat16", "--device", "cpu", "--json"))
    assert facts["machine"]["dtype"] == "bfloat16"
    facts = json.loads(run("benchmark", "hr18s", "--size", "32x32", "--device", "cpu", "--json"))
    assert (facts["model"], facts["width"]) == ("hr18s", 32)


@pytest.mark.usefixtures("_quick")
def test_benchmark_beside_the_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = model_info("fcn_hr18s_cityscapes_40k")
    row = dataclasses.replace(row, dataset=dataclasses.replace(row.dataset, crop=(64, 64), resize_to=(128, 64)))
    for module in ("evaluation.benchmark", "zoo.resolve"):
        monkeypatch.setattr(f"hrnet_zoo.{module}.model_info", lambda _: row)
    monkeypatch.setattr("hrnet_zoo.evaluation.benchmark.IMAGES", {"cityscapes": (96, 192)})
    text = run("benchmark", row.name, "--table", "--device", "cpu")
    assert re.search(r"\npublished_fps +23\.74\npublished_memory_gb +1\.7\n", text)
    assert re.search(r"\nimage +96, 192\nnetwork_input +64, 128\n", text)
    facts = json.loads(run("benchmark", row.name, "--table", "--device", "cpu", "--json"))
    assert facts["published_fps"] == 23.74
    assert facts["crop"] == [64, 64]


def test_benchmark_against_its_fast_forms(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hrnet_zoo.evaluation import benchmark

    monkeypatch.setattr("hrnet_zoo.evaluation.costs.MIN_RUNS", 1)
    real = benchmark.compare
    monkeypatch.setattr(benchmark, "compare", lambda *a, **k: real(*a, **k, seconds=0))
    monkeypatch.setitem(sys.modules, "openvino", None)
    plot = tmp_path / "bars.svg"
    lines = run("benchmark", "demo", "--against", "--device", "cpu", "--plot", str(plot)).splitlines()
    assert lines[0].split() == ["network", "image", "to", "mask", "equal", "pixels"]
    assert re.fullmatch(r"exact float32 +[\d,.]+ ms +1\.00 x +[\d,.]+ ms +1\.00 x", lines[1])
    assert re.fullmatch(r"onednn float32 +([\d,.]+ ms +[\d.]+ x +){2}100\.00%", lines[2])
    assert "random_weights          no" in lines
    assert any(re.match("  openvino +openvino cannot be imported", line) for line in lines)
    assert "onednn" in plot.read_text(encoding="utf-8")
    run("benchmark", "demo", "--against", "--plot", str(plot), code=5)
    facts = json.loads(run("benchmark", "demo", "--against", "--size", "32x64", "--device", "cpu", "--json"))
    assert (facts["height"], facts["width"], facts["variants"][0]["network_speedup"]) == (32, 64, 1)
    for wrong in (("--against", "--table"), ("--against", "--batch", "2"), ("--compile",), ("--plot", "a.png")):
        run("benchmark", "demo", *wrong, code=2)


def test_benchmark_bad_arguments(run: Run) -> None:
    for size in ("64", "64x", "axb", "64x64x64", "-1x5", "64 x 64"):
        run("benchmark", "demo", "--size", size, code=2)
        assert "not two sides in pixels" in run.err
    for size in ("0x64", "999999x999999"):
        run("benchmark", "demo", "--size", size, "--device", "cpu", code=2)
        assert ": all three must be whole numbers from 1" in run.err
    run("benchmark", "demo", "--batch", "0", code=2)
    for option in (("--size", "64x64"), ("--batch", "2"), ("--dtype", "float16")):
        run("benchmark", "fcn_hr18s_cityscapes_40k", "--table", *option, code=2)
        assert "--table has its own" in run.err
    run("benchmark", "demo", "--table", code=2)
    run("benchmark", "demo", "--device", "cuda:77", code=2)
    run("benchmark", "fcn_hr48", code=2)


def test_too_little_memory_for_the_network_to_benchmark(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hrnet_zoo.zoo.create.create_model", greedy)
    run("benchmark", "demo", "--device", "cpu", code=2)
    assert "the device has too little memory" in run.err
    monkeypatch.setattr("hrnet_zoo.evaluation.benchmark.create_model", greedy)
    run("benchmark", "fcn_hr18s_cityscapes_40k", "--table", "--device", "cpu", code=2)
    assert "benchmark fcn_hr18s_cityscapes_40k as the published table" in run.err
