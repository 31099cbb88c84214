"""Video files, streams and cameras <-> frames and sound; PyAV (extra `video`) does the work."""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hrnet_zoo.errors import ConfigError, ImageError, OutputError, redact
from hrnet_zoo.images.atomic import check_place, output_errors, replacing
from hrnet_zoo.images.formats import check_size, source_name

if TYPE_CHECKING:
    from hrnet_zoo.images.read import RGB

SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv"}
    | {".ts", ".vob", ".webm", ".wmv"}
)
_H264 = ("libx264", "aac", {"preset": "veryfast", "crf": "20"})
_VP9 = ("libvpx-vp9", "libopus", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"})
# FFmpeg's format, the encoders of video and (where sound cannot be copied) of sound, and options of the first.
FORMATS = {".mp4": ("mp4", *_H264), ".mov": ("mov", *_H264), ".mkv": ("matroska", *_H264), ".webm": ("webm", *_VP9)}

STALL_S = 10.0  # a stream without data for so long has ended
_MISSING_S = 1  # what may be missing from the stated length of a whole file
_USUAL_RATE = 25  # frames a second, for the encoder where a file does not say
_BT709 = 1  # matrix, primaries and transfer of ITU-T H.273 for HD
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class Frame(NamedTuple):
    """A frame as displayed: its number in the video, from 0; its time and duration in ticks; and its pixels."""

    number: int
    pts: int
    duration: int
    image: RGB


def is_video(source: str) -> bool:
    """Tell whether a source is a video by its ending, a stream by its scheme, or a camera by its number."""
    address = _ADDRESS.match(source)
    if address and not address[1].lower().startswith("http"):
        return True
    path = re.split("[?#]", source)[0] if address else source
    return Path(path).suffix.lower() in SUFFIXES or _is_camera(source)


def _is_camera(source: str) -> bool:
    return source.isdecimal() and not os.path.lexists(source)


class VideoReader:
    """The frames of a video file, stream or camera, in order; a context manager.

    What is wrong with the data ends the frames or skips some, and is raised by `raise_fault`, so that all that can be
    read is used.

    Attributes:
        name: the source, printable, without passwords.
        time_base: seconds of a tick, in which frames have their times.
        expected: the number of frames, or None if it is unknown.
        aspect: width of a pixel by its height, as displayed.
        audio: the streams of sound.
        sound: packets of sound that were read and not yet taken.
        count: how many frames were read.
        seconds: the time of the last one.

    """

    def __init__(self, source: str | os.PathLike[str], *, sound: bool = False) -> None:
        """Open a video.

        Args:
            source: a file; an address, such as rtsp://host/path; or the number of a camera. Of streams and cameras,
                frames that come faster than they are taken are left out.
            sound: keep the packets of sound for `VideoWriter`.

        Raises:
            ConfigError: PyAV is missing.
            ImageError: it cannot be opened, or has no video.

        """
        source = os.fspath(source)
        self.name = source_name(redact(source))
        self._av = _pyav(f"read the video {self.name}")
        address, camera = _ADDRESS.match(source), _is_camera(source)
        self._live = camera or (address is not None and not address[1].lower().startswith("http"))
        self._is_file = not (camera or address)
        self.sound: deque[Any] = deque()
        self.count, self.seconds = 0, 0.0
        self._last: tuple[int, int] | None = None  # time of the last frame, and ticks to the next one if it has none
        self._size: tuple[int, ...] | None = None
        self._fault, self._faults = "", 0
        name, options = f"file:{source}" if self._is_file else source, {}
        kind = None
        if camera:
            kind, name = self._camera(source)
        elif source.lower().startswith("rtsp"):
            options = {"rtsp_transport": "tcp"}  # packets of UDP get lost, and gray patches are labeled
        try:
            if self._is_file:
                os.stat(source)  # noqa: PTH116 - whose errors name the reason
            self._container = self._av.open(
                *(name, "r", kind, options),
                timeout=None if self._is_file else STALL_S,
                metadata_errors="replace",
            )
        except (OSError, ValueError, self._av.FFmpegError) as error:
            raise self._error(f"it cannot be opened: {self._reason(error)}", "nothing was read") from error
        self._video = self._container.streams.best("video")
        if self._video is None or self._video.codec_context is None or self._attached():
            self._container.close()
            raise self._error("it has no video, or one in an unknown format", "nothing was read")
        self._video.thread_type = "AUTO"
        self.audio = [each for each in self._container.streams.audio if each.codec_context is not None] if sound else []
        self.time_base: Fraction = self._video.time_base
        self.rate: Fraction | None = self._video.average_rate or None
        self.expected: int | None = self._video.frames or None
        self.aspect = Fraction(self._video.sample_aspect_ratio or 1)
        # As ffmpeg does: the first stream begins at 0. Sound before 0 is a decoder's warm-up.
        self.start = Fraction(max(0, self._container.start_time or 0), self._av.time_base)
        self.origins = {each.index: round(self.start / each.time_base) for each in (self._video, *self.audio)}

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self, every: int = 1) -> Generator[Frame, None, None]:
        """Yield every n-th frame, beginning with the first; never raises what is wrong with the data."""
        frames = self._read(every)
        with closing(_newest(frames) if self._live else frames) as chosen:
            yield from chosen

    def raise_fault(self, done: str) -> None:
        """Raise ImageError if the data were not as they should be."""
        if not self._fault and not self.count:
            self._fault = "no frame could be read"
        if self._fault:
            more = f"; and {self._faults - 1} such faults after it" if self._faults > 1 else ""
            raise self._error(self._fault + more, done)

    def _read(self, every: int) -> Generator[Frame, None, None]:
        for packet in self._packets():
            try:
                decoded = self._video.codec_context.decode(packet)
            except self._av.FFmpegError as error:
                self._note(self._reason(error), packet)
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self._note("a damaged frame", frame)
                try:
                    pts = self._time(frame)
                    image = self._rgb(frame) if self.count % every == 0 else None
                except ImageError as error:
                    self._note(error.found)
                    return
                number, self.count, self.seconds = self.count, self.count + 1, float(pts * self.time_base)
                if image is not None:
                    yield Frame(number, pts, every * (frame.duration or 0), image)

    def _packets(self) -> Iterator[Any]:
        end = Fraction(0)
        try:
            for packet in self._container.demux(self._video, *self.audio):
                if packet.pts is not None:
                    ticks = packet.pts + (packet.duration or 0) - self.origins[packet.stream.index]
                    end = max(end, ticks * packet.time_base)
                if packet.is_corrupt:
                    self._note("damaged data", packet)
                if packet.stream.index == self._video.index:
                    yield packet
                elif packet.dts is not None:
                    self.sound.append(packet)
        except self._av.FFmpegError as error:
            self._note(self._reason(error))
            yield None  # the decoder has some frames left
            return
        stated, step = Fraction(self._container.duration or 0, self._av.time_base), Fraction(0)
        if self.rate:
            step = Fraction(1) / self.rate
            if self.expected and self._container.format.name == "avi":  # of which FFmpeg states what it finds
                stated = self.expected * step
        if self._is_file and end < stated - max(Fraction(_MISSING_S), step):
            self._note(f"the data end at {float(end):.3f} s of {float(stated):.3f} s")

    def _time(self, frame: Any) -> int:  # noqa: ANN401
        """Return the time of a frame in ticks from the start; one without, or before the last, follows the last."""
        step = frame.duration or (self.rate and round(1 / self.rate / self.time_base))
        pts: int | None = None if frame.pts is None else frame.pts - self.origins[self._video.index]
        if pts is None or (self._last and pts <= self._last[0]):
            if not step and not (self._last and self._last[1]):
                raise self._error("frames without times, and no frame rate (0 frames a second)", "")
            pts = self._last[0] + self._last[1] if self._last else 0
        self._last = pts, max(1, step or 0) if step else 0
        return pts

    def _rgb(self, frame: Any) -> RGB:  # noqa: ANN401
        """Return the pixels as displayed: PyAV tells the rotation, and does not apply it."""
        check_size((frame.width, frame.height))
        quarters = round(frame.rotation / 90) % 4
        image: RGB = np.rot90(frame.to_ndarray(format="rgb24"), quarters)
        if self._size is None:
            self._size = image.shape
            self.aspect = 1 / self.aspect if quarters % 2 else self.aspect
        if image.shape != self._size:
            (height, width), (old_height, old_width) = image.shape[:2], self._size[:2]
            raise self._error(f"the size changes from {old_width} x {old_height} to {width} x {height} pixels", "")
        return image

    def _note(self, found: str, at: Any = None) -> None:  # noqa: ANN401
        seconds = self.seconds
        if at is not None and at.pts is not None:  # decoders are some frames behind
            seconds = float((at.pts * at.time_base) - self.start)
        self._fault = self._fault or f"at {seconds:.3f} s, after {self.count} frames: {found}"
        self._faults += 1

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self._av.error.ExitError):  # PyAV's own time limit
            return f"no data for {STALL_S:.0f} s"
        return redact(getattr(error, "strerror", None) or str(error))

    def _error(self, found: str, done: str) -> ImageError:
        advice = (
            "fetch or export it anew; ffprobe tells what is in it"
            if self._is_file
            else "check the address and the connection"
        )
        asked = f"read the video {self.name}"
        return ImageError(asked=asked, found=found, done=done, advice=advice, source=self.name)

    def _attached(self) -> bool:
        """Tell whether the video is the cover of a record."""
        return bool(self._video.disposition & self._av.stream.Disposition.attached_pic)

    def _camera(self, number: str) -> tuple[str, str]:
        if sys.platform not in _CAMERAS:
            raise self._error("cameras have numbers on Linux and macOS alone", "nothing was read")
        kind, name = _CAMERAS[sys.platform]
        return kind, name.format(number)


def _newest(frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """Yield the newest frame, while a thread reads on: what a stream sends meanwhile would pile up, or be refused."""
    newest: queue.Queue[Frame | None] = queue.Queue(1)
    stopped = threading.Event()

    def put(frame: Frame | None) -> None:
        with suppress(queue.Empty):
            newest.get_nowait()
        newest.put(frame)

    def read() -> None:
        try:
            for frame in frames:
                if stopped.is_set():
                    break
                put(frame)
        finally:
            newest.put(None)

    thread = threading.Thread(target=read, name="hrnet-zoo")
    thread.start()
    try:
        yield from iter(newest.get, None)
    finally:
        stopped.set()
        with suppress(queue.Empty):  # so that the thread can put the end
            newest.get_nowait()
        thread.join()


class VideoWriter:
    """Writes frames at their times, with a reader's sound, into a file that is whole whatever ends the writing.

    H.264 or, in .webm, VP9, in yuv420p. Sound is copied where the file can have it, and else becomes AAC or Opus. A
    context manager; without a frame no file is made, and if it cannot be written it vanishes.
    """

    def __init__(self, path: Path, reader: VideoReader, *, every: int, comment: str, force: bool = False) -> None:
        """Begin a file.

        Args:
            path: ends in one of `FORMATS`.
            reader: whose `sound` is taken, and whose frames are written.
            every: that of the reader's `frames`.
            comment: what the file says about itself.
            force: replace an existing file.

        Raises:
            ConfigError: the ending is another one, or PyAV is missing.
            OutputError: the file exists, or cannot be written.

        """
        self.path, self._reader, self._comment = path, reader, comment
        self._rate = Fraction(reader.rate or _USUAL_RATE) / every
        check_video_path(self.path, force=force)
        self._av = _pyav(f"write the video {path}")
        self._stack = ExitStack()
        self._failed = False
        self._container: Any = None
        self._video: Any = None
        self._sound: dict[int, tuple[Any, bool]] = {}  # by the reader's stream: ours, and whether it encodes
        self._sound_end: dict[int, int] = {}

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        if self._failed:
            with suppress(OSError, ValueError, self._av.FFmpegError):  # the error under way says more
                self._container.close()
            self._stack.__exit__(*error)
        elif self._container is not None:
            with self._errors(), self._stack:
                self._copy_sound()
                for encoder in (self._video, *(stream for stream, encodes in self._sound.values() if encodes)):
                    self._container.mux(encoder.encode(None))
                self._container.close()

    def write(self, frame: Frame, image: RGB) -> None:
        """Append an image, at the time of a frame of the reader.

        Raises:
            OutputError: it cannot be written.

        """
        with self._errors():
            if self._container is None:
                self._open(image)
            self._copy_sound()
            picture = self._av.VideoFrame.from_ndarray(_even(image), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts, picture.time_base, picture.duration = frame.pts, self._reader.time_base, frame.duration
            self._container.mux(self._video.encode(picture))

    def _open(self, image: RGB) -> None:
        kind, codec, self._sound_codec, options = FORMATS[self.path.suffix.lower()]
        file = self._stack.enter_context(replacing(self.path))
        self._container = self._av.open(file, "w", kind)
        self._container.metadata["comment"] = self._comment
        self._video = self._container.add_stream(codec, rate=self._rate, options=options)
        self._video.height, self._video.width = _even(image).shape[:2]
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.time_base = self._reader.time_base
        context.sample_aspect_ratio = self._reader.aspect
        context.color_range = context.colorspace = context.color_primaries = context.color_trc = _BT709
        for audio in self._reader.audio:
            try:
                self._sound[audio.index] = self._container.add_stream_from_template(audio), False
            except ValueError:  # such a file cannot have it
                rate = 48000 if self._sound_codec == "libopus" else audio.rate
                stream = self._container.add_stream(self._sound_codec, rate=rate, layout=audio.layout)
                self._sound[audio.index] = stream, True

    def _copy_sound(self) -> None:
        while self._reader.sound:
            packet = self._reader.sound.popleft()
            index = packet.stream.index
            stream, encodes = self._sound[index]
            origin = self._reader.origins[index]
            if encodes:
                for frame in packet.decode():
                    frame.pts = None if frame.pts is None else frame.pts - origin
                    self._container.mux(stream.encode(frame))
                continue
            if packet.dts <= self._sound_end.get(index, packet.dts - 1):  # of broken data
                continue
            self._sound_end[index] = packet.dts
            packet.pts, packet.dts, packet.stream = packet.pts - origin, packet.dts - origin, stream
            self._container.mux(packet)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        asked, done = f"write the video {self.path}", "no file was made or changed"
        advice = "check the path, the permissions and the free space"
        try:
            with output_errors(self.path, asked, done, advice):
                yield
        except (ValueError, self._av.FFmpegError) as error:
            self._failed = True
            raise OutputError(asked=asked, found=str(error), done=done, advice=advice, path=self.path) from error
        except BaseException:
            self._failed = True
            raise


def check_video_path(path: Path, *, force: bool) -> None:
    """Raise an error if a video cannot be written, before its frames are computed.

    Raises:
        ConfigError: the ending is none of `FORMATS`.
        OutputError: it exists and `force` is not given, or it cannot be written.

    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            asked=f"write the video {path}",
            found=f"the ending {path.suffix!r}",
            done="nothing was computed or written",
            advice=f"give a file that ends in {', '.join(FORMATS)}",
        )
    check_place(path, force=force)


def _even(image: RGB) -> RGB:
    """Repeat the last row and column of an odd size: yuv420p has a color for each two by two pixels."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else image


def _pyav(asked: str) -> Any:  # noqa: ANN401 - a module
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            asked=asked,
            found=f"videos need PyAV: {error}",
            done="nothing was computed or written",
            advice="pip install '.[video]' in the checkout of hrnet-zoo",
        ) from error
    return av
