"""Which addresses have their files: hosts, mirrors, pages, loops, and no host at all."""

import dataclasses
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hrnet_zoo.errors import ConfigError, DownloadError
from hrnet_zoo.evaluation import reachability
from hrnet_zoo.evaluation.reachability import AT_ONCE, Reach, reach, require_all
from hrnet_zoo.zoo.catalog import DEMO, list_models, model_info
from tests.support.http_server import FaultServer, drip, status

ROW = model_info("fcn_hr18s_cityscapes_40k")
HOST = "https://download.openmmlab.com"
CHECKPOINT = ROW.checkpoint_url.removeprefix(HOST)
LOG = (ROW.log_url or "").removeprefix(HOST)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _mirror(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loopback host be the only mirror."""
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)


def asked() -> tuple[Reach, ...]:
    return reach([ROW], progress=False)


def test_a_good_host(host: FaultServer) -> None:
    host.play(CHECKPOINT, status(200, length=16_000_000))
    host.play(LOG, status(200, {"Content-Type": "application/json"}, length=None))
    reached = asked()
    assert reached == (
        Reach(ROW.name, "checkpoint", host.url + CHECKPOINT, True, "HTTP status 200 OK", 16_000_000),
        Reach(ROW.name, "log", host.url + LOG, True, "HTTP status 200 OK", None),
    )
    assert {request.method for request in host.requests} == {"HEAD"}
    require_all(reached)


def test_a_file_that_is_not_there(host: FaultServer) -> None:
    host.play(CHECKPOINT, status(200))
    reached = asked()
    assert [each.reachable for each in reached] == [True, False]
    assert reached[1].found == "HTTP status 404 Not Found"
    with pytest.raises(DownloadError, match=f"log of {ROW.name}; .*404") as caught:
        require_all(reached)
    assert caught.value.url == host.url + LOG
    assert caught.value.exit_code == 3


def test_one_address_is_enough(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"{NOWHERE} {host.url}")
    for path in (CHECKPOINT, LOG):
        host.play(path, status(200))
    reached = asked()
    assert [each.reachable for each in reached] == [False, True, False, True]
    assert reached[0].found.startswith("ConnectionError")
    require_all(reached)


def test_pages_and_loops(host: FaultServer) -> None:
    host.play(CHECKPOINT, status(200, {"Content-Type": "text/html; charset=utf-8"}))
    host.play(LOG, status(302, {"Location": LOG}))
    checkpoint, log = asked()
    assert not checkpoint.reachable
    assert "login page" in checkpoint.found
    assert not log.reachable
    assert log.found.startswith("TooManyRedirects")
    assert len(host.to(LOG)) == 6
    with pytest.raises(DownloadError, match=r"checkpoint of .*, log of "):
        require_all([checkpoint, log])


def test_a_host_that_never_ends(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "ANSWER_S", 0.5)
    host.play(CHECKPOINT, drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, 1_000_000, lambda _: None))
    host.play(LOG, status(404))
    assert asked()[0].found.startswith("no whole answer within")


def test_redirects_are_followed(host: FaultServer) -> None:
    host.play(CHECKPOINT, status(302, {"Location": "/elsewhere"}))
    host.play("/elsewhere", status(200, length=5))
    assert (asked()[0].reachable, asked()[0].size) == (True, 5)


def test_secrets_stay_secret(monkeypatch: pytest.MonkeyPatch) -> None:
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
    checkpoint, log = asked()
    assert (checkpoint.reachable, checkpoint.size) == (True, 5)
    assert (log.reachable, log.found) == (False, "not a regular file")
    (bundled,) = reach([DEMO], progress=False)
    assert bundled.reachable
    assert bundled.size == 8_061_346


def test_all_rows_a_few_at_once(host: FaultServer) -> None:
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
            host.play(url.removeprefix(HOST), answer)
    reached = reach(rows, progress=False)
    assert len(reached) == len(host.requests) == 46
    assert all(each.reachable for each in reached)
    assert [each.model for each in reached[::2]] == list_models()
    assert 1 <= most <= AT_ONCE


def test_settings_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", "ftp://host")
    with pytest.raises(ConfigError, match="HRNET_ZOO_MIRRORS"):
        asked()


def test_many_missing_files_are_counted() -> None:
    missing = [Reach(name, "log", f"https://host/{name}", False, "gone") for name in list_models()]
    with pytest.raises(DownloadError, match="and 20 others"):
        require_all(missing)
    require_all([*missing[:1], dataclasses.replace(missing[0], reachable=True)])
