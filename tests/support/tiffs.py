"""TIFF files of any layout, for what Pillow does not write."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

LZW, DEFLATE = 5, 8


class Layout(NamedTuple):
    """How the values of an image are stored."""

    photometric: int = 2
    extra: tuple[int, ...] = ()
    compression: int = 1
    predictor: int = 1
    separate: bool = False
    tile: tuple[int, int] | None = None  # height, width
    rows: int | None = None  # of a strip
    tags: Mapping[int, int] = {}  # further ones, of 4 bytes


def tiff(*pages: tuple[npt.NDArray[Any], Layout], order: Literal["<", ">"] = "<", big: bool = False) -> bytes:
    """Return a file of images (height, width, bands), one for each page."""
    magic = {"<": b"II", ">": b"MM"}[order]
    out = bytearray(magic + struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8))))
    for number, (values, layout) in enumerate(pages):
        tags = _tags(values, layout, order)
        entry = order + ("HHQ" if big else "HHI")
        inline = 8 if big else 4
        count = order + ("Q" if big else "H")
        start = len(out)
        room = start + struct.calcsize(count) + len(tags) * (struct.calcsize(entry) + inline) + inline
        entries, data = b"", b""
        for tag, (code, content) in sorted(tags.items()):
            values_or_places = []
            for each in content:
                values_or_places.append(room + len(data) if isinstance(each, bytes) else each)
                data += each if isinstance(each, bytes) else b""
            body = struct.pack(f"{order}{len(content)}{code}", *values_or_places)
            place = body
            if len(body) > inline:
                place = struct.pack(order + ("Q" if big else "I"), room + len(data))
                data += body
            entries += struct.pack(entry, tag, {"H": 3, "I": 4}[code], len(content)) + place.ljust(inline, b"\0")
        after = room + len(data) if number < len(pages) - 1 else 0
        out += struct.pack(count, len(tags)) + entries + struct.pack(order + ("Q" if big else "I"), after) + data
    return bytes(out)


def _tags(values: npt.NDArray[Any], layout: Layout, order: Literal["<", ">"]) -> dict[int, tuple[str, Sequence[Any]]]:
    height, width, bands = values.shape
    planes = [values[:, :, band : band + 1] for band in range(bands)] if layout.separate else [values]
    h, w = layout.tile or (layout.rows or height, width)
    pieces = []
    for plane in planes:
        for top in range(0, height, h):
            for left in range(0, width, w):
                piece = plane[top : top + h, left : left + w]
                if layout.tile:
                    room = [(0, h - piece.shape[0]), (0, w - piece.shape[1]), (0, 0)]
                    piece = np.pad(piece, room)
                pieces.append(_packed(piece, layout, order))
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    found: dict[int, tuple[str, Sequence[Any]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [values.itemsize * 8] * bands),
        259: ("H", [layout.compression]),
        262: ("H", [layout.photometric]),
        277: ("H", [bands]),
        284: ("H", [2 if layout.separate else 1]),
        317: ("H", [layout.predictor]),
        339: ("H", [kind] * bands),
        **{tag: ("I", [value]) for tag, value in layout.tags.items()},
    }
    if layout.extra:
        found[338] = "H", list(layout.extra)
    if layout.tile:
        found |= {322: ("I", [w]), 323: ("I", [h])}
    else:
        found[278] = "I", [h]
    offsets, counts = (324, 325) if layout.tile else (273, 279)
    return found | {offsets: ("I", pieces), counts: ("I", [len(piece) for piece in pieces])}


def _packed(piece: npt.NDArray[Any], layout: Layout, order: Literal["<", ">"]) -> bytes:
    if layout.predictor == 2:
        piece = np.concatenate([piece[:, :1], np.diff(piece, axis=1)], axis=1)
    data = piece.astype(piece.dtype.newbyteorder(order)).tobytes()
    if layout.compression == DEFLATE:
        return zlib.compress(data)
    if layout.compression == LZW:
        stream = io.BytesIO()
        rows = np.frombuffer(data, np.uint8).reshape(piece.shape[0], -1)
        Image.fromarray(rows).save(stream, "TIFF", compression="tiff_lzw")
        with Image.open(stream) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            return stream.getvalue()[tags[273][0] :][: tags[279][0]]
    return data
