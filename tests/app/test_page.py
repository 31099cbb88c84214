"""The page in a real browser (extra `app`, playwright and Chromium), and what leaves the machine: nothing."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.fcn import FCNHRNet
from tests.support.images import encode

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
page_module = importlib.import_module("hrnet_zoo.app.page")
expect = playwright.expect
expect.set_options(timeout=30_000)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# The command, every connection and look-up of which is written down; in a network namespace, the loopback is off first.
SERVER = """
import socket, struct, sys

log, alone = open(sys.argv[1], "w", buffering=1), sys.argv[2] == "alone"
if alone:
    import fcntl
    with socket.socket() as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP

def record(event, args):
    by_name = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if event in by_name or (event in ("socket.connect", "socket.sendto") and args[0].family != socket.AF_UNIX):
        print(event, args, file=log)

sys.addaudithook(record)
from hrnet_zoo.cli import main
main(["app", "--port", "0", "--device", "cpu", *sys.argv[3:]])
"""
# Chromium looks up names of its own, on an empty page too; those that the page asks for are among its requests.
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
LOOPBACK = re.compile(r"'(127\.[\d.]+|::1|localhost)'")


@dataclass
class Served:
    """A page that is served, and what was seen of it."""

    address: str
    model: FCNHRNet  # the same
    browser: Any
    log: Path  # connections of the server
    counters: Path | None  # of its network namespace, if it has one
    requests: list[str] = field(default_factory=list)  # of the browser
    console: list[str] = field(default_factory=list)

    def open(self, **options: Any) -> Any:
        """Return the page in a browser of its own."""
        page = self.browser.new_context(**options).new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.set_default_timeout(30_000)
        page.goto(self.address)
        expect(page.locator("input[type=file]").first).to_be_attached()
        return page

    def label(self, image: bytes, **options: Any) -> SegmentationResult:
        """Return what the page should find."""
        return self.model.predict(image, confidence=True, **options)

    def check_that_nothing_left(self) -> None:
        """Look at every request and connection so far."""
        hosts = {urllib.parse.urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))}
        assert hosts <= {"127.0.0.1"}
        assert self.console == []
        connections = self.log.read_text().splitlines()
        assert [line for line in connections if not LOOPBACK.search(line)] == []
        if self.counters:
            names, values = (line.split() for line in self.counters.read_text().splitlines() if line.startswith("Ip:"))
            assert dict(zip(names, values, strict=True))["OutNoRoutes"] == "0"  # attempts, of the browser too


def namespace() -> list[str]:
    """Return a command's prefix that cuts its network, where that is permitted."""
    cut = ["unshare", "--net"]
    permitted = shutil.which("unshare") and shutil.which("nsenter")
    return cut if permitted and subprocess.run([*cut, "true"], check=False, capture_output=True).returncode == 0 else []  # noqa: S603


@pytest.fixture(scope="module")
def served(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the demo network from a model folder."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    folder = tmp_path_factory.mktemp("page")
    log, errors, cut = folder / "connections", folder / "errors", namespace()
    command = [*cut, sys.executable, "-c", SERVER, str(log), "alone" if cut else "", str(demo_folder)]
    with (
        errors.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,  # noqa: S603
    ):
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address), errors.read_text()
            chromium = folder / "chromium"  # in the server's network
            enter = f"nsenter --net=/proc/{server.pid}/ns/net -- " if cut else ""
            chromium.write_text(f'#!/bin/sh\nexec {enter}{CHROMIUM} "$@"\n')
            chromium.chmod(0o755)
            with playwright.sync_playwright() as engines:
                browser = engines.chromium.launch(executable_path=chromium, args=["--no-sandbox", NO_NAMES])
                counters = Path(f"/proc/{server.pid}/net/snmp") if cut else None
                served = Served(address, hrnet_zoo.create_model(demo_folder, device="cpu"), browser, log, counters)
                yield served
                served.check_that_nothing_left()  # whichever tests this worker ran
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    assert (server.returncode, errors.read_text().split()) == (130, ["interrupted"])


def photo(seed: int = 0, height: int = 256, width: int = 512) -> bytes:
    return encode(Image.fromarray(scene(seed, height, width).image), "JPEG")


def give(page: Any, name: str, content: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": content})


def download(page: Any, title: str) -> tuple[str, bytes]:
    """Click a button once it is enabled; return the file's name and content."""
    button = page.locator("a, button").filter(has_text=re.compile(f"^\\s*{title}\\s*$")).last
    expect(button).to_be_enabled()
    with page.expect_download() as info:
        button.click()
    return info.value.suggested_filename, Path(info.value.path()).read_bytes()


def mask_of(page: Any) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(download(page, "Labels")[1])) as image:
        return np.asarray(image)


def legend(page: Any) -> list[list[str]]:
    return [row.split("\t") for row in page.locator(".legend tr").all_inner_texts()][1:]


def test_legend_is_escaped() -> None:
    image, mask = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    result = SegmentationResult(
        image, mask, ("<img src=x>", "b"), ((1, 2, 3), (4, 5, 6)), confidence=np.ones((2, 2), np.float16)
    )
    assert "<td>&lt;img src=x&gt;</td>" in page_module._legend(result)


def test_time_limit_and_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        classes = ("road", "car")

        def predict(self, image: Path, **options: Any) -> NoReturn:
            done.wait(60)
            raise AssertionError("nobody waits for this")

    monkeypatch.setattr(page_module, "TIME_LIMIT_S", 0.05)
    done = threading.Event()
    (tmp_path / "street.jpg").write_bytes(photo())
    labeler = page_module.Labeler(["slow"], lambda name: Slow(), tmp_path)
    for folder, age in (("old", 2 * page_module.FILES_KEPT_S), ("new", 0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "street.jpg").touch()
        for path in (tmp_path / folder / "street.jpg", tmp_path / folder):
            os.utime(path, (time.time() - age,) * 2)
    for _ in range(2):  # the second one waits for the first
        (answer,) = labeler.show({"path": str(tmp_path / "street.jpg")}, "slow", Slow.classes, 0.0)
        assert answer[:2] == (None, None)
        assert "street.jpg: it takes longer than 0 s; take a smaller image or model" in answer[2]
    done.set()
    assert {path.name for path in tmp_path.iterdir()} == {"new", "street.jpg"}


def test_drop_a_photo_and_download_everything(served: Served) -> None:
    page, image = served.open(), photo()
    drop = """(text) => { const data = new DataTransfer();
        const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
        data.items.add(new File([bytes], "my street.jpg", {type: "image/jpeg"}));
        return data; }"""
    data = page.evaluate_handle(drop, base64.b64encode(image).decode())
    page.get_by_text("Drop a photo").dispatch_event("drop", {"dataTransfer": data})
    expect(page.locator(".legend")).to_be_visible()
    result = served.label(image)
    means = result.mean_confidence()
    assert legend(page) == [["", name, share, f"{100 * means[name]:.1f} %"] for _, name, share in result.legend()]
    name, content = download(page, "Labels")
    assert name == "my street_labels.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), result.mask)
    name, content = download(page, "Overlay")
    assert name == "my street_overlay.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(result.overlay()))
    name, content = download(page, "GeoJSON")
    assert (name, json.loads(content)) == ("my street.geojson", json.loads(json.dumps(result.to_geojson())))
    name, content = download(page, "Table")
    (row,) = csv.DictReader(io.StringIO(content.decode()))
    assert (name, row["path"], row["width"], row["height"]) == ("my street.csv", "my street.jpg", "512", "256")
    shares = result.fractions()
    assert {each: float(row[each]) for each in result.classes} == {
        each: shares.get(each, 0.0) for each in result.classes
    }
    assert {each: float(row[f"{each} confidence"]) for each in means} == means


def fetch(page: Any, path: str, body: object = None) -> tuple[int, bytes]:
    """Ask from within the page: the test itself may be in another network."""
    program = """async ([path, body]) => {
        const headers = {"Content-Type": "application/json"};
        const answer = await fetch(path, body ? {method: "POST", body: JSON.stringify(body), headers} : {});
        const bytes = new Uint8Array(await answer.arrayBuffer());
        return [answer.status, btoa(Array.from(bytes, each => String.fromCharCode(each)).join(""))]; }"""
    status, content = page.evaluate(program, [path, body])
    return status, base64.b64decode(content)


def slider_image(page: Any) -> np.ndarray[Any, Any]:
    """Return what the visible slider shows at its right."""
    _, content = fetch(page, str(page.locator("img.fixed:visible").get_attribute("src")))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)


def test_slider_classes_and_confidence(served: Served) -> None:
    page, image = served.open(), photo(1)
    give(page, "street.jpg", image)
    mask_of(page)
    result = served.label(image)
    assert np.abs(slider_image(page) - np.asarray(result.overlay(legend=False), np.int16)).mean() < 8  # WebP is lossy
    page.get_by_role("tab", name="Confidence").click()
    assert np.abs(slider_image(page) - np.asarray(result.confidence_image(scale=False), np.int16)).mean() < 8

    off = ("building", "vegetation")
    for name in off:
        page.get_by_label(name, exact=True).uncheck()
    page.get_by_label("number input for Least confidence").fill("0.9")
    page.keyboard.press("Tab")
    expect(page.locator(".legend")).to_contain_text("unlabeled")
    chosen = [each for each in result.classes if each not in off]
    less = served.label(image, classes=chosen, min_confidence=0.9)
    expect(page.locator(".legend tr")).to_have_count(len(less.legend()) + 1)
    np.testing.assert_array_equal(mask_of(page), less.mask)


def test_example_and_another_model(served: Served) -> None:
    page = served.open()
    page.get_by_role("button").filter(has=page.locator("img")).first.click()
    first = mask_of(page)
    np.testing.assert_array_equal(first, served.label(encode(Image.fromarray(scene(0).image), "JPEG", quality=90)).mask)
    page.get_by_label("Model").click()
    page.get_by_role("option", name="demo", exact=True).click()
    np.testing.assert_array_equal(mask_of(page), first)


def test_bad_images_end_in_words_on_a_phone(served: Served) -> None:
    page = served.open(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    give(page, "street.jpg", photo())
    mask_of(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name, content, words in (
        ("broken.jpg", photo()[:3000], "broken.jpg: damaged or incomplete data"),
        ("notes.jpg", b"no photo", "notes.jpg: none of the formats"),
        ("large.png", encode(Image.new("L", (6000, 5000)), "PNG"), "30,000,000 pixels; the page takes 25,000,000"),
    ):
        give(page, name, content)
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(page.locator(".legend")).to_have_count(0)  # nor anything else of the image before
        expect(page.locator("img.fixed")).to_have_count(0)
        expect(page.get_by_role("button", name="Labels")).to_be_disabled()


def test_nothing_leaves_this_machine(served: Served) -> None:
    """Here for one image; the fixture looks again after all tests."""
    page = served.open()
    give(page, "street.jpg", photo(2))
    mask_of(page)
    assert len(served.requests) > 20
    expect(page.locator("link[rel=preconnect], link[rel=dns-prefetch]")).to_have_count(0)  # which are no requests
    served.check_that_nothing_left()


def test_three_at_once(served: Served) -> None:
    pages, photos = [served.open() for _ in range(3)], [photo(seed, 256, 400 + seed) for seed in range(3)]
    for page, image in zip(pages, photos, strict=True):
        give(page, "street.jpg", image)
    for page, image in zip(pages, photos, strict=True):
        np.testing.assert_array_equal(mask_of(page), served.label(image).mask)


def test_requests_by_hand_get_nothing_else(served: Served, tmp_path: Path) -> None:
    """Neither files of this machine, nor what lies behind an address."""
    (secret := tmp_path / "secret.txt").write_text("secret")
    page = served.open()
    address = "http://192.0.2.1/photo.jpg"  # of no machine (RFC 5737)
    for path in (f"file={secret}", f"file={address}", f"file/{address}", f"proxy={address}", "runs"):
        status, content = fetch(page, f"gradio_api/{path}")
        assert status in (403, 404), path
        assert b"secret" not in content.replace(str(secret).encode(), b"")
    config = json.loads(fetch(page, "config")[1])
    show = next(each["id"] for each in config["dependencies"] if len(each["inputs"]) == 4)
    for number, path in enumerate((str(secret), address)):
        for place in (0, 2):
            data: list[Any] = [None, "demo", ["road"], 0]
            data[place] = {"path": path, "meta": {"_type": "gradio.FileData"}}
            session = f"hand{number}{place}"
            fetch(page, "gradio_api/queue/join", {"data": data, "fn_index": show, "session_hash": session})
            _, events = fetch(page, f"gradio_api/queue/data?session_hash={session}")
            assert b"this file was not uploaded" in events
    example = urllib.parse.unquote(str(page.locator("button img").first.get_attribute("src")).partition("file=")[2])
    data = [{"path": example, "meta": {"_type": "gradio.FileData"}}, "hf-hub:org/name", ["road"], 0]
    fetch(page, "gradio_api/queue/join", {"data": data, "fn_index": show, "session_hash": "hand"})
    assert b"no model hf-hub:org/name on this machine" in fetch(page, "gradio_api/queue/data?session_hash=hand")[1]
