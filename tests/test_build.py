"""What every checkpoint's way into the cache is made of."""

import json
from pathlib import Path

import pytest
import torch

from hrnet_zoo.errors import CheckpointNotFoundError, HashMismatchError
from hrnet_zoo.weights.build import check_hash, entries, provenance_of, read_file, size_limit, with_classes

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


def test_check_hash_takes_a_beginning_or_the_whole() -> None:
    for stated in ("", "e3b0c442", EMPTY):
        check_hash(b"", stated, "x.pth")
    with pytest.raises(
        HashMismatchError, match=rf"x\.pth[\s\S]*SHA-256 {EMPTY} of 0 bytes; expected e3b0c443\.\.\."
    ) as caught:
        check_hash(b"", "e3b0c443", "x.pth")
    assert caught.value.size == 0


def test_provenance_of() -> None:
    facts = provenance_of(b"", ["road", 'Schnür"'])
    assert facts["source_sha256"] == EMPTY
    assert facts["source_size"] == "0"
    assert facts["converter_version"] == "2"
    assert json.loads(facts["file_classes"]) == ["road", 'Schnür"']
    assert "file_classes" not in provenance_of(b"", [])


def test_read_file(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"x")
    assert read_file(tmp_path / "a.pth") == b"x"
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        read_file(tmp_path / "b.pth")
    with pytest.raises(CheckpointNotFoundError, match="a folder or special file"):
        read_file(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="too long"):
        read_file(tmp_path / ("x" * 1000))


def test_entries_and_classes() -> None:
    network = entries("hr18", 21)
    assert network["decode_head.conv_seg.weight"] == torch.Size((21, 270, 1, 1))
    assert with_classes(network, 5)["decode_head.conv_seg.bias"] == torch.Size((5,))
    assert network["decode_head.conv_seg.bias"] == torch.Size((21,))


def test_size_limit_is_just_above_the_file() -> None:
    published = 15_972_939  # bytes of a W18-Small file with 19 classes
    assert published < size_limit(entries("hr18s", 19)) < 1.4 * published
