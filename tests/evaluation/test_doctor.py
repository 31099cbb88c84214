"""What is broken is in the report; what works too."""

import dataclasses
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.errors import (
    CacheError,
    ConfigError,
    DownloadError,
    HashMismatchError,
    HRNetZooError,
    OfflineError,
    UnknownModelError,
)
from hrnet_zoo.evaluation.doctor import (
    AT_ONCE,
    FINE_PIXELS,
    SETTINGS,
    Fidelity,
    Reach,
    Report,
    doctor,
    reach,
    require_all,
)
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.cache import path_of
from hrnet_zoo.zoo.catalog import DEMO, list_models, model_info
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.resolve import cache_key
from tests.support.http_server import FaultServer, drip, status


def of_demo(device: str = "cpu", dtype: torch.dtype | None = None) -> Report:
    return doctor("demo", device=device, dtype=dtype, progress=False)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundled network see images at 96 x 192, to be quick."""
    monkeypatch.setitem(DEMO.__dict__, "dataset", dataclasses.replace(SCENES, resize_to=(192, 96)))


def test_without_a_name(cache: Path) -> None:
    report = doctor()
    assert report.errors == ()
    assert report.network is None
    assert report.health is None
    assert report.environment["torch"] == metadata.version("torch")
    assert report.environment["threads"] == torch.get_num_threads()
    assert len(report.environment["cuda_devices"]) == torch.cuda.device_count()
    assert report.settings == {name: str(cache) if name == "HRNET_ZOO_CACHE" else None for name in SETTINGS}
    assert report.cache["folder"] == str(cache)
    assert report.cache["writable"]
    assert report.cache["free_bytes"] > 0
    assert report.cache["files"] == {}
    assert not cache.exists()  # looked at, not made
    assert json.loads(json.dumps(report.to_dict()))["errors"] == []


def test_what_is_in_the_cache(cache: Path) -> None:
    create_model("demo", device="cpu", progress=False)
    part = cache / "v1" / "downloads" / "strange"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"123")
    found = doctor().cache
    size = path_of(cache_key(DEMO)).stat().st_size
    assert found["files"]["model"] == {"files": 1, "bytes": size}
    assert found["files"]["unknown"] == {"files": 1, "bytes": 3}
    assert found["files"]["lock"]["files"] == 1


def test_secrets_in_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", "https://user:hunter2@host/a https://host/b?key=hunter2")
    report = doctor()
    assert report.settings["HRNET_ZOO_MIRRORS"] == "https://***@host/a https://host/b?***"
    assert "hunter2" not in json.dumps(report.to_dict())


def test_the_bundled_model_is_healthy() -> None:
    report = of_demo()
    assert report.errors == ()
    assert report.health is not None
    assert report.health.fidelity == Fidelity("cpu", "float32", 1.0, 0.0, fine=True)
    facts = json.loads(json.dumps(report.to_dict()))["health"]
    assert facts["fidelity"]["fine"]
    fast = report.health.fast
    assert fast is not None
    assert fast.engine in ("onednn", "pytorch", "openvino")
    assert (fast.fine, facts["fast"]["fine"]) == (True, True)
    assert FINE_PIXELS <= fast.pixel_agreement <= 1
    assert fast.worst_logit is not None
    assert 0 < fast.worst_logit < 0.1


@pytest.mark.usefixtures("small")
def test_half_precision_strays_and_is_fine() -> None:
    health = of_demo(dtype=torch.float16).health
    assert health is not None
    assert health.fidelity is not None
    assert health.fidelity.dtype == "float16"
    assert health.fidelity.fine
    assert FINE_PIXELS <= health.fidelity.pixel_agreement <= 1
    assert health.fidelity.worst_logit is not None
    assert 0 < health.fidelity.worst_logit < 0.01


@pytest.mark.usefixtures("small")
def test_a_model_of_other_bands(tmp_path: Path) -> None:
    bands = ["red", "green", "blue", "nir"]
    model = create_model("demo", bands=bands, mean=[1000, 1100, 900, 3000], std=[400, 300, 500, 20], device="cpu")
    report = doctor(str(model.save_pretrained(tmp_path / "model")), device="cpu", progress=False)
    assert report.errors == ()
    assert report.health is not None
    for fidelity in (report.health.fidelity, report.health.fast):
        assert fidelity is not None
        assert fidelity.fine


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_strays_and_is_fine() -> None:
    report = of_demo("cuda")
    assert report.errors == ()
    assert report.environment["cuda_devices"][0]["name"] == torch.cuda.get_device_name(0)
    assert report.environment["cuda_devices"][0]["memory_bytes"] > 0
    assert report.health is not None
    assert report.health.fidelity is not None
    assert report.health.fidelity.device == "cuda:0"
    assert report.health.fidelity.fine


# --- broken things ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("factor", "words"), [(-1.0, "0.000% of"), (float("nan"), "logits that are not finite")])
def test_a_device_that_strays_too_far_is_an_error(factor: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any, **options: Any) -> FCNHRNet:
        model = create_model(*arguments, **options)
        if options["dtype"] == torch.float32:  # the reference
            return model
        for tensor in model.decode_head.conv_seg.parameters():
            tensor.data = tensor * factor
        return model

    monkeypatch.setattr("hrnet_zoo.zoo.create.create_model", wrong)
    report = of_demo(dtype=torch.bfloat16)
    (error,) = report.errors
    assert isinstance(error, HRNetZooError)
    assert error.exit_code == 1
    assert error.asked == "demo on cpu in bfloat16"
    assert words in error.found
    assert report.health is not None
    assert report.health.fidelity is not None
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.health.fidelity.pixel_agreement < FINE_PIXELS
    assert report.health.fast is not None
    assert not report.health.fast.fine  # it is made of the network as it is; told, and no error


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("place", ["zoo.create.create_model", "evaluation.agreement.pixel_agreement"])
def test_too_little_memory(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(f"hrnet_zoo.{place}", greedy)
    report = of_demo()
    (error,) = report.errors
    assert isinstance(error, ConfigError)
    assert "too little memory" in error.found
    assert error.done == "the other findings are in the report"
    assert (report.health is None) == (place == "zoo.create.create_model")


@pytest.mark.usefixtures("small")
def test_a_damaged_file_in_the_cache() -> None:
    create_model("demo", device="cpu", progress=False)
    path = path_of(cache_key(DEMO))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    report = of_demo()
    assert [type(error) for error in report.errors] == [HashMismatchError]
    assert report.health is None


@pytest.mark.usefixtures("small")
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("HRNET_ZOO_CACHE", str(folder))
        report = doctor("demo", device="cpu", progress=False)
        assert report.cache["writable"] is False
        assert [type(error) for error in report.errors] == [CacheError]
        assert report.health is not None  # the demo is converted in memory
        assert report.environment["torch"] == metadata.version("torch")


@pytest.mark.usefixtures("small")
def test_a_device_that_is_not_here() -> None:
    report = of_demo("cuda:77")
    assert [type(error) for error in report.errors] == [ConfigError]
    assert report.health is not None
    assert (report.health.fidelity, report.health.fast) == (None, None)


@pytest.mark.usefixtures("small")
def test_a_device_that_lacks_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(FCNHRNet, "predict", lacking)
    (error,) = of_demo(dtype=torch.bfloat16).errors
    assert isinstance(error, ConfigError)
    assert error.asked == "check demo on cpu in bfloat16"
    assert error.found.endswith("no kernel image is available for execution on the device")


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    report = doctor()
    assert report.environment["matplotlib"] is None
    assert report.environment["numpy"] == real("numpy")


def test_without_torch() -> None:
    code = """
import json, sys
sys.modules["torch"] = None
from hrnet_zoo.datasets import SCENES
from hrnet_zoo.evaluation.doctor import doctor
print(json.dumps(doctor("demo").to_dict()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    report = json.loads(run.stdout)
    assert report["environment"]["torch_fault"].startswith("ModuleNotFoundError")
    assert [error["kind"] for error in report["errors"]] == ["ConfigError"]
    assert "torch" in report["errors"][0]["message"]


def test_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRNET_ZOO_CACHE")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    report = doctor()
    assert report.cache == {}
    assert [type(error) for error in report.errors] == [ConfigError]
    assert "huggingface_hub" in report.errors[0].found


def test_without_a_network(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    report = doctor(network=True, progress=False)
    assert report.network is not None
    assert len(report.network) == 124
    assert [type(error) for error in report.errors] == [DownloadError]
    assert len(json.loads(json.dumps(report.to_dict()))["network"]) == 124
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    host.requests.clear()
    report = doctor("fcn_hr18s_cityscapes_40k", network=True, progress=False)
    assert report.network is not None
    assert [each.reachable for each in report.network] == [None, None]
    assert [type(error) for error in report.errors] == [OfflineError]  # of the model, which is not in the cache
    assert not host.requests


def test_settings_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "perhaps")
    report = doctor(network=True)
    assert report.network is None
    assert [type(error) for error in report.errors] == [ConfigError]


def test_unknown_name() -> None:
    with pytest.raises(UnknownModelError):
        doctor("fcn_hr48")


# --- hosts and mirrors -----------------------------------------------------------------------------------------------

ROW = model_info("fcn_hr18s_cityscapes_40k")
HOST = "https://download.openmmlab.com"
CHECKPOINT = ROW.checkpoint_url.removeprefix(HOST)
LOG = (ROW.log_url or "").removeprefix(HOST)


@pytest.fixture
def mirror(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Let the loopback host be the only mirror."""
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    return host


def asked() -> tuple[Reach, ...]:
    return reach([ROW], progress=False)


def test_a_good_host(mirror: FaultServer) -> None:
    mirror.play(CHECKPOINT, status(302, {"Location": "/elsewhere"}))
    mirror.play("/elsewhere", status(200))
    mirror.play(LOG, status(200, {"Content-Type": "application/json"}, length=None))
    reached = asked()
    assert reached == (
        Reach(ROW.name, "checkpoint", mirror.url + CHECKPOINT, True, "HTTP status 200 OK"),
        Reach(ROW.name, "log", mirror.url + LOG, True, "HTTP status 200 OK"),
    )
    assert {request.method for request in mirror.requests} == {"HEAD"}
    require_all(reached)


def test_a_file_that_is_not_there(mirror: FaultServer) -> None:
    mirror.play(CHECKPOINT, status(200))
    reached = asked()
    assert [each.reachable for each in reached] == [True, False]
    assert reached[1].found == "HTTP status 404 Not Found"
    with pytest.raises(DownloadError, match=f"1 at no address: log of {ROW.name}; .*404") as caught:
        require_all(reached)
    assert caught.value.url == mirror.url + LOG
    assert caught.value.exit_code == 3


def test_one_address_is_enough(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"http://127.0.0.1:9 {host.url}")
    for path in (CHECKPOINT, LOG):
        host.play(path, status(200))
    reached = asked()
    assert [each.reachable for each in reached] == [False, True, False, True]
    assert reached[0].found.startswith("ConnectionError")
    require_all(reached)


def test_pages_and_loops(mirror: FaultServer) -> None:
    mirror.play(CHECKPOINT, status(200, {"Content-Type": "text/html; charset=utf-8"}))
    mirror.play(LOG, status(302, {"Location": LOG}))
    checkpoint, log = asked()
    assert not checkpoint.reachable
    assert "login page" in checkpoint.found
    assert not log.reachable
    assert log.found.startswith("TooManyRedirects")
    assert len(mirror.to(LOG)) == 6
    with pytest.raises(DownloadError, match=r"2 at no address: checkpoint of .*, log of "):
        require_all([checkpoint, log])


def test_a_host_that_never_ends(mirror: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.evaluation.doctor.ANSWER_S", 0.5)
    mirror.play(CHECKPOINT, drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, 1_000_000, lambda _: None))
    mirror.play(LOG, status(404))
    assert asked()[0].found.startswith("no whole answer within")


def test_passwords_of_mirrors_are_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", "http://user:secret@127.0.0.1:9")
    reached = asked()
    assert "secret" not in repr(reached)
    assert reached[0].url == f"http://***@127.0.0.1:9{CHECKPOINT}"
    with pytest.raises(DownloadError) as caught:
        require_all(reached)
    assert "secret" not in str(caught.value)


def test_offline_opens_no_connection(host: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"{host.url} {tmp_path.as_uri()}")
    reached = asked()
    assert [each.reachable for each in reached] == [None, False, None, False]
    assert "HRNET_ZOO_OFFLINE" in reached[0].found
    assert not host.requests
    require_all([reached[0], reached[2]])


def test_folders_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", tmp_path.as_uri())
    (tmp_path / LOG[1:]).mkdir(parents=True)
    (tmp_path / CHECKPOINT[1:]).write_bytes(b"12345")
    assert [(each.reachable, each.found) for each in asked()] == [(True, "a file"), (False, "no file")]
    (bundled,) = reach([DEMO], progress=False)
    assert bundled.reachable


def test_all_rows_a_few_at_once(mirror: FaultServer) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        status(200)(handler)
        with lock:
            now -= 1

    rows = [model_info(name) for name in list_models()]
    for row in rows:
        for url in (row.checkpoint_url, row.log_url or ""):
            mirror.play(url.removeprefix(HOST), answer)
    reached = reach(rows, progress=False)
    assert len(reached) == len(mirror.requests) == 124
    assert all(each.reachable for each in reached)
    assert [each.model for each in reached[::2]] == list_models()
    assert 1 <= most <= AT_ONCE
