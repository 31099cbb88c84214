"""Video files and streams <-> frames and sound."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from hrnet_zoo.errors import ConfigError, ImageError, OutputError, OutputSpaceError
from hrnet_zoo.images.video import STALL_S, VideoReader, VideoWriter, is_video
from tests.support.videos import VARYING, Pixels, frame_times, scenes, sound_packets, write_video

av: Any = pytest.importorskip("av")


def copy(source: Path, target: Path, every: int = 1) -> list[int]:
    """Write the frames of a video into another one; return their numbers."""
    numbers = []
    with (
        VideoReader(source, sound=True) as reader,
        VideoWriter(target, reader, every=every, comment="a copy") as writer,
    ):
        for frame in reader.frames(every):
            numbers.append(frame.number)
            writer.write(frame, frame.image)
        reader.raise_fault("it was copied")
    return numbers


def read(path: Path) -> list[Pixels]:
    with VideoReader(path) as reader:
        images = [frame.image for frame in reader.frames()]
        reader.raise_fault("")
    return images


def test_what_is_a_video() -> None:
    names = ("a.MP4", "b/c.webm", "0", "rtsp://host/live", "tcp://host:1", "http://host/a.mp4?b=c.jpg")
    assert all(map(is_video, names))
    assert not any(map(is_video, ("a.jpg", "mp4", "", "folder", "http://host/a.jpg", "*.png")))


@pytest.mark.parametrize("ending", ["mp4", "mov", "webm"])
def test_times_and_sound_are_kept(tmp_path: Path, ending: str) -> None:
    """At a varying rate; sound is the same packets, or where a format cannot have it as long."""
    source, target = write_video(tmp_path / "a.mp4", scenes(24)), tmp_path / f"b.{ending}"
    assert frame_times(source) == list(VARYING)
    assert copy(source, target) == list(range(24))
    assert frame_times(target) == list(VARYING)
    before, after = map(sound_packets, (source, target))
    if ending == "webm":
        assert float(after[-1][0]) == pytest.approx(float(before[-1][0]), abs=0.1)
    else:
        assert after == before
    with av.open(target) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == {"webm": ("libvpx-vp9", "opus")}.get(
            ending, ("h264", "aac")
        ) or video.codec_context.name == "vp9"
        assert video.codec_context.pix_fmt == "yuv420p"
        assert {key.lower(): value for key, value in container.metadata.items()}["comment"] == "a copy"


def test_every_nth_frame(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", scenes(24))
    assert copy(source, tmp_path / "b.mp4", 5) == [0, 5, 10, 15, 20]
    assert frame_times(tmp_path / "b.mp4") == list(VARYING[::5])
    assert sound_packets(tmp_path / "b.mp4") == sound_packets(source)


def test_sound_that_a_format_cannot_have_is_encoded(tmp_path: Path) -> None:
    """And a stream that begins late begins at 0."""
    source = write_video(tmp_path / "a.ts", scenes(24), [time + 50 for time in VARYING], sound="mp2")
    target = tmp_path / "b.webm"
    copy(source, target)
    times = frame_times(target)
    assert [round(float(after - before), 3) for before, after in pairwise(times)] == [
        round(float(after - before), 3) for before, after in pairwise(VARYING)
    ]
    assert times[0] < 0.1
    assert float(sound_packets(target)[-1][0]) == pytest.approx(2.4, abs=0.1)


def test_rotation_is_applied(tmp_path: Path) -> None:
    """A phone that is held upright stores its frames lying, and a matrix: left is displayed at the top."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255
    source = write_video(tmp_path / "a.mp4", [image], sound=None)
    data = source.read_bytes()
    one = (1 << 16).to_bytes(4, "big")
    tracks = data.index(b"trak")
    identity = b"".join((one, bytes(12), one, bytes(12), (1 << 30).to_bytes(4, "big")))
    turned = b"".join((bytes(4), one, bytes(4), (-1 << 16).to_bytes(4, "big", signed=True), bytes(16), identity[-4:]))
    start = data.index(identity, tracks)
    source.write_bytes(data[:start] + turned + data[start + len(turned) :])
    (shown,) = read(source)
    assert shown.shape == (64, 48, 3)
    assert shown[:28].min() > 240
    assert shown[36:].max() < 15
    copy(source, tmp_path / "b.mp4")
    (again,) = read(tmp_path / "b.mp4")
    assert np.abs(again.astype(int) - shown).mean() < 3


def test_colors_and_odd_sizes_survive(tmp_path: Path) -> None:
    image = np.empty((33, 47, 3), np.uint8)
    image[:] = (200, 60, 30)
    source = write_video(tmp_path / "a.mkv", [image] * 3, codec="ffv1", sound=None)
    copy(source, tmp_path / "b.mp4")
    for shown in read(tmp_path / "b.mp4"):
        assert shown.shape == (34, 48, 3)
        assert np.abs(shown.astype(int) - (200, 60, 30)).max() <= 6


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_a_truncated_file_gives_what_it_has(tmp_path: Path, name: str) -> None:
    times = [Fraction(number, 10) for number in range(60)]
    formats: dict[str, dict[str, Any]] = {
        "a.mkv": {},
        "a.mp4": {"movflags": "faststart"},
        "a.avi": {"codec": "mpeg4", "sound": "mp2", "time_base": Fraction(1, 10)},
    }
    path = write_video(tmp_path / name, scenes(60), times, **formats[name])
    whole = frame_times(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ImageError, match=r"found: at \d\.\d\d\d s, after \d+ frames: .*\n  done:  it was copied"
    ) as caught:
        copy(path, tmp_path / "b.mp4")
    assert caught.value.exit_code == 5
    times = frame_times(tmp_path / "b.mp4")
    assert 15 < len(times) < 45 <= len(whole)
    sure = len(times) - 4  # of the last ones, some need frames that are gone
    assert times[:sure] == whole[:sure]
    assert times == [time for time in whole if time in times]


@pytest.mark.parametrize("junk", [b"\0", b"\xff"])
def test_damage_is_told_of(tmp_path: Path, junk: bytes) -> None:
    """Whether it makes the decoder drop frames, or hide a part of one."""
    path = write_video(tmp_path / "a.mkv", scenes(24), sound=None)
    with av.open(path) as container:
        size, place = max((packet.size, packet.pos) for packet in container.demux(video=0) if (packet.pts or 0) > 1200)
    data = bytearray(path.read_bytes())
    data[place + 12 : place + size - 8] = junk * (size - 20)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"found: at 1\.\d+ s, after 1\d frames"):
        copy(path, tmp_path / "b.mp4")
    assert len(frame_times(tmp_path / "b.mp4")) >= 16


def jpegs(path: Path, sizes: list[tuple[int, int]], milliseconds: int) -> Path:
    """Write JPEG files of any sizes as the frames of a video."""
    from PIL import Image

    with av.open(path, "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1_000_000)
        for number, size in enumerate(sizes):
            file = io.BytesIO()
            Image.new("RGB", size, (90, 10 * number, 30)).save(file, "JPEG")
            packet = av.Packet(file.getvalue())
            packet.stream = stream
            packet.time_base = Fraction(1, 1_000_000)
            packet.pts = packet.dts = number * 1000 * milliseconds + number
            container.mux(packet)
    return path


def test_a_changing_size_ends_the_video(tmp_path: Path) -> None:
    path = jpegs(tmp_path / "a.mkv", [(64, 48)] * 3 + [(32, 48)] * 2, 100)
    with pytest.raises(ImageError, match="after 3 frames: the size changes from 64 x 48 to 32 x 48 pixels"):
        copy(path, tmp_path / "b.mp4")
    assert len(frame_times(tmp_path / "b.mp4")) == 3


def test_no_frames_a_second(tmp_path: Path) -> None:
    """All frames at the same time, and no rate is stated; with a rate they follow each other."""
    path = jpegs(tmp_path / "a.mkv", [(64, 48)] * 4, 0)
    assert copy(path, tmp_path / "b.mp4") == [0, 1, 2, 3]
    assert frame_times(tmp_path / "b.mp4") == [Fraction(number, 10) for number in range(4)]
    data = path.read_bytes()
    start = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration, 4 bytes
    path.write_bytes(data[:start] + b"\xec\x86" + data[start + 2 :])  # Void, 6 bytes
    with pytest.raises(ImageError, match=r"frames without times, and no frame rate \(0 frames a second\)"):
        copy(path, tmp_path / "c.mp4")


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    for source, found in (
        (tmp_path / "text.mp4", "it cannot be opened: Invalid data"),
        (tmp_path / "sound.mp4", "it has no video"),
        (tmp_path / "missing.mp4", "No such file"),
        (tmp_path, "Is a directory"),
        ("rtsp://user:secret@127.0.0.1:1/live", "it cannot be opened"),
        ("967", "it cannot be opened|Linux and macOS alone"),
    ):
        with pytest.raises(ImageError, match=found) as caught:
            VideoReader(source)
        assert "secret" not in str(caught.value)
    with VideoReader(write_video(tmp_path / "empty.avi", [], codec="mpeg4", sound=None)) as reader:
        assert not list(reader.frames())
        with pytest.raises(ImageError, match="no frame could be read"):
            reader.raise_fault("")


def test_a_missing_package_and_wrong_endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_video(tmp_path / "a.mp4", scenes(2))
    with VideoReader(source) as reader:
        with pytest.raises(ConfigError, match=r"ends in \.mp4, \.mov, \.mkv, \.webm"):
            VideoWriter(tmp_path / "b.avi", reader, every=1, comment="")
        with pytest.raises(OutputError, match="exists already"):
            VideoWriter(source, reader, every=1, comment="")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[video\]'"):
        VideoReader(source)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def on_full_disk(path: Path) -> Iterator[IO[bytes]]:
        with Path("/dev/full").open("wb", buffering=0) as file:
            yield file
        path.touch()

    source = write_video(tmp_path / "a.mp4", scenes(24))
    monkeypatch.setattr("hrnet_zoo.images.video.replacing", on_full_disk)
    with pytest.raises(OutputSpaceError, match="No space left"):
        copy(source, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


def test_a_silent_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    assert STALL_S < 60
    monkeypatch.setattr("hrnet_zoo.images.video.STALL_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ImageError, match="no data for 0 s"):
        VideoReader(f"tcp://127.0.0.1:{server.getsockname()[1]}")
