"""Checkpoints made by code: stand-ins in the published formats, and files that attack whoever loads them."""

import io
import os
import pickle
import struct
import subprocess
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hrnet_zoo.errors import CheckpointError, CheckpointFormatError, UnsafeCheckpointError

# What mmcv writes beside the weights, as far as its kinds of values go
META = {
    "mmseg_version": "0.5.0+b57fb2b",
    "config": "model = dict(type='EncoderDecoder')\n" * 100,
    "CLASSES": ("road", "sidewalk", "building"),
    "PALETTE": [[128, 64, 128], [244, 35, 232], [70, 70, 70]],
    "iter": 160000,
    "epoch": 1,
    "seed": None,
    "hook_msgs": {},
    "mean": 123.675,
    "fp16": False,
}


def legacy(state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> bytes:
    """Return a checkpoint as most of the published ones are: `torch.save` before torch 1.6."""
    return saved({"meta": dict(META if meta is None else meta), "state_dict": state_dict}, modern=False)


def zipped(state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> bytes:
    """Return a checkpoint in the format of `torch.save` since torch 1.6."""
    return saved({"meta": dict(META if meta is None else meta), "state_dict": state_dict}, modern=True)


def saved(content: object, *, modern: bool) -> bytes:
    """Return what `torch.save` makes of anything."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    return file.getvalue()


def stand_in(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> OrderedDict[str, Tensor]:
    """Return a state dict with these names and shapes: random float32 and counting int64 entries."""
    random = torch.Generator().manual_seed(seed)
    return OrderedDict(
        (name, torch.tensor(7) if name.endswith(".num_batches_tracked") else torch.randn(*shape, generator=random))
        for name, shape in shapes.items()
    )


def small_network() -> nn.Sequential:
    """Return a convolution and a batch norm: every kind of entry that a checkpoint of HRNet has."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


# --- pickles written by hand -----------------------------------------------------------------------------------------

PROTO = b"\x80\x02"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
_SIZES = {"short": 2, "int": 4, "long": 4}
SYS_INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": _SIZES}
OPENING = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, SYS_INFO))
VALUES = struct.pack("<4f", 1, 2, 3, 4)


def text(value: str) -> bytes:
    """Opcodes of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """Opcodes of a whole number of any size and sign."""
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def numbers(values: Sequence[int]) -> bytes:
    """Opcodes of a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


SYSTEM = b"cposix\nsystem\n" + text("touch executed") + b"\x85R"


def storage(
    numel: int = 4, key: str = "0", kind: str = "torch\nFloatStorage", tag: str = "storage", view: bytes = b"N"
) -> bytes:
    """Opcodes of a reference to a storage; `view` is empty in the zip format."""
    return b"(" + text(tag) + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(numel) + view + b"tQ"


def tensor(
    array: bytes | None = None,
    offset: int = 0,
    shape: Sequence[int] = (4,),
    strides: Sequence[int] = (1,),
    hooks: bytes = ORDERED_DICT,
) -> bytes:
    """Opcodes of a tensor."""
    place = (storage() if array is None else array) + number(offset) + numbers(shape) + numbers(strides)
    return b"(".join((b"ctorch._utils\n_rebuild_tensor_v2\n", place + b"\x89" + hooks + b"tR"))


def weights(*values: bytes) -> bytes:
    """Return the pickle of a state dict of these values, named w0, w1..."""
    return PROTO + b"}" + b"".join(text(f"w{i}") + value + b"s" for i, value in enumerate(values)) + b"."


def legacy_file(body: bytes, keys: Sequence[object] = ("0",), arrays: bytes = struct.pack("<q", 4) + VALUES) -> bytes:
    """Return a legacy file around the pickle `body`."""
    return OPENING + body + pickle.dumps(list(keys), 2) + arrays


@dataclass
class Member:
    """A member of a zip archive, with the lies it may tell."""

    name: str
    data: bytes
    flags: int = 0x0808
    method: int = 0
    claimed: int | None = None
    checksum: int | None = None
    local_name: str | None = None
    offset: int | None = None
    comment: bytes = b""


def zip_file(body: bytes, arrays: Mapping[str, bytes] | None = None, extra: Sequence[Member] = ()) -> bytes:
    """Return a zip file in torch's layout around the pickle `body`."""
    arrays = {"0": VALUES} if arrays is None else arrays
    stored = [Member(f"archive/data/{key}", data) for key, data in arrays.items()]
    return archive([Member("archive/data.pkl", body), *stored, Member("archive/version", b"3\n"), *extra])


def archive(members: Sequence[Member], *, filler: bytes = b"", count: int | None = None, comment: bytes = b"") -> bytes:
    """Return a zip archive in torch's layout; `filler` lies between the members and the directory."""
    content, directory = b"", b""
    for member in members:
        offset = len(content) if member.offset is None else member.offset
        name, local_name = member.name.encode(), (member.local_name or member.name).encode()
        size = len(member.data) if member.claimed is None else member.claimed
        crc = zlib.crc32(member.data) if member.checksum is None else member.checksum
        kind = (0, member.flags, member.method, 0, 0)
        content += struct.pack("<4s5H3I2H", b"PK\x03\x04", *kind, 0, 0, 0, len(local_name), 0) + local_name
        content += member.data + struct.pack("<4s3I", b"PK\x07\x08", crc, size, size)
        lengths = (len(name), 0, len(member.comment), 0, 0)
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 0, *kind, crc, size, size, *lengths, 0, offset)
        directory += name + member.comment
    content += filler
    extent = (count or len(members),) * 2 + (len(directory), len(content))
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 798, 45, 0, 0, *extent)
    end += struct.pack("<4sIQI", b"PK\x06\x07", 0, len(content) + len(directory), 1)
    return content + directory + end + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *extent, len(comment)) + comment


# --- attacks ---------------------------------------------------------------------------------------------------------


class _Call:
    """Pickles into a call."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _calling(function: Callable[..., object], *args: object) -> bytes:
    return legacy_file(pickle.dumps({"state_dict": _Call(function, *args)}, 2), (), b"")


def _hash_bomb() -> bytes:
    nested = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    return legacy_file(PROTO + b"}" + nested + b"K\x01s.", (), b"")


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def _script() -> bytes:
    return archive(
        [Member("net/data.pkl", weights()), Member("net/code/__torch__.py", b"pass"), Member("net/version", b"3\n")]
    )


def _patched(data: bytes, old: bytes, new: bytes) -> bytes:
    if data.count(old) != 1:
        raise ValueError(f"{old!r} is not there exactly once")
    return data.replace(old, new)


GOOD_LEGACY = legacy_file(weights(tensor()))
GOOD_ZIP = zip_file(weights(tensor(storage(view=b""))))
_GOOD_BODY = weights(tensor(storage(view=b"")))
_MANY = struct.pack("<q", 4)

# Name -> file, the error it must end in, words of the message. Nothing of them is made.
ATTACKS: dict[str, tuple[bytes, type[CheckpointError], str]] = {
    name: (data, UnsafeCheckpointError, words)
    for name, (data, words) in {
        # code
        "os.system": (_calling(os.system, "touch executed"), f"made by '{os.system.__module__}.system' in"),
        "exec": (_calling(exec, "open('executed', 'w')"), "exec"),
        "eval": (_calling(eval, "1"), "eval"),
        "getattr": (_calling(getattr, "", "upper"), "getattr"),
        "Popen": (_calling(subprocess.Popen, ["touch", "executed"]), ".Popen' in"),
        "nested torch.load": (_calling(torch.load, "executed"), "torch.serialization.load"),
        "in the list of keys": (OPENING + weights() + PROTO + b"]" + SYSTEM + b"a.", "differs from the arrays in use"),
        "in data.pkl": (zip_file(PROTO + SYSTEM + b".", {}), "posix.system"),
        "of the state dict": (legacy_file(PROTO + SYSTEM + b".", (), b""), "posix.system"),
        "of an entry": (legacy_file(weights(tensor(), SYSTEM)), "'w1' of type 'posix.system'"),
        "INST": (legacy_file(PROTO + b"(X\x01\x00\x00\x00xiposix\nsystem\n.", (), b""), "the operation INST"),
        "OBJ": (legacy_file(PROTO + b"(ccollections\nOrderedDict\no.", (), b""), "the operation OBJ"),
        "NEWOBJ": (legacy_file(PROTO + b"ccollections\nOrderedDict\n)\x81.", (), b""), "collections.OrderedDict"),
        "STACK_GLOBAL": (legacy_file(PROTO + text("os") + text("system") + b"\x93)R.", (), b""), "'os.system'"),
        "EXT1": (legacy_file(PROTO + b"\x82\x01.", (), b""), "the operation EXT1"),
        "a text with escapes": (legacy_file(PROTO + b"S'\\x41'\n.", (), b""), "no name of a module"),
        "an endless name": (legacy_file(PROTO + b"c" + b"a" * 5000 + b"\nb\n.", (), b""), "no name of a module"),
        "numpy": (legacy_file(weights(tensor(), pickle.dumps(np.float64(1.5), 2)[2:-1])), "multiarray.scalar"),
        "a set": (_calling(set, [1]), "__builtin__.set"),
        "a tensor of bytes": (
            legacy_file(weights(tensor(), b"ctorch.storage\n_load_from_bytes\n)R")),
            "torch.storage._load_from_bytes",
        ),
        "a text encoder": (legacy_file(weights(tensor(), b"c_codecs\nencode\n)R")), "_codecs.encode"),
        **{
            f"tensor by {name}": (
                legacy_file(weights(tensor(), f"ctorch._utils\n{name}\n)R".encode())),
                f"torch._utils.{name}'",
            )
            for name in (
                *("_rebuild_tensor", "_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_wrapper_subclass"),
                *("_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy", "_rebuild_tensor_v3"),
            )
        },
        # memory and time
        "bytearray": (_calling(bytearray, 8_000_000_000), "bytearray"),
        "torch.Tensor": (
            legacy_file(PROTO + b"ctorch\nTensor\n" + numbers([3_000_000_000]) + b"R.", (), b""),
            "torch.Tensor",
        ),
        "FloatStorage": (
            legacy_file(PROTO + b"ctorch\nFloatStorage\n" + numbers([2_000_000_000]) + b"R.", (), b""),
            "torch.FloatStorage",
        ),
        "OrderedDict of pairs": (
            legacy_file(PROTO + b"ccollections\nOrderedDict\n]\x85R.", (), b""),
            "collections.OrderedDict",
        ),
        "a high stack": (legacy_file(PROTO + b"Nq\x00" + b"h\x00" * 500_000 + b"."), "far larger"),
        "a text of 4 GiB": (legacy_file(PROTO + b"X\xff\xff\xff\xff."), "a text of 4294967295 bytes"),
        # storages
        "a storage not stored": (legacy_file(weights(tensor()), (), b""), "differs from the arrays in use"),
        "a storage not in use": (legacy_file(weights(), ("0",)), "differs from the arrays in use"),
        "a storage twice": (legacy_file(weights(tensor()), ("0", "0"), (_MANY + VALUES) * 2), "differs from the arr"),
        "a key that is no text": (legacy_file(weights(tensor()), (0,)), "differs from the arrays in use"),
        "no list of keys": (OPENING + weights() + pickle.dumps(5, 2), "differs from the arrays in use"),
        "a storage not in the archive": (zip_file(_GOOD_BODY, {}), "differ in name or size"),
        "a storage too short": (zip_file(_GOOD_BODY, {"0": VALUES[:12]}), "differ in name or size"),
        "a storage of a size without end": (
            legacy_file(weights(tensor(storage()[:-3] + b"0\x8b" + struct.pack("<i", 3000) + b"\x01" * 3000 + b"NtQ"))),
            "impossible size",
        ),
        "a negative storage": (legacy_file(weights(tensor(storage(-4)))), "impossible size"),
        "a storage of objects": (
            legacy_file(weights(tensor(storage(kind="collections\nOrderedDict")))),
            "unknown type",
        ),
        "a storage of two sizes": (legacy_file(weights(tensor(), tensor(storage(8)))), "two types or sizes"),
        "a storage of two types": (
            legacy_file(weights(tensor(), tensor(storage(kind="torch\nIntStorage")))),
            "two types or sizes",
        ),
        "a storage view": (legacy_file(weights(tensor(storage(view=numbers([0, 0, 4]))))), "impossible size"),
        "a module by reference": (legacy_file(weights(tensor(), tensor(storage(tag="module")))), "_rebuild_tensor_v2"),
        "a legacy storage in a zip": (zip_file(weights(tensor())), "impossible size"),
        "a storage in the opening": (PROTO + storage() + b".", "the operation BINPERSID"),
        # tensors
        "stride 0": (legacy_file(weights(tensor(shape=(10**12,), strides=(0,)))), "within its storage"),
        "view beyond the storage": (legacy_file(weights(tensor(shape=(2,), strides=(4,)))), "within its storage"),
        "offset beyond the storage": (legacy_file(weights(tensor(offset=1))), "within its storage"),
        "negative offset": (legacy_file(weights(tensor(offset=-1))), "within its storage"),
        "negative side": (legacy_file(weights(tensor(shape=(-4,)))), "within its storage"),
        "negative stride": (legacy_file(weights(tensor(offset=3, strides=(-1,)))), "within its storage"),
        "sides that overflow": (
            legacy_file(weights(tensor(shape=(0, 2**40, 2**40), strides=(1, 1, 1)))),
            "within its storage",
        ),
        "shape without strides": (legacy_file(weights(tensor(strides=()))), "within its storage"),
        "too many dimensions": (legacy_file(weights(tensor(shape=[1] * 64, strides=[1] * 64))), "within its storage"),
        "a parameter of no tensor": (
            legacy_file(weights(tensor(), b"ctorch._utils\n_rebuild_parameter\n(N\x88" + ORDERED_DICT + b"tR")),
            "torch._utils._rebuild_parameter",
        ),
        # containers
        "items of a tensor": (legacy_file(PROTO + tensor() + text("a") + b"Ns."), "SETITEM on something else"),
        "items of a tuple": (legacy_file(PROTO + b")Na."), "APPEND on something else"),
    }.items()
} | {
    name: (data, CheckpointFormatError, words)
    for name, (data, words) in {
        # damage
        "trailing byte": (GOOD_LEGACY + b"\0", "a file of 318 bytes that describes 317"),
        "missing bytes": (GOOD_LEGACY[:-7], "a file of 310 bytes that describes 317"),
        "4 TiB claimed": (legacy_file(weights(tensor(storage(1 << 40)))), "that describes 4,398,046,511,410"),
        "200 arrays of 8 GB": (
            legacy_file(
                weights(*(tensor(storage(2 * 10**9, str(i)), shape=(2 * 10**9,)) for i in range(200))),
                [str(i) for i in range(200)],
                b"",
            ),
            "that describes 1,600,000,032,819",
        ),
        "another length": (legacy_file(weights(tensor()), arrays=struct.pack("<q", 5) + VALUES), "that says 5 at byte"),
        "ends in its pickle": (GOOD_LEGACY[: len(OPENING) + 30], "is broken or breaks off"),
        "a key twice": (legacy_file(PROTO + b"}" + (text("w") + b"Ns") * 2 + b"."), "the dictionary key 'w' twice"),
        "a key without value": (legacy_file(PROTO + b"}(" + text("w") + b"u."), "is broken or breaks off"),
        "unknown memo": (legacy_file(PROTO + b"h\x07."), "is broken or breaks off"),
        "empty stack": (legacy_file(PROTO + b"\x86."), "is broken or breaks off"),
        "left on the stack": (legacy_file(PROTO + b"NN."), "is broken or breaks off"),
        "open mark": (legacy_file(PROTO + b"(N."), "is broken or breaks off"),
        "unknown opcode": (legacy_file(PROTO + b"\xff."), "is broken or breaks off"),
        "protocol 0": (PROTO[:1] + b"\0}.", "another protocol"),
        "code as magic number": (PROTO + SYSTEM + b".", "without the opening of torch.save"),
        "code in the opening": (_patched(OPENING, b"\x88", SYSTEM) + weights(), "without the opening of torch.save"),
        "a stray import": (legacy_file(PROTO + b"cantigravity\nfly\n0}.", (), b""), "no state dict"),
        "hash bomb": (_hash_bomb(), "no state dict"),
        "a text of 2 MiB": (legacy_file(weights(text("x" * (2 << 20))), (), b""), "no state dict"),
        "nested tuples": (legacy_file(PROTO + b"N" + b"\x85" * 1000 + b".", (), b""), "no state dict"),
        "nested lists": (legacy_file(PROTO + b"]" * 1000 + b"a" * 999 + b".", (), b""), "no state dict"),
        "deepened afterwards": (legacy_file(PROTO + b"]]q\x00ah\x00]aN.", (), b""), "is broken or breaks off"),
        "a list in itself": (legacy_file(PROTO + b"]q\x00h\x00a.", (), b""), "no state dict"),
        "float key": (
            legacy_file(weights(tensor())[:-1] + b"G\x7f\xf8\x00\x00\x00\x00\x00\x00Ns."),
            "name is no text",
        ),
        "giant key": (legacy_file(weights(tensor())[:-1] + number(1 << 900) + b"Ns."), "name is no text"),
        "a whole model": (saved(small_network(), modern=False), "a whole model object"),
        "another magic number": (pickle.dumps(7, 2), "without the opening of torch.save"),
        "a plain pickle": (pickle.dumps({"w": 1}, 2), "without the opening of torch.save"),
        "big-endian": (_patched(GOOD_LEGACY, b"\x88", b"\x89"), "big-endian"),
        # archives
        "compressed member": (zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"x", method=8)]), "compressed"),
        "encrypted member": (
            zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"x", 0x0809)]),
            "is damaged, incomplete",
        ),
        "member twice": (
            zip_file(_GOOD_BODY, extra=[Member("archive/version", b"3\n")]),
            "'archive/version', which is compressed, damaged",
        ),
        "two folders": (zip_file(_GOOD_BODY, extra=[Member("b/byteorder", b"little")]), "'b/byteorder', which is"),
        "traversal": (archive([Member("../data.pkl", _GOOD_BODY)]), "without data.pkl"),
        "absolute path": (archive([Member("/data.pkl", _GOOD_BODY)]), "torch.save did not write"),
        "no data.pkl": (archive([Member("archive/version", b"3\n")]), "without data.pkl"),
        "big-endian archive": (zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"big")]), "big-endian"),
        "two names": (
            zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"little", local_name="archive/.......der")]),
            "is damaged, incomplete",
        ),
        "two sizes": (
            zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"little", claimed=5)]),
            "'archive/byteorder', which is",
        ),
        "overlap": (
            zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"little", offset=0)]),
            "a zip archive that is damaged",
        ),
        "comment in a member": (
            zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"little", comment=b"x")]),
            "'archive/byteorder', which is",
        ),
        "checksum": (
            zip_file(_GOOD_BODY, extra=[Member("archive/byteorder", b"little", checksum=1)]),
            "'archive/byteorder', which is",
        ),
        "flipped bit": (
            _patched(GOOD_ZIP, VALUES, b"\x01" + VALUES[1:]),
            "'archive/data/0', which is compressed, damaged",
        ),
        "bytes between": (archive([Member("archive/data.pkl", _GOOD_BODY)], filler=b"x"), "belong to no member"),
        "bytes before": (b"PK\x03\x04" + GOOD_ZIP, "'archive/data.pkl', which is"),
        "bytes behind": (GOOD_ZIP + b"x", "belong to no member"),
        "archive comment": (archive([Member("archive/data.pkl", b"")], comment=b"x"), "belong to no member"),
        "a million members": (archive([Member("archive/data.pkl", b"")], count=60_000), "without data.pkl"),
        "fewer members listed": (
            archive([Member("a/version", b""), Member("a/data.pkl", b"")], count=1),
            "version of torch's format",
        ),
        "more members listed": (archive([Member("a/version", b"")], count=2), "without data.pkl"),
        "name not in UTF-8": (archive([Member("a/Q", b"")]).replace(b"a/Q", b"a/\xff"), "is damaged, incomplete"),
        "pickle goes on": (zip_file(_GOOD_BODY + b"x"), "after the end of data.pkl"),
        "half a zip": (GOOD_ZIP[: len(GOOD_ZIP) // 2], "is damaged, incomplete"),
        # other kinds
        "tar": (_tar(), "an unknown kind of file"),
        "TorchScript": (_script(), "no state dict"),
        "safetensors": (b"\x02\0\0\0\0\0\0\0{}", "a safetensors file"),
        "HTML": (b"\xef\xbb\xbf \r\n<!DOCTYPE html><html>", "HTML"),
        "empty": (b"", "an empty file"),
        "gzip": (b"\x1f\x8b\x08\0", "it begins with 1f 8b"),
        "noise": (b"version https://git-lfs", "it begins with 76 65 72 73"),
    }.items()
}


# --- what lies beside the weights and is never made -------------------------------------------------------------------


def beside(value: bytes, keys: Sequence[object] = ("0",)) -> bytes:
    """Return a legacy file whose weights are VALUES, and which holds what these opcodes make beside them."""
    body = PROTO + b"}(" + text("state_dict") + weights(tensor())[2:-1] + text("more") + value + b"u."
    return legacy_file(body, keys)


# Name -> file whose one tensor, w0, is VALUES
HARMLESS: dict[str, bytes] = {
    "code": beside(SYSTEM),
    "code as a key": beside(b"}" + SYSTEM + b"Ns"),
    "code given a state": beside(SYSTEM + b"}b"),
    "a class imported": beside(b"cantigravity\nfly\n"),
    "an object": beside(b"cantigravity\nfly\n)\x81}" + text("a") + b"Nsb"),
    "terabytes": beside(b"cbuiltins\nbytearray\n" + number(1 << 40) + b"\x85R"),
    "a tensor of terabytes": beside(tensor(shape=(1 << 40,), strides=(0,))),
    "hash bomb": beside(b"}" + _hash_bomb().split(PROTO + b"}")[-1].split(b"K\x01s.")[0] + b"K\x01s"),
    "memo bomb": beside(b"N" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(250))),
    "a list in itself": beside(b"]q\x00h\x00a"),
    "a deep list": beside(b"]" * 1000 + b"a" * 999),
    "a long text": beside(text("x" * (2 << 20))),
    "a giant number": beside(b"}" + number(1 << 900) + b"Ns"),
    "hooks": legacy_file(weights(tensor(hooks=ORDERED_DICT + b"N" + SYSTEM + b"s"))),
    "attributes": legacy_file(weights(tensor() + b"}" + text("_metadata") + SYSTEM + b"sb")),
    "a storage too many": zip_file(_GOOD_BODY, {"0": VALUES, "1": VALUES}),
    "a member of a newer torch": zip_file(_GOOD_BODY, extra=[Member("archive/.data/newer", b"1")]),
    "a script": zip_file(_GOOD_BODY, extra=[Member("archive/run.py", b"import os")]),
    "another case": zip_file(_GOOD_BODY, extra=[Member("archive/DATA.PKL", b"")]),
}
