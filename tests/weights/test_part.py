"""What a part holds counts only under its note."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrnet_zoo.errors import CacheError, CacheSpaceError
from hrnet_zoo.weights.part import Note, PartLostError, discard, note_path, read_note, resumable_bytes, size_of, write

NOTE = Note("https://a.example/a.pth", '"v1"', 6)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Name a part that is not there yet."""
    return tmp_path / "a.b.owner.part"


def test_write_and_go_on(part: Path) -> None:
    assert (size_of(part), read_note(part), resumable_bytes(part)) == (0, None, 0)
    assert write(part, [b"abc"], 0, NOTE) == 3
    assert (size_of(part), read_note(part), resumable_bytes(part)) == (3, NOTE, 3)
    assert write(part, [b"d", b"ef"], 3, NOTE) == 6
    assert part.read_bytes() == b"abcdef"
    assert sorted(path.name for path in part.parent.iterdir()) == ["a.b.owner.json", "a.b.owner.part"]
    discard(part)
    assert list(part.parent.iterdir()) == []


def test_old_bytes_never_lie_under_a_new_note(part: Path) -> None:
    write(part, [b"abc"], 0, NOTE)
    new = Note(NOTE.url, '"v2"', 6)

    def blocks() -> Iterator[bytes]:
        assert part.read_bytes() == b""
        assert read_note(part) == new
        yield b"x"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(part, blocks(), 0, new)
    assert part.read_bytes() == b"x"


def test_without_a_strong_etag_nothing_is_resumable(part: Path) -> None:
    write(part, [b"abc"], 0, Note(NOTE.url, None, 6))
    assert resumable_bytes(part) == 0
    note_path(part).write_bytes(b"\xff")
    assert read_note(part) is None


def test_a_lost_part(part: Path) -> None:
    def blocks() -> Iterator[bytes]:
        part.rename(part.with_name("theirs"))
        part.write_bytes(b"another")
        yield b"abc"

    with pytest.raises(PartLostError):
        write(part, blocks(), 0, NOTE)
    assert part.read_bytes() == b"another"
    assert part.with_name("theirs").read_bytes() == b""


def test_disk_errors(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CacheSpaceError, match="are needed"):
        write(part, [b"abc"], 0, Note(NOTE.url, None, 1 << 60))
    assert not part.exists()
    part.mkdir()
    with pytest.raises(CacheError) as caught:
        discard(part)
    assert caught.value.path == part

    def samestat(*args: object) -> None:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(os.path, "samestat", samestat)
    with pytest.raises(CacheError, match="stale"):
        write(part.with_name("b.part"), [b"abc"], 0, NOTE)
