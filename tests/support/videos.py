"""Videos made by code: frames at any times, with sound, in any format."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrnet_zoo.demo.scenes import scene

Pixels = npt.NDArray[np.uint8]

VARYING = tuple(Fraction(number, 10) + Fraction(number % 3, 50) for number in range(24))  # seconds
_SAMPLES = 48000  # of sound a second


def scenes(number: int, height: int = 64, width: int = 96) -> list[Pixels]:
    """Return images that move: a generated scene, shifted."""
    image = scene(0, height, width).image
    return [np.ascontiguousarray(np.roll(image, 2 * shift, axis=1)) for shift in range(number)]


def write_video(
    path: Path,
    images: Sequence[Pixels],
    times: Iterable[Fraction] = VARYING,
    *,
    codec: str = "libx264",
    sound: str | None = "aac",
    time_base: Fraction = Fraction(1, 1000),
    **options: str,
) -> Path:
    """Write images at times in seconds, with a tone from the first to the last unless `sound` is None.

    `options` are the container's.
    """
    import av

    with av.open(path, "w", options=options) as container:
        video: Any = container.add_stream(codec, rate=10)
        tone: Any = container.add_stream(sound, rate=_SAMPLES, layout="mono") if sound else None
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.codec_context.time_base, video.codec_context.gop_size = time_base, 8
        video.height, video.width = images[0].shape[:2] if images else (64, 96)
        container.start_encoding()
        played = None
        for image, time in zip(images, times, strict=False):
            frame: Any = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            container.mux(video.encode(frame))
            played = round(time * _SAMPLES) if played is None else played
            while tone and played < (time + Fraction(1, 10)) * _SAMPLES:
                wave = 0.2 * np.sin(2 * np.pi * 440 / _SAMPLES * np.arange(played, played + 1024))
                samples: Any = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = _SAMPLES, played, Fraction(1, _SAMPLES)
                container.mux(tone.encode(samples))
                played += 1024
        for stream in (video, tone):
            if stream:
                container.mux(stream.encode(None))
    return path


def frame_times(path: Path) -> list[Fraction]:
    """Return the times of the frames of a video, in seconds from its start."""
    import av

    with av.open(path) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sound_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    """Return time and data of each packet of sound."""
    import av

    with av.open(path) as container:
        return [(each.pts * each.time_base, bytes(each)) for each in container.demux(audio=0) if each.size]
