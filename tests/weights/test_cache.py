"""A finished file is whole or absent, whatever dies, races or fails; and every leftover is known and bounded."""

import errno
import fcntl
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
from huggingface_hub import constants

from hrnet_zoo.errors import CacheError, CachePermissionError, CacheSpaceError, CheckpointFormatError
from hrnet_zoo.weights import cache as files
from hrnet_zoo.weights.part import Note, discard, note_path, write

BODY = bytes(range(256)) * 400
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become nobody")


def put(file: BinaryIO) -> None:
    file.write(BODY)


def same(path: Path) -> None:
    """Check as the caller does: read it back."""
    assert path.read_bytes() == BODY


def whole(path: Path) -> None:
    """Check as the caller does, with the error that it raises."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise damaged(path) from error
    if body != BODY:
        raise damaged(path)


def damaged(path: Path) -> CheckpointFormatError:
    return CheckpointFormatError(asked="check it", found="other bytes", done="nothing", advice="none", source=str(path))


def kinds() -> dict[str, int]:
    """Count the files of the cache by kind."""
    return dict(Counter(entry.kind for entry in files.entries()))


def fails_with(code: int) -> Callable[..., NoReturn]:
    """Make a system call that always fails."""

    def call(*args: object, **kwargs: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return call


def run_child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, on the same cache."""
    head = """
        import os, signal, sys, time
        from pathlib import Path
        from hrnet_zoo.weights import cache as files
        from hrnet_zoo.weights.part import note_path
        BODY = bytes(range(256)) * 400
        def put(file): file.write(BODY)
        def die(*args): os.kill(os.getpid(), signal.SIGKILL)
        def same(path): assert path.read_bytes() == BODY
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


def left_by_the_dead(stem: str, size: int = 100, etag: str = '"v1"') -> Path:
    """Let a process claim a part, write it and be killed."""
    done = run_child(f"""
        part = files.claim_part({stem!r})
        part.write_bytes(b"x" * {size})
        note_path(part).write_text({etag!r})
        print(part, flush=True)
        die()
    """)
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


def twin_of(dead: Path, size: int) -> None:
    """Let the same dead process have left a second part."""
    twin = dead.with_name(f"{dead.name[: -len('12345678.part')]}00000000.part")
    twin.write_bytes(b"x" * size)
    note_path(twin).write_text("{}")


# --- where -----------------------------------------------------------------------------------------------------------


def test_root_is_read_at_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "a"))
    assert files.root() == tmp_path / "a"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HRNET_ZOO_CACHE", "~/b")
    assert files.root() == tmp_path / "b"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HRNET_ZOO_CACHE", "c")
    assert files.root() == tmp_path / "c"


def test_root_in_the_assets_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRNET_ZOO_CACHE")
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    done = run_child("print(files.root()); files.publish('a', put, same)")
    assert (tmp_path / "assets" / "hrnet-zoo") in Path(done.stdout.strip()).parents
    assert Path(done.stdout.strip(), "v1", "models", "a.safetensors").read_bytes() == BODY
    assert Path(done.stdout.strip(), "CACHEDIR.TAG").is_file()


@pytest.mark.parametrize("name", ["HRNET_ZOO_CACHE", "HF_ASSETS_CACHE"])
def test_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("HRNET_ZOO_CACHE")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    done = run_child("files.claim_part('a')")
    assert "errors.CacheError: " in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert "HRNET_ZOO_CACHE" in done.stderr


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(CacheError, match="HRNET_ZOO_CACHE"):
        files.root()


@pytest.mark.parametrize("stem", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "ä", "a b", "a*", "a" * 121, "a\n"])
def test_stems_that_are_no_file_names(stem: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        files.model_path(stem)


def test_a_system_that_knows_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, under a user id that it does not know: `~` stays, and would be a folder of this name."""
    monkeypatch.delenv("HRNET_ZOO_CACHE")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", "~/.cache/huggingface/assets")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match="no home folder"):
        files.root()
    assert not list(tmp_path.iterdir())


def test_looking_makes_nothing(cache: Path) -> None:
    assert not files.model_path("a").exists()
    assert files.entries() == []
    assert files.clear() == []
    assert files.clear("a") == []
    assert not cache.exists()


def test_tag_only_in_a_folder_of_its_own(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.claim_part("a")
    assert (cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "home"))
    files.claim_part("a")
    assert not (tmp_path / "home" / "CACHEDIR.TAG").exists()


@needs_root
def test_a_hit_on_a_cache_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        monkeypatch.setenv("HRNET_ZOO_CACHE", folder)
        files.publish("a", put, same)
        done = use_as_nobody()
    assert done.stderr == ""
    assert "65534" in done.stdout
    assert folder in done.stdout
    assert "HRNET_ZOO_CACHE" in done.stdout


def use_as_nobody() -> subprocess.CompletedProcess[str]:
    """Load a model, and try to fetch another, as a user who may only read."""
    return run_child("""
        from hrnet_zoo.errors import CachePermissionError
        os.setuid(65534)
        opened = []
        sys.addaudithook(lambda event, args: opened.append(args) if event in {"os.mkdir", "fcntl.flock"} else None)
        same(files.model_path("a"))
        assert not opened
        try:
            with files.lock("a"):
                files.claim_part("b")
        except CachePermissionError as error:
            print(error)
    """)


# --- publish ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_mode_follows_the_umask(mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        final = files.publish("a", put, same)
        with files.lock("a"):
            part = files.claim_part("a")
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in (final, part)} == {mode}
    assert final.parent.stat().st_mode & 0o777 == 0o777 & ~mask


def test_the_order_of_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("sync"))
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)

    def check(path: Path) -> None:
        done.append("check")
        assert path != files.model_path("a")
        assert not files.model_path("a").exists()

    files.publish("a", put, check)
    assert done == ["sync", "check", "rename", "sync"]


@pytest.mark.parametrize("step", ["write", "check"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_a_failure_leaves_nothing(step: str, error: type[BaseException]) -> None:
    def fail(target: object) -> None:
        raise error

    with pytest.raises(error):
        files.publish("a", fail if step == "write" else put, fail if step == "check" else same)
    assert kinds() == {}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, CacheSpaceError),
        (errno.EDQUOT, CacheSpaceError),
        (errno.EFBIG, CacheSpaceError),
        (errno.EROFS, CachePermissionError),
        (errno.EACCES, CachePermissionError),
        (errno.EIO, CacheError),
    ],
)
def test_disk_errors_have_a_name(monkeypatch: pytest.MonkeyPatch, code: int, kind: type[CacheError]) -> None:
    files.publish("a", put, same)
    monkeypatch.setattr(os, "fsync", fails_with(code))
    with pytest.raises(CacheError, match="HRNET_ZOO_CACHE") as caught:
        files.publish("a", put, same)
    assert type(caught.value) is kind
    assert type(pickle.loads(pickle.dumps(caught.value))) is kind  # noqa: S301 - our own
    assert caught.value.path == files.model_path("a")
    assert kinds() == {"model": 1}
    same(files.model_path("a"))


def test_file_size_limit() -> None:
    done = run_child("""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        files.publish("a", put, same)
    """)
    assert "CacheSpaceError" in done.stderr
    assert kinds() == {}


def test_a_folder_at_the_place_of_the_model() -> None:
    files.model_path("a").mkdir(parents=True)
    with pytest.raises(CacheError, match=r"a\.safetensors"):
        files.claim_part("a")
    with pytest.raises(CacheError, match=r"a\.safetensors"):
        files.publish("a", put, same)
    assert kinds() == {}


def test_a_dangling_link_is_replaced(tmp_path: Path) -> None:
    files.model_path("b").parent.mkdir(parents=True)
    files.model_path("b").symlink_to(tmp_path / "nowhere")
    assert kinds() == {"model": 1}
    same(files.publish("b", put, same))
    assert not files.model_path("b").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_busy_file_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    real, tries = Path.replace, 3

    def replace(self: Path, target: Path) -> Path:
        nonlocal tries
        tries -= 1
        if tries >= 0:
            raise PermissionError(13, "the file is in use")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    same(files.publish("a", put, whole))
    assert naps == [0.05, 0.1, 0.2]
    tries = 99
    same(files.publish("a", put, whole))  # one that is there and good is what was to be made
    assert kinds() == {"model": 1}
    files.model_path("a").write_bytes(b"damaged")
    with pytest.raises(CachePermissionError):
        files.publish("a", put, whole)
    assert kinds() == {"model": 1}


@pytest.mark.parametrize("place", ["put", "check", "rename"])
def test_killed_while_publishing(place: str) -> None:
    write, check = ("die", "same") if place == "put" else ("put", "die" if place == "check" else "same")
    change = "files._replace = die" if place == "rename" else ""
    assert run_child(f"{change}\nfiles.publish('a', {write}, {check})").returncode == -signal.SIGKILL
    assert kinds() == {"temp": 1}
    same(files.publish("b", put, same))
    files.sweep()
    assert kinds() == {"model": 1}


def test_readers_see_a_whole_file_or_none() -> None:
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(len(files.model_path("a").read_bytes()))
            except FileNotFoundError:
                seen.append(0)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        files.publish("a", put, same)
        files.clear("a")
    stop.set()
    reader.join()
    assert set(seen) <= {0, len(BODY)}


def test_a_finished_file_is_never_opened_for_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    final = files.publish("a", put, same)
    number = final.stat().st_ino
    with final.open("rb") as mapped:
        files.publish("a", put, same)
        assert final.stat().st_ino != number  # a new file under the name, and the old one intact for who has it open
        assert mapped.read() == BODY


# --- parts -----------------------------------------------------------------------------------------------------------


def test_the_part_of_a_dead_process_is_taken_over() -> None:
    dead = left_by_the_dead("a")
    part = files.claim_part("a")
    assert part != dead
    assert not dead.exists()
    assert not note_path(dead).exists()
    assert part.read_bytes() == b"x" * 100
    assert note_path(part).read_text() == '"v1"'


def test_the_longest_part_is_taken_over_and_other_models_are_let_alone() -> None:
    left_by_the_dead("a.b", size=900)
    twin_of(left_by_the_dead("a", size=100), size=300)
    assert files.claim_part("a").stat().st_size == 300
    assert kinds()["part"] == 6


def test_the_part_of_a_living_process_is_let_alone() -> None:
    """However long it is silent: a computer that slept is no proof of death (a quarter of an hour was the proposal)."""
    code = "from hrnet_zoo.weights import cache as c, part; print(c.claim_part('a'), flush=True); input()"
    with subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout
            theirs = Path(other.stdout.readline().strip())
            assert files.claim_part("a") != theirs
            files.sweep()
            theirs.write_bytes(b"x" * 100)
            old = time.time() - 100 * files.STALE_S
            os.utime(theirs, (old, old))
            assert files.claim_part("a").stat().st_size == 0
            assert files.sweep(everything=True)  # ours, of the claims above
            assert theirs.exists()
        finally:
            other.kill()
    assert files.claim_part("a").stat().st_size == 100
    assert not theirs.exists()


def test_a_number_used_again_is_another_process() -> None:
    part = files.claim_part("a")
    part.write_bytes(b"x")
    host, place, pid, start, thread, nonce = part.name.split(".")[-2].split("-")
    again = part.with_name(f"a.{host}-{place}-{pid}-{int(start) - 1}-{thread}1-{nonce}.part")
    part.rename(again)
    assert files.claim_part("a").read_bytes() == b"x"
    assert not again.exists()


def test_another_machine_is_not_provably_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its part is taken when it was silent for long, by the clock of the folder and not by this machine's."""
    part = files.claim_part("a")
    part.write_bytes(b"x")
    host, _, _, start, thread, nonce = part.name.split(".")[-2].split("-")
    monkeypatch.setattr(time, "time", lambda: 2e9)  # a day too late, or a year
    for place in ("00000000", "deadbeef"):
        there = part.with_name(f"a.{host}-{place}-999999999-{start}-{thread}-{nonce}.part")
        there.write_bytes(b"xxx")
        now = there.stat().st_mtime
        os.utime(there, (now, now - files.STALE_S + 60))
        assert files.claim_part("a") != there
        assert files.sweep() == []
        assert there.exists()
        os.utime(there, (now, now - files.STALE_S - 1))
        mine = files.claim_part("a")
        assert mine.read_bytes() == b"xxx"
        assert not there.exists()
        assert mine.stat().st_mtime >= now  # and is not stale for the next
        mine.unlink()


def test_a_note_follows_its_part_where_there_are_no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_the_dead("a")
    monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
    part = files.claim_part("a")
    assert (part.read_bytes(), note_path(part).read_text()) == (b"x" * 100, '"v1"')
    assert kinds() == {"part": 2}


def test_a_part_that_another_process_takes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = left_by_the_dead("a")
    real = os.link

    def link(old: Path, new: Path) -> None:
        real(old, new)
        dead.rename(dead.with_name("theirs"))

    monkeypatch.setattr(os, "link", link)
    part = files.claim_part("a")
    assert part.read_bytes() == b""
    assert not note_path(part).exists()


def test_threads_do_not_share_a_part_and_a_retry_resumes() -> None:
    ours = files.claim_part("a")
    ours.write_bytes(b"ours")
    claimed: list[Path] = []

    def claim() -> None:
        claimed.append(files.claim_part("a"))
        claimed[0].write_bytes(b"their longer")

    thread = threading.Thread(target=claim)
    thread.start()
    thread.join()
    assert ours.read_bytes() == b"ours"
    assert files.claim_part("a").read_bytes() == b"their longer"  # that thread has ended
    assert not claimed[0].exists()


def test_a_planted_link_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    dead = left_by_the_dead("a")
    dead.unlink()
    dead.symlink_to(tmp_path / "precious")
    part = files.claim_part("a")
    assert not part.is_symlink()
    assert part.stat().st_size == 0
    files.sweep()
    assert (tmp_path / "precious").read_text() == "mine"


def test_sweep_keeps_one_part_of_an_unfinished_model() -> None:
    twin_of(left_by_the_dead("a", size=100), size=300)
    left_by_the_dead("b", size=300)
    files.publish("b", put, same)
    files.sweep()
    assert [(entry.stem, entry.size) for entry in files.entries() if entry.path.suffix == ".part"] == [("a", 300)]
    assert kinds() == {"model": 1, "part": 2}
    files.publish("a", put, same)
    files.sweep()
    assert kinds() == {"model": 2}


def test_sweep_removes_a_note_without_its_part() -> None:
    left_by_the_dead("a").unlink()
    files.sweep()
    assert kinds() == {}


def test_sweep_of_everything_tells_what_went() -> None:
    twin_of(left_by_the_dead("a", size=100), size=300)
    assert sorted(entry.size for entry in files.sweep() if entry.path.suffix == ".part") == [100]
    assert [entry.size for entry in files.sweep(everything=True) if entry.path.suffix == ".part"] == [300]
    assert kinds() == {}


def test_a_link_planted_at_a_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    note = Note("https://a.example", None, None)
    for planted in (Path, note_path):
        part = files.claim_part("a")
        planted(part).unlink(missing_ok=True)
        planted(part).symlink_to(tmp_path / "precious")
        with pytest.raises(CacheError, match="HRNET_ZOO_CACHE"):
            write(part, [b"x"], 0, note)
    assert (tmp_path / "precious").read_text() == "mine"


@needs_root
def test_a_cache_that_anybody_may_change(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    for mode, owner, warnings_told in ((0o777, 0, 0), (0o1777, 65534, 0), (0o755, 65534, 0), (0o777, 65534, 1)):
        cache.chmod(mode)
        os.chown(cache, owner, -1)
        caplog.clear()
        files.claim_part("a")
        assert len([line for line in caplog.messages if "anybody may change" in line]) == warnings_told


# --- damage ----------------------------------------------------------------------------------------------------------


def test_only_what_is_damaged_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is kept as *.corrupt, as was proposed: nobody looks at one, and it takes as much room as the good file."""
    final = files.publish("a", put, whole)
    assert not files.remove_damaged(final, whole)
    same(final)
    final.write_bytes(b"damaged")
    assert files.remove_damaged(final, whole)
    assert not files.remove_damaged(final, whole)
    assert set(kinds()) == {"lock"}
    files.publish("a", put, whole)
    monkeypatch.setattr(Path, "read_bytes", fails_with(errno.EIO))
    with pytest.raises(CheckpointFormatError):
        files.remove_damaged(final, whole)  # what cannot be read may be whole
    monkeypatch.undo()
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(final.parents[2]))
    assert final.read_bytes() == BODY
    assert not files.remove_damaged(final.with_name("foreign name"), whole)


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_others_out() -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with files.lock("a"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("leaves", ["at once", "in order"])
def test_a_fork_does_not_open_the_lock(leaves: str, cache: Path) -> None:
    """As a worker that is forked while its parent fetches: killed or not, the lock stays the parent's."""
    child = (
        "import filelock, sys\n"
        "try:\n    filelock.FileLock(sys.argv[1]).acquire(timeout=0)\n"
        "except filelock.Timeout:\n    sys.exit(3)"
    )
    look = [sys.executable, "-c", child, str(cache / "v1" / "locks" / "a.lock")]
    forked = -1
    try:
        with files.lock("a"):
            forked = os.fork()
            if forked:
                os.waitpid(forked, 0)
                assert subprocess.run(look, check=False).returncode == 3  # noqa: S603 - our own
            elif leaves == "at once":
                os._exit(0)
    finally:
        if not forked:
            os._exit(0)
    assert subprocess.run(look, check=False).returncode == 0  # noqa: S603 - our own


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EACCES, errno.EIO, None])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_broken_lock_only_costs_bandwidth(monkeypatch: pytest.MonkeyPatch, code: int | None, action: str) -> None:
    monkeypatch.setattr(fcntl, "flock", fails_with(code) if code else lambda *args: None)
    monkeypatch.setattr(files, "LOCK_NOTICE_S", 0.05)
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with files.lock("a"), files.lock("b"):
            same(files.publish("a", put, same))
    assert set(kinds()) <= {"model", "lock"}


def test_a_holder_that_hangs_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "LOCK_NOTICE_S", 0.05)
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.1)
    entered: list[bool] = []

    def wait() -> None:
        with files.lock("a"):
            entered.append(True)

    with files.lock("a"):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert entered == [True]
    assert [("waiting" in record.message, "went on" in record.message) for record in caplog.records] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.filterwarnings("default")  # as for users: an error in place of filelock's warning would end its wait
@pytest.mark.parametrize("left", ["", "12345\nhost\n"])
def test_nobody_waits_where_there_is_no_flock(
    left: str, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever lies at the place of the lock: what a killed process left would never be taken away."""
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.ENOSYS))
    (cache / "v1" / "locks").mkdir(parents=True)
    (cache / "v1" / "locks" / "a.lock").write_text(left)
    start = time.monotonic()
    with caplog.at_level("INFO"), files.lock("a"):
        pass
    assert time.monotonic() - start < files.LOCK_NOTICE_S
    assert [line.partition(" the lock ")[0] for line in caplog.messages] == ["went on without"]


def test_an_error_inside_a_lock_passes() -> None:
    with pytest.raises(OSError, match="of the body"), files.lock("a"):
        raise OSError("of the body")
    with files.lock("a"):
        pass


@pytest.mark.parametrize("flock", ["fcntl.flock", "lambda *args: None"])
def test_processes_at_once(flock: str) -> None:
    code = textwrap.dedent(f"""
        import fcntl
        fcntl.flock = {flock}
        from hrnet_zoo.weights import cache as files
        def same(path): assert len(path.read_bytes()) == 3_000_000
        for turn in range(20):
            with files.lock("a"):
                try:
                    same(files.model_path("a"))
                    continue
                except FileNotFoundError:
                    pass  # not built yet, or cleared by another process
                part = files.claim_part("a")
                part.write_bytes(bytes(3_000_000))
                files.publish("a", lambda file: file.write(bytes(3_000_000)), same)
                files.discard(part)
                files.sweep()
            print("built")
            if turn < 10:
                files.clear("a")
    """)
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(3)
    ]
    try:
        ends = [process.communicate(timeout=60) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [stderr for _, stderr in ends] == ["", "", ""]
    assert sum(stdout.count("built") for stdout, _ in ends) >= 1
    assert kinds()["model"] == 1
    assert set(kinds()) <= {"model", "lock"}


# --- entries and clear -----------------------------------------------------------------------------------------------


def test_entries_know_every_file(cache: Path) -> None:
    with files.lock("a"):
        files.publish("a", put, same)
    part = files.claim_part("b-1.2")
    part.write_bytes(b"123")
    note_path(part).write_text("{}")
    (cache / "v1" / "models" / ".a.x.tmp").write_text("?")
    (cache / "v1" / "downloads" / "readme.txt").write_text("?")
    (cache / "v1" / "downloads" / "a.safetensors").write_text("?")
    os.mkfifo(cache / "v1" / "downloads" / "pipe")
    found = {(entry.kind, entry.stem, entry.path.name, entry.size) for entry in files.entries()}
    assert found == {
        ("model", "a", "a.safetensors", len(BODY)),
        ("part", "b-1.2", part.name, 3),
        ("part", "b-1.2", note_path(part).name, 2),
        ("lock", "a", "a.lock", 0),
        ("unknown", "", ".a.x.tmp", 1),
        ("unknown", "", "readme.txt", 1),
        ("unknown", "", "a.safetensors", 1),
        ("unknown", "", "pipe", 0),
    }


def test_logs_lie_beside_models(cache: Path) -> None:
    """A finished log appears, is found, resumed, swept and cleared as a model is; neither is taken for the other."""
    left_by_the_dead("a", size=100)
    assert files.claim_part("a", "log").stat().st_size == 100
    left_by_the_dead("b", size=300)
    assert files.publish("b", put, same, "log") == files.log_path("b") == cache / "v1" / "logs" / "b.log.json"
    assert files.is_cached("b", "log")
    assert not files.is_cached("b")
    (cache / "v1" / "logs" / "b.safetensors").write_text("?")
    files.sweep()
    assert kinds() == {"log": 1, "part": 2, "unknown": 1}  # the part of b went: b is finished
    files.publish("b2", put, same)
    assert [(entry.kind, entry.stem) for entry in files.clear("b")] == [("log", "b")]
    files.log_path("c").mkdir()
    with pytest.raises(CacheError, match=r"c\.log\.json"):
        files.claim_part("c", "log")
    assert sorted((entry.kind, entry.stem) for entry in files.clear()) == [
        ("model", "b2"),
        ("part", "a"),
        ("part", "a"),
    ]


def test_killed_while_publishing_a_log() -> None:
    assert run_child("files.publish('a', die, same, 'log')").returncode == -signal.SIGKILL
    assert kinds() == {"temp": 1}
    files.sweep()
    assert kinds() == {}


def test_clear() -> None:
    for stem in ("a", "b"):
        files.publish(stem, put, same)
        files.claim_part(stem)
    assert sorted((entry.kind, entry.stem) for entry in files.clear("a")) == [("model", "a"), ("part", "a")]
    assert kinds() == {"model": 1, "part": 1, "lock": 1}
    assert len(files.clear()) == 2
    assert set(kinds()) == {"lock"}
    with pytest.raises(ValueError, match="cannot name"):
        files.clear("../..")


def test_clear_waits_for_a_builder() -> None:
    done: list[str] = []

    def clear() -> None:
        files.clear("a")
        done.append("cleared")

    files.publish("a", put, same)
    with files.lock("a"):
        thread = threading.Thread(target=clear)
        thread.start()
        time.sleep(0.1)
        done.append("built")
    thread.join()
    assert done == ["built", "cleared"]


def test_discard_of_nothing(cache: Path) -> None:
    discard(cache / "a.part")


def test_importing_does_nothing(cache: Path) -> None:
    done = run_child("""
        import subprocess
        seen = []
        sys.addaudithook(lambda event, args: seen.append((event, args)))
        import importlib
        importlib.reload(files)
        import hrnet_zoo.weights.transfer
        print([event for event, args in seen if event.startswith(("socket.connect", "os.mkdir", "os.rename"))])
        print(any("hrnet-zoo" in str(args) for event, args in seen if event == "open"))
    """)
    assert done.stdout.split() == ["[]", "False"]
    assert not cache.exists()
