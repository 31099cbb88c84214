"""Damaged and hostile variants of good files, made by number, and a process of its own that tries them.

    python -W error -m tests.support.fuzz KIND FIRST COUNT

tries the mutants FIRST to FIRST + COUNT of one kind and prints what became of them as JSON. One that hangs (two seconds
of processor time) or crashes ends the process; the last line then tells its number. A mutant is the same on every
machine, but for the libraries that write the good files.
"""

import copy
import io
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.errors import HRNetZooError
from hrnet_zoo.images.read import read_image
from hrnet_zoo.weights.convert import read_checkpoint, to_safetensors
from hrnet_zoo.weights.state_dict import fit_state
from hrnet_zoo.zoo.model_config import Metrics, ModelConfig, Parent, parse_config
from hrnet_zoo.zoo.resolve import load_custom
from tests.support.checkpoints import (
    ATTACKS,
    GOOD_LEGACY,
    GOOD_ZIP,
    ORDERED_DICT,
    SYSTEM,
    VALUES,
    Member,
    archive,
    legacy,
    number,
    small_network,
    stand_in,
    storage,
    tensor,
    text,
    weights,
    zipped,
)

Mutate = Callable[[random.Random], bytes]

SECONDS = 2.0  # of processor time for one mutant
GROWTH = 4 << 30  # bytes of address space beyond what the libraries take: an allocation beyond is an error, no swapping

SHAPES = {
    "backbone.conv1.weight": (4, 3, 3, 3),
    "backbone.bn1.num_batches_tracked": (),
    "decode_head.conv_seg.weight": (19, 8, 1, 1),
    "decode_head.conv_seg.bias": (19,),
}
EXPECTED = {name: torch.Size(shape) for name, shape in SHAPES.items()}


class Kind(NamedTuple):
    """How mutants are made, and what is done with one."""

    mutate: Mutate
    use: Callable[[bytes], object]


# --- bytes -----------------------------------------------------------------------------------------------------------


def scrambled(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a file in one to four places as damage does, or as somebody who looks for holes."""
    mutant = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(mutant) + 1)
        length = chance.choice((1, 2, 4, 8, 64))
        change = chance.randrange(8)
        if change == 0:
            mutant[place : place + 1] = bytes([chance.randrange(256)])
        elif change == 1 and place < len(mutant):
            mutant[place] ^= 1 << chance.randrange(8)
        elif change == 2:
            mutant[place : place + length] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif change == 3:
            del mutant[place : place + length]
        elif change == 4:
            mutant[place:place] = chance.randbytes(length)
        elif change == 5:
            mutant[place:place] = mutant[place : place + length] * chance.choice((1, 2, 1000))
        elif change == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            mutant[place : place + length] = other[start : start + length]
        elif chance.random() < 0.2:
            del mutant[place:]
    return bytes(mutant)


# --- checkpoints -----------------------------------------------------------------------------------------------------

_SNIPPETS = (
    *(b"(", b"t", b"0", b"1", b"2", b"R", b"b", b"Q", b"s", b"u", b"a", b"e", b"N", b"}", b"]", b")", b".", b"\x85"),
    *(
        b"\x86",
        b"h\x00",
        b"q\x00",
        b"h\xff",
        b"\x81",
        b"\x93",
        b"o",
        b"\x80\x04",
        b"\x94",
        b"\x8f",
        b"U\x01x",
        b"I5\n",
        b"S'a'\n",
    ),
    *(ORDERED_DICT, SYSTEM, tensor(), storage(), storage(1 << 40), tensor(strides=(0,)), tensor(shape=(1 << 40,))),
    *(number(1 << 62), number(-1), text("a" * 300), b"ctorch\nFloatStorage\n", b"cbuiltins\nbytearray\n"),
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"c\xff\xfe\nx\n",
        b"X\xff\xff\xff\xff",
    ),
)


def _rewritten(chance: random.Random, pickled: bytes) -> bytes:
    """Put pieces of other pickles into one."""
    mutant = bytearray(pickled)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(mutant) + 1)
        mutant[place : place + chance.choice((0, 0, 1, 5))] = chance.choice(_SNIPPETS)
    return bytes(mutant)


def legacy_mutant() -> Mutate:
    """Return a maker of mutants of legacy files."""
    good = [GOOD_LEGACY, legacy(small_network().state_dict()), legacy(stand_in(SHAPES))]
    others = [*good, *(data for data, _, _ in ATTACKS.values() if data and len(data) < 5000)]

    def mutate(chance: random.Random) -> bytes:
        if chance.random() < 0.3:
            start = GOOD_LEGACY.index(weights()[:2], len(GOOD_LEGACY) - 200)
            body = _rewritten(chance, weights(tensor()))
            return GOOD_LEGACY[:start] + body + GOOD_LEGACY[start + len(weights(tensor())) :]
        return scrambled(chance, chance.choice(good), others)

    return mutate


def zip_mutant() -> Mutate:
    """Return a maker of mutants of zip files; half of them have right checksums, and so get further."""
    good = [GOOD_ZIP, zipped(small_network().state_dict()), zipped(stand_in(SHAPES))]
    body = weights(tensor(storage(view=b"")), tensor(storage(key="1", view=b"")))

    def mutate(chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            return scrambled(chance, chance.choice(good), good)
        parts = {"data.pkl": body, "data/0": VALUES, "data/1": VALUES, "version": b"3\n", "byteorder": b"little"}
        name = chance.choice(("data.pkl", "data.pkl", *parts))
        if name == "data.pkl" and chance.random() < 0.7:
            parts[name] = _rewritten(chance, parts[name])
        else:
            parts[name] = scrambled(chance, parts[name], [body])
        if chance.random() < 0.1:
            parts[chance.choice(("data/2", "../x", "data/0 ", ".format_version", "code/a.py"))] = b"1"
        return archive([Member(f"archive/{member}", data) for member, data in parts.items()])

    return mutate


def safetensors_mutant() -> Mutate:
    """Return a maker of mutants of safetensors; of half of them the header's length is right."""
    good = to_safetensors(
        fit_state(stand_in(SHAPES), EXPECTED, "good"), {"source_url": "a.pth", "source_sha256": "0" * 64}
    )
    start = 8 + int.from_bytes(good[:8], "little")

    def mutate(chance: random.Random) -> bytes:
        way = chance.random()
        if way < 0.3:
            return scrambled(chance, good, [good])
        header = good[8:start]
        changed = scrambled(chance, header, [header]) if way < 0.6 else _changed(chance, header)
        return struct.pack("<Q", len(changed)) + changed + good[start:]

    return mutate


def _use_safetensors() -> Callable[[bytes], object]:
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    path = folder / "mutant.safetensors"

    def use(data: bytes) -> object:
        path.unlink(missing_ok=True)  # never in place: the last one may still be mapped
        path.write_bytes(data)
        state, _ = load_custom(str(path), "hr18s", EXPECTED, progress=False)
        return [float(value.double().sum()) for value in state.values()]  # touches what is mapped

    return use


# --- configurations --------------------------------------------------------------------------------------------------

_VALUES: tuple[object, ...] = (
    *(None, True, 0, -1, 1.5, 10**9, 10**30, "", "x" * 200, "\x1b[2J", "\ud800", [], {}, [[]], [1, 2, 3], {"a": 1}),
    *("../x", "F32", [5], [0, 16], "hr48", 1e308, float("nan"), float("inf")),
)


def config_mutant() -> Mutate:
    """Return a maker of mutants of `config.json`."""
    parent, metrics = Parent("demo", "a.pth", "0" * 64, None), Metrics(miou=80.5, steps=3)
    good = ModelConfig("hr18s", SCENES.with_classes(["road", "sky"]), "0" * 64, "apache-2.0", parent, metrics).to_json()

    def mutate(chance: random.Random) -> bytes:
        if chance.random() < 0.4:
            return scrambled(chance, good.encode(), [good.encode()])
        return _changed(chance, good.encode())

    return mutate


def _changed(chance: random.Random, data: bytes) -> bytes:
    """Change one or two values of a JSON text, or their names, into something that nobody expects."""
    content = json.loads(data)
    for _ in range(chance.randint(1, 2)):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], dict | list) and chance.random() < 0.8:
                place = place[key]
                continue
            change = chance.randrange(4)
            if change == 0 and isinstance(place, dict):
                place[chance.choice(("", "x", "__metadata__", "auto_map"))] = place.pop(key)
            elif change == 1:
                del place[key]
            else:
                place[key] = copy.deepcopy(chance.choice(_VALUES))
            break
    changed = json.dumps(content)
    if chance.random() < 0.1:
        changed = changed.replace(": ", f": {chance.choice(('[' * 3000, '1e999', '-', '9' * 5000))}", 1)
    return changed.encode(errors="replace")


# --- images --------------------------------------------------------------------------------------------------------


def image_mutant() -> Mutate:
    """Return a maker of mutants of images of all formats; PNG checksums are mended in half of them."""
    good = _images()

    def mutate(chance: random.Random) -> bytes:
        data = scrambled(chance, chance.choice(good), good)
        return _mended(data) if data.startswith(b"\x89PNG\r\n\x1a\n") and chance.random() < 0.5 else data

    return mutate


def _images() -> list[bytes]:
    colors = Image.effect_mandelbrot((24, 16), (-3, -2.5, 2, 2.5), 20).convert("RGB")

    def frames() -> dict[str, object]:
        return {"save_all": True, "append_images": [colors.rotate(90)]}

    exif = Image.Exif()
    exif[0x0112] = 6
    wishes: list[tuple[Image.Image, str, dict[str, object]]] = [
        *((colors, kind, {}) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")),
        (colors, "JPEG", {"exif": exif, "progressive": True}),
        (colors.convert("CMYK"), "JPEG", {}),
        (colors, "MPO", frames()),
        (colors, "GIF", frames()),
        (colors, "PNG", frames()),
        (colors, "WEBP", {**frames(), "exif": exif, "lossless": True}),
        (colors, "TIFF", {**frames(), "compression": "tiff_lzw"}),
        (colors, "TIFF", {"compression": "jpeg"}),
        (colors, "TIFF", {"compression": "tiff_deflate"}),
        (colors.convert("P"), "PNG", {"transparency": 3}),
        (colors.convert("LA"), "PNG", {"exif": exif}),
        (colors.convert("1"), "TIFF", {"compression": "group4"}),
        (colors.convert("I;16"), "PNG", {}),
        (colors.convert("F"), "TIFF", {}),
        (colors.convert("LAB"), "TIFF", {}),
        (colors.convert("P"), "BMP", {}),
    ]
    made = []
    for image, kind, options in wishes:
        file = io.BytesIO()
        image.copy().save(file, kind, **options)  # a copy: saving as one format leaves settings for the next
        made.append(file.getvalue())
    return made


def _mended(data: bytes) -> bytes:
    """Give every chunk of a PNG the checksum that fits it."""
    mended, place = data[:8], 8
    while place + 12 <= len(data):
        stop = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if stop + 4 > len(data):
            break
        mended += data[place:stop] + struct.pack(">I", zlib.crc32(data[place + 4 : stop]))
        place = stop + 4
    return mended + data[place:]


# --- trying them -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[], Kind]] = {
    "legacy": lambda: Kind(legacy_mutant(), lambda data: read_checkpoint(data, "mutant.pth")),
    "zip": lambda: Kind(zip_mutant(), lambda data: read_checkpoint(data, "mutant.pth")),
    "safetensors": lambda: Kind(safetensors_mutant(), _use_safetensors()),
    "config": lambda: Kind(config_mutant(), lambda data: parse_config(data, "mutant/config.json")),
    "image": lambda: Kind(image_mutant(), read_image),
}


def mutant(kind: str, which: int) -> bytes:
    """Make one mutant again, to look at it."""
    return KINDS[kind]().mutate(random.Random(f"{kind} {which}"))  # noqa: S311 - no secret


def attempt(use: Callable[[bytes], object], data: bytes) -> str:
    """Use one mutant and return what became of it: "accepted", "refused", or in words what else."""
    try:
        use(data)
    except HRNetZooError as error:
        message = str(error)
        if not message.replace("\n", "").isprintable() or len(message) > 3000:
            return f"a message that is long or steers a terminal: {ascii(message)[:300]}"
        if "weights_only" in message or not all((error.asked, error.found, error.done, error.advice)):
            return f"a message without its parts: {message[:300]}"
        return "refused"
    except BaseException as error:  # noqa: BLE001 - that it is another one is what is looked for
        return f"{type(error).__name__}: {error}"[:300]
    return "accepted"


def peak() -> int:
    """Return the most memory that this process had resident, in KiB; ru_maxrss would begin with its parent's."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])


def main(kind: str, first: int, count: int) -> None:
    """Try mutants and print how many were accepted and refused, and what else happened."""
    torch.set_num_threads(1)
    made = KINDS[kind]()
    attempt(made.use, made.mutate(random.Random(0)))  # noqa: S311 - imports what is imported late
    before = peak()
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + GROWTH, space + GROWTH))
    outcome = {"accepted": 0, "refused": 0}
    leaks, slowest = [], 0.0
    for which in range(first, first + count):
        data = made.mutate(random.Random(f"{kind} {which}"))  # noqa: S311 - no secret
        sys.stderr.write(f"{which}\n")
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # its signal ends the process
        start = time.process_time()
        became = attempt(made.use, data)
        slowest = max(slowest, time.process_time() - start)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if became in outcome:
            outcome[became] += 1
        else:
            leaks.append(f"{which}: {became}")
    growth = (peak() - before) >> 10
    facts = {**outcome, "others": leaks[:20], "slowest_ms": round(1000 * slowest), "growth_mb": growth}
    sys.stdout.write(f"{json.dumps(facts)}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
