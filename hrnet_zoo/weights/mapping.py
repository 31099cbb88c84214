"""A safetensors file -> tensors: its pages, where nobody rewrites it, else a copy."""

import math
import mmap
import os
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hrnet_zoo.errors import CheckpointFormatError, raise_on_oom
from hrnet_zoo.weights.scan import SafetensorsHeader, opened_safetensors
from hrnet_zoo.weights.state_dict import compare

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def map_safetensors(
    path: Path,
    expected: Callable[[SafetensorsHeader], Mapping[str, torch.Size]],
    source: str,
    dtype: torch.dtype | None = None,
    *,
    rewritable: bool = False,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map a safetensors file into memory: no copy, and nothing of the data is read before it is used.

    Names, shapes and dtypes are compared by the header alone, before anything is mapped. The pages are private:
    whoever writes to a tensor gets pages of his own, and the file stays as it is. Each tensor has a storage of its own.

    Later changes to the bytes of a mapped file show in the tensors, and one that is shortened ends the process
    (SIGBUS). No file of the cache is ever rewritten in place; a file that somebody else may rewrite is read instead.

    Args:
        path: the file.
        expected: names and shapes that it must have, given its header; what this raises is raised.
        source: what errors call it.
        dtype: of the floating entries; None: float16, bfloat16, float32 or float64.
        rewritable: read the file into memory of its own, all at once (of W48 252 MB and a tenth of a second).

    Returns:
        The tensors in the order of `expected`, and the header's metadata.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file at `path`.
        CheckpointFormatError: it is not a whole safetensors file, cannot be mapped, or was changed meanwhile.
        StateDictMismatchError: names, shapes or dtypes do not fit.
        ConfigError: there is too little memory to read the file.

    """
    with opened_safetensors(path, source) as (header, file):
        entries = {name: (_DTYPES[kind], shape) for name, (kind, shape) in header.entries.items()}
        names = expected(header)
        compare(entries, names, source, dtype)
        try:
            pages: mmap.mmap | memoryview
            if rewritable:
                pages = _read(file, header)
            else:
                pages = mmap.mmap(file.fileno(), header.size, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:  # ValueError: cut off since its header was read
            raise CheckpointFormatError(
                asked=f"{'read' if rewritable else 'map'} the safetensors file {source}",
                found=getattr(error, "strerror", None) or str(error),
                done="nothing was loaded",
                advice="fetch or copy the file again" + ("" if rewritable else ", to where files can be mapped"),
                source=source,
            ) from error
        return {name: _tensor(pages, header.places[name], *entries[name]) for name in names}, header.metadata


def _read(file: BufferedReader, header: SafetensorsHeader) -> memoryview:
    """Read a file whose header was read before, if it is still the same."""
    with raise_on_oom(f"read {file.name}", done="nothing was loaded", advice="close what else takes memory"):
        content = np.empty(header.size, np.uint8).data
    file.seek(0)
    if file.readinto(content) != header.size or os.fstat(file.fileno()).st_mtime_ns != header.modified_ns:
        raise ValueError("it was changed while it was read")
    return content


def _tensor(pages: mmap.mmap | memoryview, place: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if not count:  # which `frombuffer` refuses
        return torch.empty(shape, dtype=dtype, device="cpu")
    if place % dtype.itemsize:  # the format allows it, not every processor does
        data = pages[place : place + count * dtype.itemsize]
        return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=place).view(shape)
