"""The commands `benchmark` and `doctor`: what they print, and their exit codes."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.zoo.catalog import DEMO, model_info
from tests.cli.test_cli import Run
from tests.support.http_server import FaultServer


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run commands; the bundled network sees images at 64 x 128, to be quick."""
    monkeypatch.setitem(DEMO.__dict__, "dataset", dataclasses.replace(SCENES, resize_to=(128, 64)))
    return Run(capsys)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be measured for seconds."""
    from hrnet_zoo.evaluation import benchmark as benchmarking

    for name in ("benchmark", "benchmark_table"):
        real = getattr(benchmarking, name)
        monkeypatch.setattr(benchmarking, name, lambda *a, real=real, **k: real(*a, **k, seconds=0))


@pytest.mark.usefixtures("_quick")
def test_benchmark(run: Run) -> None:
    text = run("benchmark", "demo", "--device", "cpu")
    assert text.startswith("demo with random weights, float32 on cpu")
    assert "\nnetwork     batch of 1 at 64 x 128: " in text
    assert "\nprediction  one image of 64 x 128, at 64 x 128 in the network: " in text
    assert "; 5 runs)" in text
    facts = json.loads(run("benchmark", "demo", "--size", "32x96", "--batch", "2", "--device", "cpu", "--json"))
    assert (facts["height"], facts["width"], facts["batch"]) == (32, 96, 2)
    assert facts["random_weights"]
    facts = json.loads(run("benchmark", "demo", "--dtype", "bfloat16", "--device", "cpu", "--json"))
    assert facts["machine"]["dtype"] == "bfloat16"


@pytest.mark.usefixtures("_quick")
def test_benchmark_beside_the_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = model_info("fcn_hr18s_cityscapes_40k")
    row = dataclasses.replace(row, dataset=dataclasses.replace(row.dataset, crop=(64, 64), resize_to=(128, 64)))
    for module in ("evaluation.benchmark", "zoo.resolve"):
        monkeypatch.setattr(f"hrnet_zoo.{module}.model_info", lambda _: row)
    monkeypatch.setattr("hrnet_zoo.evaluation.benchmark.IMAGES", {"cityscapes": (96, 192)})
    lines = run("benchmark", row.name, "--table", "--device", "cpu").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["published", "fps", "training,"]
    assert lines[2].split()[1] == "23.74"
    assert lines[3].split()[2] == "1.7"
    assert "image of 96 x 192, at 64 x 128 in the network" in lines[2]
    facts = json.loads(run("benchmark", row.name, "--table", "--device", "cpu", "--json"))
    assert facts["published_fps"] == 23.74
    assert facts["crop"] == [64, 64]


def test_benchmark_against_its_fast_forms(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from hrnet_zoo.evaluation import benchmark

    real = benchmark.compare
    monkeypatch.setattr(benchmark, "compare", lambda *a, **k: real(*a, **k, seconds=0))
    monkeypatch.setitem(sys.modules, "openvino", None)
    lines = run("benchmark", "demo", "--against", "--device", "cpu").splitlines()
    assert lines[1].split() == ["image", "of", "64", "x", "128", "network", "prediction"]
    assert lines[2].startswith("exact float32 ")
    assert lines[2].count(" 1.00x ") == 2
    assert lines[3].startswith("onednn float32 ")
    assert any(line.startswith("skipped: openvino float32: openvino cannot be imported") for line in lines)
    facts = json.loads(run("benchmark", "demo", "--against", "--size", "32x64", "--device", "cpu", "--json"))
    assert (facts["height"], facts["width"], facts["variants"][0]["network_speedup"]) == (32, 64, 1)
    for wrong in (("--against", "--table"), ("--against", "--batch", "2"), ("--compile",)):
        run("benchmark", "demo", *wrong, code=2)


def test_benchmark_bad_arguments(run: Run) -> None:
    for size in ("64", "64x", "axb", "64x64x64", "-1x5", "64 x 64"):
        run("benchmark", "demo", "--size", size, code=2)
        assert "no height x width" in run.err
    for size in ("0x64", "999999x999999"):
        run("benchmark", "demo", "--size", size, "--device", "cpu", code=2)
        assert "found: all three must be whole numbers from 1" in run.err
    run("benchmark", "demo", "--batch", "0", code=2)
    for option in (("--size", "64x64"), ("--batch", "2"), ("--dtype", "float16")):
        run("benchmark", "fcn_hr18s_cityscapes_40k", "--table", *option, code=2)
        assert "--table has its own" in run.err
    run("benchmark", "demo", "--table", code=2)
    run("benchmark", "demo", "--device", "cuda:77", code=2)
    run("benchmark", "fcn_hr48", code=2)


def test_doctor(run: Run, cache: Path) -> None:
    text = run("doctor")
    assert f"  HRNET_ZOO_CACHE      {cache}\n" in text
    assert "  writable             yes\n" in text
    assert "  threads              " in text
    assert "network\n" not in text
    assert re.search(r"^  free +\d+\.\d GB$", text, re.MULTILINE)
    assert text.endswith("\nverdict: fine: nothing is wrong (to check what a model computes: hrnet-zoo doctor NAME)\n")
    text = run("doctor", "demo", "--device", "cpu", "--dtype", "float16")
    assert "  cpu float16          fine: " in text
    assert "of a street scene's pixels" in text
    assert text.endswith("\nverdict: fine: demo computes what it should\n")
    text = run("doctor")
    assert "lock: files 1, 0.0 MB" in text
    assert "model: files 1, 15.9 MB" in text
    facts = json.loads(run("doctor", "demo", "--device", "cpu", "--json"))
    assert len(facts["health"]["data_sha256"]) == 64


@pytest.mark.parametrize(("load", "threads", "said"), [(9.0, 2, True), (0.5, 2, False), (9.0, 1, False)])
def test_doctor_tells_of_a_busy_machine(
    load: float, threads: int, said: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert (
        re.search(r"\nnote: this machine is busy .*OMP_NUM_THREADS=1.*\nverdict: fine", run("doctor")) is not None
    ) == said


def test_doctor_s_exit_code_tells_of_a_dtype_that_is_not_fine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.evaluation.doctor.FINE_PIXELS", 1.01)
    text = run("doctor", "demo", "--device", "cpu", code=1)
    assert "NOT FINE: 100.000%" in text
    assert text.endswith("\nverdict: NOT FINE: 1 error, each with what to do\n")
    assert "do not use this device in this dtype" in run.err


def test_too_little_memory_for_the_network_to_benchmark(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hrnet_zoo.zoo.create.create_model", greedy)
    run("benchmark", "demo", "--device", "cpu", code=2)
    assert "the device has too little memory" in run.err
    monkeypatch.setattr("hrnet_zoo.evaluation.benchmark.create_model", greedy)
    run("benchmark", "fcn_hr18s_cityscapes_40k", "--table", "--device", "cpu", code=2)
    assert "benchmark fcn_hr18s_cityscapes_40k as the published table" in run.err


def test_doctor_exit_codes(
    run: Run, host: FaultServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("doctor", "fcn_hr48", code=2)
    text = run("doctor", "demo", "--device", "cuda:77", code=2)
    assert "  weights              SHA-256 " in text
    assert "devices here: cpu" in run.err
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    text = run("doctor", "--network", code=3)
    assert text.count("  FAILS fcn_") == 46
    assert "HTTP status 404" in run.err
    assert len(json.loads(run("doctor", "--network", "--json", code=3))["network"]) == 46
    text = run("doctor", "demo", "--device", "cpu", "--network")
    assert "  ok    demo checkpoint: file://" in text
    assert ": a file\n" in text
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    assert run("doctor", "--network").count("  off   fcn_") == 46
    (path,) = cache.rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    run("doctor", "demo", code=4)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "file"))
    assert "  writable             no\n" in run("doctor", "demo", "--device", "cpu", code=6)
