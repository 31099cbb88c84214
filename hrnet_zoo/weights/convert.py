"""Checkpoint -> safetensors with its provenance in the header: exact names and shapes, or nothing.

Weights are read from a pickle's file once, here, and without an unpickler: from the arrays that lie beside it. From
then on they live as safetensors, which holds no code, maps into memory without a copy and carries the digest of its own
data.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError, HashMismatchError, StateDictMismatchError
from hrnet_zoo.models.forks import refuse_after_fork
from hrnet_zoo.models.hrnet import SPECS
from hrnet_zoo.weights.gate import inspect_checkpoint, inspect_safetensors, refusals
from hrnet_zoo.weights.opcodes import Array, Refusal, Storage, show
from hrnet_zoo.weights.state_dict import CLASSIFIER, COUNTER, find_state, unwrap

CONVERTER_VERSION = 2  # part of the cache's file names: raise it whenever the same source gives other bytes

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = {  # by kind of storage; weights come in no others
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
}
_NO_DIGEST = "0" * 64  # holds the digest's place until the data is laid out
_MAX_NAMES, _MAX_NAME = 1000, 100  # class names, and characters of one, beyond which `meta` is taken for something else


class Checkpoint(NamedTuple):
    """What a `.pth` file holds.

    Attributes:
        state: its tensors by the network's names, as stored.
        classes: the class names that its own `meta` claims; empty without such a list.
        notes: which of its tensors were taken, and what was taken off their names, in words.

    """

    state: dict[str, Tensor]
    classes: tuple[str, ...]
    notes: str


def read_checkpoint(data: bytes, source: str) -> Checkpoint:
    """Return what a `.pth` file holds; `source` (path or URL) is for messages.

    `data` is the whole file. Nothing of it is unpickled, and whatever lies beside the weights is left where it is. What
    wraps them is taken off (see `state_dict`).

    Raises:
        UnsafeCheckpointError: the file has something else in the place of weights; it was not loaded.
        CheckpointFormatError: it is damaged, or holds no state dict.

    """
    content, arrays = inspect_checkpoint(data, source)
    with refusals(source):
        found, notes = find_state(content)
        storages = dict[Storage, Tensor]()
        state, more = unwrapped(found, lambda name: _tensor(name, found[name], arrays, storages))
    return Checkpoint(state, next(filter(None, _claims(content)), ()), "; ".join(filter(None, (*notes, more))))


def unwrapped(names: Iterable[str], tensor: Callable[[str], Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return a state dict by the network's names, given those of a file and how to have its tensors; and what differs.

    The latter says in words what was taken off, left out or added.
    """
    found = unwrap(names)
    state = {name: torch.tensor(0) if was is None else tensor(was) for name, was in found.entries.items()}
    return state, "; ".join(found.notes)


def _tensor(name: str, array: Array, arrays: Mapping[str, memoryview], storages: dict[Storage, Tensor]) -> Tensor:
    """Make a tensor of bytes that lie in the file; those that share a storage there share memory here."""
    if array.storage.kind not in _DTYPES:
        raise Refusal(f"the tensor {show(name)} of type {array.storage.kind}, which no weights have")
    dtype = _DTYPES[array.storage.kind]
    if array.storage not in storages:
        content = bytearray(arrays[array.storage.key])
        storages[array.storage] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return storages[array.storage].as_strided(array.shape, array.strides, array.offset)


def _claims(content: object) -> Iterator[tuple[str, ...]]:
    """Names of classes, where mmcv and mmengine write them."""
    meta = content.get("meta") if isinstance(content, dict) else None
    for table in (meta, meta.get("dataset_meta") if isinstance(meta, dict) else None):
        if isinstance(table, dict):
            yield from (_class_names(table.get(key)) for key in ("CLASSES", "classes"))


def claimed_classes(provenance: Mapping[str, str]) -> tuple[str, ...]:
    """Read `file_classes` of a header: the class names that the checkpoint itself claimed; empty if it claimed none.

    They are kept to tell the user where they differ from the dataset's, and used for nothing else.
    """
    try:
        return _class_names(json.loads(provenance.get("file_classes", "null")))
    except (ValueError, RecursionError):  # the header of a foreign file, where this may mean anything
        return ()


def class_count(state: Mapping[str, Tensor], source: str) -> int:
    """Count the classes of a state dict: the rows of its classifier.

    Raises:
        StateDictMismatchError: it has no classifier of an FCN head.

    """
    name = f"{CLASSIFIER}.weight"
    if name not in state:
        raise _mismatch(source, missing={name: "(classes, channels, 1, 1)"}, shapes=_shapes(state))
    if state[name].ndim != 4 or not state[name].numel():
        found = f"{tuple(state[name].shape)}, expected (classes, channels, 1, 1)"
        raise _mismatch(source, different={name: found})
    return state[name].shape[0]


def fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    source: str,
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return the state dict in the order of `expected`, contiguous and with no memory in common, or say what differs.

    Floating entries must be of `dtype` where it is given, else of float16, bfloat16, float32 or float64; they become
    float32. `*.num_batches_tracked` are int64. Every value must be finite, after that step too.

    Raises:
        StateDictMismatchError: names, shapes, dtypes or values do not fit.

    """
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise _mismatch(source, different={name: "sparse, quantized or without data, expected plain values"})
    compare({name: (t.dtype, tuple(t.shape)) for name, t in state.items()}, expected, source, dtype)
    refuse_after_fork(torch.device("cpu"))
    fitted, owners, infinite = dict[str, Tensor](), set[int](), dict[str, str]()
    for name in expected:
        tensor = state[name].detach()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
            # Far faster than isfinite of every value, which writes a mask; NaN passes through aminmax
            if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
                infinite[name] = "has values that are infinite or not a number"
        tensor = tensor.contiguous()
        memory = tensor.untyped_storage().data_ptr()
        fitted[name] = tensor.clone() if memory in owners else tensor
        owners.add(memory)
    if infinite:
        error = _mismatch(source, different=infinite)
        error.advice = "its training diverged, or it is damaged: give an earlier checkpoint, or fetch the file again"
        raise error
    return fitted


def compare(
    found: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    expected: Mapping[str, torch.Size],
    source: str,
    dtype: torch.dtype | None,
) -> None:
    """Compare names, shapes and dtypes of a state dict's entries; `dtype` is that of `fit`.

    Raises:
        StateDictMismatchError: they do not fit.

    """
    missing = {name: str(tuple(shape)) for name, shape in expected.items() if name not in found}
    unexpected = {name: str(shape) for name, (_, shape) in found.items() if name not in expected}
    different = dict[str, str]()
    floats = _FLOATS if dtype is None else (dtype,)
    for name, shape in expected.items():
        if name not in found:
            continue
        found_dtype, found_shape = found[name]
        allowed = (torch.int64,) if name.endswith(COUNTER) else floats
        if found_shape != tuple(shape):
            different[name] = f"{found_shape}, expected {tuple(shape)}"
        elif found_dtype not in allowed:
            different[name] = f"{found_dtype}, expected {' or '.join(map(str, allowed))}"
    if missing or unexpected or different:
        raise _mismatch(
            source, missing, unexpected, different, {name: shape for name, (_, shape) in found.items()}, expected
        )


def to_safetensors(state: Mapping[str, Tensor], provenance: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file: a state dict as `fit` returns it, `provenance` and the data's SHA-256.

    The header's metadata is `provenance` plus "format" ("pt") and "data_sha256". For a moment safetensors holds two
    copies of the data.
    """
    metadata = {**provenance, "format": "pt", "data_sha256": _NO_DIGEST}
    file = io.BytesIO(safetensors.torch.save(dict(state), metadata))  # sole owner: patched and returned uncopied
    with file.getbuffer() as view:
        start = 8 + int.from_bytes(view[:8], "little")
        place = bytes(view[:start]).index(f'"data_sha256":"{_NO_DIGEST}"'.encode()) + len('"data_sha256":"')
        view[place : place + 64] = hashlib.sha256(view[start:]).hexdigest().encode()
    return file.getvalue()


def verify_data(path: Path) -> None:
    """Compare the data of a safetensors file with the digest in its header.

    A mismatch is a matter of integrity wherever the file lies (cache, export, copy), so it is a HashMismatchError;
    what it means for a file of the cache is for the cache to say.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file at `path`.
        CheckpointFormatError: it is not a whole safetensors file, or its header has no digest.
        HashMismatchError: the data is not what was written.

    """
    header = inspect_safetensors(path, str(path))
    stated = header.metadata.get("data_sha256")
    if stated is None:
        raise _no_checkpoint(str(path), "a safetensors file without data_sha256, which hrnet-zoo did not write")
    digest, block, size = hashlib.sha256(), bytearray(1 << 20), header.data_start
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(header.data_start)
            while count := file.readinto(block):
                digest.update(memoryview(block)[:count])
                size += count
    except OSError as error:
        raise CheckpointNotFoundError(
            asked=f"verify {path}",
            found=f"a file that cannot be read to its end: {error.strerror}",
            done="the file was left as it is",
            advice="check the disk",
            source=str(path),
        ) from error
    if digest.hexdigest() != stated:
        raise HashMismatchError(
            asked=f"verify {path}",
            found=f"data with SHA-256 {digest.hexdigest()}, but the header says {stated:.80}",
            done="the file was left as it is",
            advice="delete the file and fetch or write it again; if it happens twice, check the disk and the memory",
            source=str(path),
            expected=stated,
            actual=digest.hexdigest(),
            size=size,
        )


def _class_names(claimed: object) -> tuple[str, ...]:
    """Names, where that is what these are."""
    if not isinstance(claimed, list | tuple) or len(claimed) > _MAX_NAMES:
        return ()
    names = tuple(name for name in claimed if isinstance(name, str) and len(name) <= _MAX_NAME)
    return names if len(names) == len(claimed) else ()


def _no_checkpoint(source: str, found: str) -> CheckpointFormatError:
    return CheckpointFormatError(
        asked=f"load the checkpoint {source}",
        found=found,
        done="nothing was loaded",
        advice="fetch the file again, or write it anew with torch.save of model.state_dict()",
        source=source,
    )


def _mismatch(
    source: str,
    missing: Mapping[str, str] | None = None,
    unexpected: Mapping[str, str] | None = None,
    different: Mapping[str, str] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    expected: Mapping[str, torch.Size] | None = None,
) -> StateDictMismatchError:
    """Build the error; the message lists five names of each kind, the attributes all of them.

    The cause is found in names and `shapes` of the file, beside those `expected`.
    """
    groups: dict[str, Any] = {"missing": missing or {}, "unexpected": unexpected or {}, "different": different or {}}
    cause, advice = _cause(shapes or {}, expected or {})
    found = [cause] if cause else []
    for title, group in groups.items():
        if group:
            few = ", ".join(f"{ascii(name)[1:-1]:.80} {note}" for name, note in list(group.items())[:5])
            found.append(f"{len(group)} {title}: {few}{', ...' if len(group) > 5 else ''}")
    if shapes and not expected:
        found.append(f"the file's names: {', '.join(map(show, list(shapes)[:5]))}{', ...' if len(shapes) > 5 else ''}")
    classifier_alone = groups["different"].keys() <= {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"}
    if groups["different"] and classifier_alone and not missing and not unexpected:
        advice = "its head has another number of classes: say which with classes=..., or choose the name that fits"
    return StateDictMismatchError(
        asked=f"fit the checkpoint {source} into the network",
        found="; ".join(found),
        done="nothing was loaded",
        advice=advice or "choose the name of the network that the checkpoint was trained with (see hrnet-zoo list)",
        source=source,
        missing=tuple(groups["missing"]),
        unexpected=tuple(groups["unexpected"]),
        different=tuple(f"{name}: {note}" for name, note in groups["different"].items()),
    )


def _cause(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, torch.Size]) -> tuple[str, str]:
    """Say what the file holds in place of the network, and what to do; empty where the names do not tell."""
    heads = [name for name in shapes if "decode_head." in name]
    size, asked = _size(shapes), _size(expected)
    if not heads and any(".branches." in name for name in shapes):
        return "a backbone alone, without a decode_head", "give the checkpoint of a whole network, backbone and head"
    if any(re.search(r"decode_head\.\d+\.", name) for name in heads):
        return "a cascade of heads (OCRNet?), where networks here have one FCN head", "give the checkpoint of an FCN"
    if size and asked and size != asked:
        known = f"choose a name with {size}" if size in SPECS else f"networks here are {', '.join(SPECS)}"
        return f"a network of size {size}, where {asked} was asked for", f"{known} (see hrnet-zoo list)"
    return "", ""


def _size(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name an HRNet by its width, and "s" for few blocks, as the catalog does; empty if it is none."""
    block = "backbone.stage2.0.branches.0.{}.conv1.weight"
    width = shapes.get(block.format(0), ())
    return f"hr{width[0]}{'' if block.format(3) in shapes else 's'}" if width else ""


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
