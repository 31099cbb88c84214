"""The commands `download`, `import`, `verify` and `cache`."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from hrnet_zoo.zoo.catalog import model_info
from tests.cli.conftest import Run
from tests.support.http_server import FaultServer, whole

NAME = "fcn_hr18s_cityscapes_40k"


def test_download_refused_and_offline(
    run: Run, hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = model_info(NAME)
    host.play(info.checkpoint_url.removeprefix("https://download.openmmlab.com"), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    run("download", NAME, code=4)
    assert "expected 93db27d0" in run.err
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", "http://127.0.0.1:9")
    monkeypatch.setattr("hrnet_zoo.weights.download.TRIES", 1)
    run("download", NAME, code=3)
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    run("download", NAME, code=3)
    assert "hrnet-zoo import" in run.err
    run("download", code=2)
    run("download", NAME, "--all", code=2)
    assert not list(cache.rglob("*.safetensors"))


@pytest.fixture
def published(hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Let the stand-in be what the row states, and serve it."""
    info = dataclasses.replace(model_info(NAME), sha256_prefix=hashlib.sha256(hr18s).hexdigest()[:8])
    for function in ("cli.cache.published_file", "zoo.resolve.model_info", "zoo.maintenance.model_info"):
        monkeypatch.setattr(f"hrnet_zoo.{function}", lambda _: info)
    monkeypatch.setattr("hrnet_zoo.zoo.catalog._ROWS", (info,))
    host.play(info.checkpoint_url.removeprefix("https://download.openmmlab.com"), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    return host


def test_download_show_clear(run: Run, published: FaultServer, cache: Path, tmp_path: Path) -> None:
    path = Path(run("download", NAME).split()[1])
    assert path.suffix == ".safetensors"
    assert cache in path.parents
    assert json.loads(run("download", NAME, "--json")) == [{"name": NAME, "path": str(path)}]
    assert len(published.requests) == 1
    assert run("cache", "path").strip() == str(cache)
    (model,) = [entry for entry in json.loads(run("cache", "show", "--json")) if entry["kind"] == "model"]
    assert model["path"] == str(path)
    assert model["bytes"] == path.stat().st_size
    assert path.name in run("cache", "show")
    assert run("cache", "clear", NAME).startswith("removed 1 files")
    assert not path.exists()
    run("cache", "clear", code=2)
    copy = Path(run("download", NAME, "--to", tmp_path / "mirror").split()[1])
    assert copy.is_relative_to(tmp_path / "mirror/mmsegmentation/v0.5/hrnet")
    assert run("import", copy) == f"{NAME} {path}\n"
    assert run("cache", "clear", path.name).startswith("removed 1 files")
    run("import", copy)
    assert run("cache", "clear", "--all").startswith("removed 1 files")


def test_verify_prune_repair(run: Run, published: FaultServer, cache: Path) -> None:
    run("verify", NAME, code=5)
    assert "hrnet-zoo download" in run.err
    path = Path(run("download", NAME).split()[1])
    assert run("verify", NAME) == run("verify", "--all") == f"{NAME}: whole\n"
    assert json.loads(run("verify", "--all", "--json")) == [{"name": NAME, "path": str(path), "found": "whole"}]
    assert run("verify", NAME, "--sha256sum") == run("verify", "--all", "--sha256sum")
    run("verify", NAME, "--sha256sum", "--json", code=2)
    run("verify", code=2)
    assert run("cache", "repair") == "nothing is damaged\n"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    run("verify", NAME, code=4)
    assert "SHA-256" in run.err
    assert "expected" not in run("verify", "--all", "--json", code=4)
    assert f"{NAME}: was damaged" in run("cache", "repair")
    assert run("verify", "--all") == f"{NAME}: whole\n"
    assert len(published.requests) == 2
    old = path.with_name(path.name.replace("-c2.", "-c1."))
    path.rename(old)
    assert run("cache", "prune").startswith("removed 1 files")
    assert run("cache", "prune").startswith("removed 0 files")
    run("verify", code=2)
    run("verify", NAME, "--all", code=2)


def test_one_failure_does_not_stop_the_others(run: Run, published: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    copy = Path(run("download", NAME, "--to", tmp_path / "mirror").split()[1])
    out = run("import", tmp_path / "page.pth", copy, "--json", code=4)
    assert [entry["name"] for entry in json.loads(out)] == [NAME]
    assert "page.pth" in run.err
    assert published.requests


def test_import_of_something_else(run: Run, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    run("import", tmp_path / "page.pth", code=4)
    run("import", tmp_path / "absent.pth", code=5)


def test_unwritable_cache(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "file"))
    run("download", NAME, code=6)
    assert "HRNET_ZOO_CACHE" in run.err
    run("demo", "--out", tmp_path / "out", "--scenes", "1", "--device", "cpu")  # which needs none
