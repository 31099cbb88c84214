"""The command `doctor`: what it prints, and its exit codes."""

import json
import re
from pathlib import Path

import pytest

import hrnet_zoo
from tests.cli.conftest import Run
from tests.support.http_server import FaultServer


def test_doctor(run: Run, cache: Path) -> None:
    text = run("doctor")
    assert re.search(rf"^  HRNET_ZOO_CACHE +{cache}\n", text, re.MULTILINE)
    assert re.search(r"^  writable +yes\n", text, re.MULTILINE)
    assert re.search(r"^  threads +\d", text, re.MULTILINE)
    assert "network\n" not in text
    assert re.search(r"^  free_bytes +\d+\.\d GB$", text, re.MULTILINE)
    assert text.endswith("\nverdict: fine\n")
    text = run("doctor", "demo", "--device", "cpu", "--dtype", "float16")
    assert re.search(r"\n    dtype +float16\n    pixel_agreement +[01][.\d]*\n(?:    .*\n)+?    fine +yes\n", text)
    assert text.endswith("\nverdict: fine\n")
    text = run("doctor")
    assert re.search(r"    lock\n      files +[12]\n", text)  # of the weights, and of the timings if several were timed
    assert "    model\n      files             1\n      bytes             15.9 MB\n" in text
    facts = json.loads(run("doctor", "demo", "--device", "cpu", "--json"))
    assert len(facts["health"]["data_sha256"]) == 64


@pytest.mark.parametrize(("load", "threads", "said"), [(9.0, 2, True), (0.5, 2, False), (9.0, 1, False)])
def test_doctor_tells_of_a_busy_machine(
    load: float, threads: int, said: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert bool(re.search(r"\n  busy +this machine is busy .*OMP_NUM_THREADS=1", run("doctor"))) == said


def test_doctor_s_exit_code_tells_of_a_dtype_that_is_not_fine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.evaluation.doctor.FINE_PIXELS", 1.01)
    text = run("doctor", "demo", "--device", "cpu", code=1)
    assert re.search(r"\n    fine +no\n", text)
    assert text.endswith("\nverdict: NOT FINE\n")
    assert "do not use this device in this dtype" in run.err


def test_doctor_exit_codes(
    run: Run, host: FaultServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("doctor", "fcn_hr48", code=2)
    text = run("doctor", "demo", "--device", "cuda:77", code=2)
    assert "  data_sha256 " in text
    assert "devices here: cpu" in run.err
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    text = run("doctor", "--network", code=3)
    files = 2 * len(hrnet_zoo.list_models())  # checkpoints and logs
    assert len(re.findall(r"\n  model \S+, file \w+, url \S+, reachable no, found ", text)) == files
    assert "HTTP status 404" in run.err
    assert len(json.loads(run("doctor", "--network", "--json", code=3))["network"]) == files
    text = run("doctor", "demo", "--device", "cpu", "--network")
    assert "  model demo, file checkpoint, url file://" in text
    assert ", reachable yes, found a file\n" in text
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    assert run("doctor", "--network").count(", reachable -, found not tried") == files
    (path,) = cache.rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    run("doctor", "demo", code=4)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "file"))
    assert re.search(r"\n  writable +no\n", run("doctor", "demo", "--device", "cpu", code=6))
