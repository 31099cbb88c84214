"""A checker of the cache's invariants, which every test of a fault ends with.

whole       a file under its final name is complete: its data have the digest in its header, names and shapes fit
recorded    its header, and no second file, says where it came from
private     no name and no header tells a folder of this machine
permitted   modes follow the umask
known       every file is a finished one (model, log), a partial download, a temp or a lock
settled     nothing but finished files and locks is left (asked for where a call has come back)
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import torch

from hrnet_zoo.weights import cache
from hrnet_zoo.weights.convert import verify_data
from hrnet_zoo.weights.scan import inspect_safetensors
from hrnet_zoo.zoo.training_log import parse_log

RECORD = {"source_url", "source_sha256", "source_size", "converter_version", "hrnet_zoo_version", "data_sha256"}
TOP = {"v1", "CACHEDIR.TAG"}


def fsck(
    expected: Mapping[str, torch.Size] | None = None, source_sha256: str = "", *, settled: bool = False
) -> dict[str, int]:
    """Assert the invariants of the cache that is set; return how many files of each kind it has."""
    root = cache.root()
    if not root.exists():
        return {}
    assert {path.name for path in root.iterdir()} <= TOP, "known"
    found: dict[str, int] = {}
    for entry in cache.entries():
        assert entry.kind != "unknown", f"known: {entry.path}"
        found[entry.kind] = found.get(entry.kind, 0) + 1
        if entry.kind == "model":
            _check_model(entry.path, expected, source_sha256)
        elif entry.kind == "log":
            parse_log(entry.path.read_bytes(), str(entry.path), "checked")
        if entry.kind != "lock":
            assert _mode(entry.path) == 0o666 & ~_umask(), f"permitted: {entry.path} has {_mode(entry.path):o}"
    for folder in (root / "v1").iterdir() if (root / "v1").exists() else ():
        assert _mode(folder) == 0o777 & ~_umask(), f"permitted: {folder}"
    assert not settled or found.keys() <= {"model", "log", "lock"}, f"settled: {found}"
    return found


def _check_model(path: Path, expected: Mapping[str, torch.Size] | None, source_sha256: str) -> None:
    verify_data(path)
    header = inspect_safetensors(path, str(path))
    shapes = {name: torch.Size(shape) for name, (_, shape) in header.entries.items()}
    assert expected is None or shapes == expected, f"whole: {path}"
    assert header.metadata.keys() >= RECORD, f"recorded: {path}"
    assert header.metadata["source_sha256"].startswith(source_sha256), f"recorded: {path}"
    told = f"{path.name} {header.metadata}"
    for word in (str(cache.root()), str(Path.home()) if str(Path.home()) != "/" else None):
        assert word is None or word not in told, f"private: {path}"
    assert path.is_symlink() or path.stat().st_nlink == 1, f"whole: {path} has a second name"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
