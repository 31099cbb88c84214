"""Whole digests: the first accepted file counts, a forged twin with the same published digits is refused."""

import dataclasses
import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hrnet_zoo.errors import CacheError, CheckpointFormatError, ConfigError, HashMismatchError, OutputError
from hrnet_zoo.weights import cache as files
from hrnet_zoo.weights.build import entries
from hrnet_zoo.zoo import catalog
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info, stated_digests
from hrnet_zoo.zoo.first_seen import every, export, known, record, take
from hrnet_zoo.zoo.published import cached_stem, import_file, load_published, mirror, prefetch, record_cached
from tests.support.http_server import FaultServer, whole

NAME = "fcn_hr18s_cityscapes_40k"
NETWORK = entries("hr18s", 19)
DIGITS = 4  # of the hash in the file's name, in place of eight: a twin is found in a moment, not in minutes
INFO = model_info(NAME)
ONE, OTHER = INFO.sha256_prefix + 56 * "0", INFO.sha256_prefix + 56 * "1"


def forged(data: bytes) -> bytes:
    """Find a legacy checkpoint with other weights whose SHA-256 begins with the same digits.

    The last storage's eight bytes are a counter, which may hold anything: its low half is what is tried.
    """
    wanted = hashlib.sha256(data).hexdigest()[:DIGITS]
    start = bytearray(data[:-8])
    start[-1000] ^= 1  # a weight
    done = hashlib.sha256(start)
    for number in range(1 << 24):
        end = number.to_bytes(8, "little")
        attempt = done.copy()
        attempt.update(end)
        if attempt.hexdigest().startswith(wanted):
            return bytes(start) + end
    raise AssertionError("no twin")


@pytest.fixture(scope="module")
def twin(hr18s: bytes) -> bytes:
    made = forged(hr18s)
    assert made != hr18s
    return made


@pytest.fixture
def row(hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    """Let the catalog hold one row, which states the first digits of the stand-in's hash, and serve it from `host`."""
    info = dataclasses.replace(INFO, sha256_prefix=hashlib.sha256(hr18s).hexdigest()[:DIGITS])
    monkeypatch.setattr("hrnet_zoo.zoo.catalog._ROWS", (info,))
    for module in ("first_seen", "published"):
        monkeypatch.setattr(f"hrnet_zoo.zoo.{module}.model_info", lambda _: info)
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    return info


def served(host: FaultServer, info: ModelInfo, data: bytes) -> None:
    host.play(info.checkpoint_url.removeprefix("https://download.openmmlab.com"), whole(data))


def test_the_digits_of_a_name_alone_do_not_tell_a_twin(
    row: ModelInfo, hr18s: bytes, twin: bytes, host: FaultServer
) -> None:
    """That is why more is recorded: on a fresh machine the forged file passes for the published one."""
    served(host, row, twin)
    _, provenance = load_published(row, NETWORK, progress=False)
    assert provenance["source_sha256"] == hashlib.sha256(twin).hexdigest() != hashlib.sha256(hr18s).hexdigest()


def test_what_came_first_is_held_to(
    row: ModelInfo, hr18s: bytes, twin: bytes, host: FaultServer, cache: Path, tmp_path: Path
) -> None:
    served(host, row, hr18s)
    load_published(row, NETWORK, progress=False)
    digest = hashlib.sha256(hr18s).hexdigest()
    stem = row.file_name.removesuffix(".pth")
    assert (cache / "v1" / "digests" / f"{stem}.sha256").read_text() == f"{digest}\n"
    assert known(row).authority == "recorded"
    files.clear()  # which keeps the record
    served(host, row, twin)
    with pytest.raises(HashMismatchError, match="recorded when such a file was first accepted here") as caught:
        load_published(row, NETWORK, progress=False)
    assert (caught.value.expected, caught.value.actual) == (digest, hashlib.sha256(twin).hexdigest())
    assert "somebody serves another file than before" in caught.value.advice
    assert str(files.digest_path(stem)) in caught.value.advice
    (tmp_path / row.file_name).write_bytes(twin)
    with pytest.raises(HashMismatchError, match="recorded when"):
        import_file(tmp_path / row.file_name)
    with pytest.raises(HashMismatchError, match="recorded when"):
        mirror(row, tmp_path / "mirror", NETWORK, progress=False)
    assert not list(cache.rglob("*.safetensors"))
    assert not list(tmp_path.joinpath("mirror").rglob("*.pth"))
    assert known(row).sha256 == digest
    served(host, row, hr18s)
    load_published(row, NETWORK, progress=False)


def test_a_file_that_is_refused_is_not_recorded(row: ModelInfo, host: FaultServer, cache: Path) -> None:
    junk = b"\x80\x02junk" * 1000
    info = dataclasses.replace(row, sha256_prefix=hashlib.sha256(junk).hexdigest()[:DIGITS])
    served(host, info, junk)
    with pytest.raises(CheckpointFormatError, match="broken pickle"):
        load_published(info, NETWORK, progress=False)
    assert not list(cache.rglob("*.sha256"))
    assert known(info).authority == "prefix"


def test_the_catalog_counts_more(row: ModelInfo, hr18s: bytes, twin: bytes, host: FaultServer) -> None:
    """Also than what was cached, or recorded, before the catalog knew."""
    served(host, row, twin)
    load_published(row, NETWORK, progress=False)
    pinned = dataclasses.replace(row, sha256=hashlib.sha256(hr18s).hexdigest())
    with pytest.raises(HashMismatchError, match="as the catalog states it") as caught:
        load_published(pinned, NETWORK, progress=False)
    assert f"hrnet-zoo cache clear {NAME}" in caught.value.advice
    files.clear(cached_stem(pinned))
    with pytest.raises(HashMismatchError, match=pinned.sha256):
        load_published(pinned, NETWORK, progress=False)
    served(host, row, hr18s)
    load_published(pinned, NETWORK, progress=False)


def test_a_digest_overrules_a_wrong_name(row: ModelInfo, hr18s: bytes, host: FaultServer) -> None:
    """A genuine file whose name has other digits: only the catalog can say so, never an option."""
    info = dataclasses.replace(row, sha256_prefix="0123", sha256=hashlib.sha256(hr18s).hexdigest())
    served(host, info, hr18s)
    load_published(info, NETWORK, progress=False)


@pytest.mark.parametrize("links", [True, False])
def test_the_first_writer_wins(links: bool, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Among threads with as many different digests one is recorded, whole, and the others are told."""
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    digests = [INFO.sha256_prefix + f"{number:056x}" for number in range(16 if links else 1)]

    def attempt(digest: str) -> str | None:
        try:
            return record(INFO, digest, "a.pth").sha256
        except HashMismatchError:
            return None

    with ThreadPoolExecutor(16) as pool:
        won = [digest for digest in pool.map(attempt, digests) if digest]
    assert won == [known(INFO).sha256]
    assert [path.name for path in (cache / "v1" / "digests").iterdir()] == [
        f"{INFO.file_name.removesuffix('.pth')}.sha256"
    ]
    assert record(INFO, won[0], "a.pth") == known(INFO)
    with pytest.raises(HashMismatchError, match="first accepted here"):
        record(INFO, OTHER, "a.pth")


@pytest.mark.parametrize("text", ["", "0" * 63, "g" * 64, "0" * 65, "\xff" * 64])
def test_a_damaged_record_is_no_record(text: str) -> None:
    """It is neither believed nor overwritten."""
    path = files.digest_path(INFO.file_name.removesuffix(".pth"))
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CacheError, match="something else than 64 hex digits") as caught:
        record(INFO, ONE, "a.pth")
    assert caught.value.path == path
    assert "remove that file" in caught.value.advice


def test_exported_and_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the format of sha256sum, which is also what the catalog reads."""
    record(INFO, ONE, "a.pth")
    assert [each.info for each in export(tmp_path / "SUMS")] == [INFO]
    assert (tmp_path / "SUMS").read_text() == f"{ONE}  {INFO.file_name}\n"
    assert stated_digests(tmp_path / "SUMS") == {INFO.file_name: ONE}
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "another"))
    assert known(INFO).authority == "prefix"
    (imported,) = take(tmp_path / "SUMS")
    assert imported == known(INFO)
    assert (imported.sha256, imported.authority) == (ONE, "recorded")
    take(tmp_path / "SUMS")
    with pytest.raises(OutputError):
        export(tmp_path / "absent" / "SUMS")


def test_the_catalog_takes_what_was_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list_models():
        record(model_info(name), model_info(name).sha256_prefix + 56 * "a", "a.pth")
    export(tmp_path / "digests.sha256")
    stated = stated_digests(tmp_path / "digests.sha256")
    monkeypatch.setattr(catalog, "stated_digests", lambda: stated)
    rows = catalog._with_digests.__wrapped__(catalog._ROWS)
    assert [row.name for row in rows] == list_models()
    assert all(row.sha256 == row.sha256_prefix + 56 * "a" for row in rows)


def test_what_the_catalog_states_today() -> None:
    """Every line names a published file; a digest that does not begin with the digits of the name is meant so."""
    names = {model_info(name).file_name: name for name in list_models()}
    for name, digest in stated_digests().items():
        assert model_info(names[name]).sha256 == digest
        assert len(digest) == 64
    assert [each.authority for each in every()] == [
        "catalog" if model_info(name).sha256 else "prefix" for name in list_models()
    ]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (f"{OTHER}  {INFO.file_name}", HashMismatchError, "first accepted here"),
        (f"{'0' * 64}  {model_info('fcn_hr18_ade20k_80k').file_name}", HashMismatchError, "as the file's name states"),
        (f"{ONE}  {INFO.name}", ConfigError, "line 1 is not the digest of a published file"),
        (f"{ONE}  ../{INFO.file_name}", ConfigError, "line 1"),
        (f"{ONE}  {INFO.file_name}\n\n", ConfigError, "line 2"),
        (f"{ONE}  mine.pth", ConfigError, "line 1"),
        (ONE, ConfigError, "line 1"),
        ("\x1b[2J\0", ConfigError, r"\\x1b"),
        (f"{ONE.upper()}  {INFO.file_name}", ConfigError, "line 1"),
        (f"{ONE}  {INFO.file_name}\n" * 1000, ConfigError, "more than 65,536 bytes"),
        (None, ConfigError, "a folder, pipe or device"),
    ],
)
def test_what_is_no_list_of_digests(text: str | None, error: type[Exception], words: str, tmp_path: Path) -> None:
    record(INFO, ONE, "a.pth")
    path = tmp_path / "SUMS"
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(error, match=words) as caught:
        take(path)
    assert "SUMS" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert sum(each.authority == "recorded" for each in every()) == 1


def test_files_of_before_are_recorded(row: ModelInfo, hr18s: bytes, host: FaultServer, cache: Path) -> None:
    """What was converted when nothing was recorded yet."""
    served(host, row, hr18s)
    prefetch(row, NETWORK, progress=False)
    files.digest_path(row.file_name.removesuffix(".pth")).unlink()
    assert {each.authority for each in every()} == {"prefix"}
    assert record_cached()[0].sha256 == hashlib.sha256(hr18s).hexdigest()
    assert known(row).authority == "recorded"
    files.sweep()
    assert list(cache.rglob("*.sha256"))
