"""The serving example answers real clients, good, bad and rude ones (extra `serve`)."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import http.client
import io
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.exporting import runner
from tests.support.images import encode
from tests.support.tables import ROOT
from tests.support.tiny_export import TinyModel, write_onnx

for package in ("fastapi", "uvicorn", "onnx", "onnxruntime"):
    pytest.importorskip(package)

LIMIT = 100_000  # bytes of an upload
MODEL = TinyModel(dataclasses.replace(SCENES, resize_to=(192, 96)))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start the server as a user would who has serve.py, runner.py and the model in a folder, without this library."""
    folder = tmp_path_factory.mktemp("service")
    write_onnx(folder / "tiny.onnx", MODEL)
    (folder / "serve.py").write_bytes((ROOT / "examples" / "serve.py").read_bytes())
    (folder / "runner.py").write_bytes(Path(runner.__file__).read_bytes())
    program = (
        "import runpy, sys; sys.path.insert(0, '.'); sys.modules.update(torch=None, hrnet_zoo=None); "
        "runpy.run_path('serve.py', run_name='__main__')"
    )
    options = ("--port", "0", "--max-bytes", str(LIMIT), "--max-pixels", "60000", "--at-once", "1")
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", program, "tiny.onnx", *options],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if match := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                yield int(match[1])
                break
        server.terminate()
        rest = server.stderr.read()
    assert "Traceback" not in "".join(lines) + rest


def photo(seed: int = 0, height: int = 100, width: int = 140) -> bytes:
    return encode(Image.fromarray(scene(seed, height, width).image), "JPEG")


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def labels_of(answer: tuple[int, bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    status, body = answer
    assert status == 200, body
    with Image.open(io.BytesIO(body)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        return np.asarray(image)


def test_labels_and_shares(port: int) -> None:
    result = MODEL.predict(photo())
    np.testing.assert_array_equal(labels_of(ask(port, "/labels", photo())), result.mask)
    status, body = ask(port, "/shares", photo())
    assert status == 200
    assert json.loads(body)["shares"] == pytest.approx(result.fractions())
    status, body = ask(port, "/")
    assert status == 200
    assert json.loads(body)["classes"] == list(MODEL.classes)


def test_several_clients_at_once(port: int) -> None:
    photos = [photo(seed, 100 + seed, 140) for seed in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda body: labels_of(ask(port, "/labels", body)), photos))
    for body, labels in zip(photos, answers, strict=True):
        np.testing.assert_array_equal(labels, MODEL.predict(body).mask)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"no photo", 422, "cannot be read as a JPEG, PNG or WebP: it holds no image"),
        (b"", 422, "cannot be read as a JPEG, PNG or WebP"),
        (bytes(40 * LIMIT), 413, "the upload is larger than 100,000 bytes"),
        (photo(0, 300, 400), 422, "400 x 300 pixels; the limit is 60,000"),
        (encode(Image.new("RGB", (2000, 20)), "PNG"), 422, "192 x 2 pixels; 33 a side are the least"),
    ],
    ids=["text", "nothing", "large", "many pixels", "narrow"],
)
def test_bad_uploads_end_in_words(port: int, body: bytes, status: int, words: str) -> None:
    found, answer = ask(port, "/labels", body)
    assert found == status
    assert words in json.loads(answer)["error"]


def test_clients_that_hang_up_harm_no_others(port: int) -> None:
    body = photo()
    head = f"POST /labels HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head[:20], head, head + body[:500], head + body):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as rude:
            rude.sendall(sent)
    np.testing.assert_array_equal(labels_of(ask(port, "/labels", body)), MODEL.predict(body).mask)


def test_a_file_that_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("no network")
    done = subprocess.run(  # noqa: S603
        [sys.executable, ROOT / "examples" / "serve.py", tmp_path / "notes.onnx"],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot load" in done.stderr
