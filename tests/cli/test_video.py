"""The command `predict` for videos."""

import csv
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

import hrnet_zoo
from tests.cli.conftest import Run
from tests.support.videos import frame_times, scenes, write_video

pytest.importorskip("av")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save the demo network so that it sees frames at their small size."""
    model = hrnet_zoo.create_model("demo", device="cpu")
    model.dataset = replace(model.dataset, resize_to=(96, 64))
    return f"local-dir:{model.save_pretrained(tmp_path_factory.mktemp('models') / 'small')}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "a.mp4", scenes(3))


def test_overlays_and_shares_of_a_clip(run: Run, small: str, clip: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "b.webm", tmp_path / "b.jsonl"
    options = ("--table", table, "--confidence", "--smooth", "0.5", "--only", "green=vegetation+terrain,road")
    text = run("predict", small, clip, "--out", out, *options, "--device", "cpu")
    assert text.startswith(f"{clip}: 3 frames labeled, to 0.240 s: ")
    assert text.endswith(f"; written: {out} and {table}\n")
    assert len(frame_times(out)) == 3
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    assert [row["seconds"] for row in rows] == [0, 0.12, 0.24]
    assert {"green", "road", "other", "green confidence"} <= set(rows[0])
    run("predict", small, clip, "--out", out, code=5)
    assert "exists already" in run.err
    facts = json.loads(run("predict", small, clip, "--out", tmp_path / "c", "--every", "2", "--json"))
    assert (facts["frames"], facts["written"]) == (2, [str(tmp_path / "c" / "a_overlay.mp4")])
    assert sum(facts["fractions"].values()) == pytest.approx(1)


def test_a_damaged_clip_is_bad_input(run: Run, small: str, clip: Path, tmp_path: Path) -> None:
    broken = write_video(tmp_path / "a.mkv", scenes(6), [Fraction(number) for number in range(6)])
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    table = tmp_path / "a.csv"
    text = run("predict", small, broken, "--table", table, "--no-overlay", "--device", "cpu", code=5)
    with table.open(encoding="utf-8", newline="") as file:
        number = len(list(csv.DictReader(file)))
    assert 0 < number < 6
    assert f"{number} frames labeled" in text
    assert "at 4.000 s, after 5 frames: the data end at " in run.err


def test_options_of_images_and_of_videos(run: Run, small: str, clip: Path, tmp_path: Path) -> None:
    for options, words in (
        ([clip, "--geojson"], "--geojson is not for videos"),
        ([clip, "--on-error", "raise"], "--on-error is not for videos"),
        ([clip, "--window", "64"], "--window is not for videos"),
        ([clip, clip], "one video at a time"),
        ([clip, "--no-overlay"], "nothing to write"),
        ([tmp_path / "a.png", "--every", "2"], "for videos"),
        (["http://127.0.0.1:1/a.jpg"], "images are files"),
    ):
        run("predict", small, *options, code=2)
        assert words in run.err


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to another process")
def test_a_stream_is_recorded_until_ctrl_c(small: str, tmp_path: Path) -> None:
    stream = write_video(tmp_path / "a.ts", scenes(60), [Fraction(number, 10) for number in range(60)]).read_bytes()
    out = tmp_path / "b.mp4"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            """Send as a camera does: slowly, and until nobody listens."""
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):
                for start in range(0, len(stream), 188):
                    connection.sendall(stream[start : start + 188])
                    time.sleep(0.01)

        sender = threading.Thread(target=send)
        sender.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        arguments = ("predict", small, address, "--out", str(out), "--device", "cpu")
        command = [sys.executable, "-m", "hrnet_zoo", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
        try:
            while process.poll() is None and not list(tmp_path.glob(".*.part")):
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            text, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            sender.join()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    times = frame_times(out)
    assert times == sorted(set(times))
    assert len(times) >= 1
    assert "frames labeled" in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
