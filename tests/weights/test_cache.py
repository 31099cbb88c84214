"""A finished file is whole or absent, whatever dies, races or fails; and every leftover is known and bounded."""

import errno
import fcntl
import os
import pickle
import secrets
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
from typing import NoReturn

import pytest
from huggingface_hub import constants

from hrnet_zoo.errors import CacheError, CacheSpaceError, CheckpointFormatError
from hrnet_zoo.weights import cache as files

BODY = bytes(range(256)) * 400
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become nobody")


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
        BODY = bytes(range(256)) * 400
        def die(*args): os.kill(os.getpid(), signal.SIGKILL)
        def same(path): assert path.read_bytes() == BODY
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


def left_behind(key: str, size: int = 100, silent_s: float = files.SILENT_S + 1) -> Path:
    """Leave a partial download that nobody has written to for so long."""
    partial = files._folder("downloads") / f"{key}.{secrets.token_hex(8)}.part"
    partial.write_bytes(b"x" * size)
    return aged(partial, silent_s)


def aged(path: Path, silent_s: float) -> Path:
    """Let nobody have written to a file for so long, by the clock of its folder and not by this machine's."""
    now = files._now_s(path.parent)
    os.utime(path, (now, now - silent_s))
    return path


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
    done = run_child("print(files.root()); files.publish('a', BODY, same)")
    assert (tmp_path / "assets" / "hrnet-zoo") in Path(done.stdout.strip()).parents
    assert Path(done.stdout.strip(), "v1", "models", "a.safetensors").read_bytes() == BODY


@pytest.mark.parametrize("name", ["HRNET_ZOO_CACHE", "HF_ASSETS_CACHE"])
def test_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("HRNET_ZOO_CACHE")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    done = run_child("files.claim_partial('a')")
    assert "errors.CacheError: " in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert "HRNET_ZOO_CACHE" in done.stderr


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(CacheError, match="HRNET_ZOO_CACHE"):
        files.root()


@pytest.mark.parametrize("key", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "ä", "a b", "a*", "a" * 121, "a\n"])
def test_keys_that_are_no_file_names(key: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        files.path_of(key)


def test_a_system_that_knows_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, under a user id that it does not know: `~` stays, and would be a folder of this name."""
    monkeypatch.delenv("HRNET_ZOO_CACHE")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", "~/.cache/huggingface/assets")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match="no home folder"):
        files.root()
    assert not list(tmp_path.iterdir())


def test_looking_makes_nothing(cache: Path) -> None:
    assert not files.path_of("a").exists()
    assert files.entries() == []
    assert files.clear() == []
    assert files.clear("a") == []
    assert not cache.exists()


@needs_root
def test_a_hit_on_a_cache_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        monkeypatch.setenv("HRNET_ZOO_CACHE", folder)
        files.publish("a", BODY, same)
        done = use_as_nobody()
    assert done.stderr == ""
    assert "65534" in done.stdout
    assert folder in done.stdout
    assert "HRNET_ZOO_CACHE" in done.stdout


def use_as_nobody() -> subprocess.CompletedProcess[str]:
    """Load a model, and try to fetch another, as a user who may only read."""
    return run_child("""
        from hrnet_zoo.errors import CacheError
        os.setuid(65534)
        opened = []
        sys.addaudithook(lambda event, args: opened.append(args) if event in {"os.mkdir", "fcntl.flock"} else None)
        same(files.path_of("a"))
        assert not opened
        try:
            with files.lock("a"):
                files.claim_partial("b")
        except CacheError as error:
            print(error)
    """)


# --- publish ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_mode_follows_the_umask(mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        final = files.publish("a", BODY, same)
        with files.lock("a"):
            part = files.claim_partial("a")
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
        assert path != files.path_of("a")
        assert not files.path_of("a").exists()

    files.publish("a", BODY, check)
    assert done == ["sync", "check", "rename"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_a_failure_leaves_nothing(error: type[BaseException]) -> None:
    def fail(target: object) -> None:
        raise error

    with pytest.raises(error):
        files.publish("a", BODY, fail)
    assert kinds() == {}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, CacheSpaceError),
        (errno.EDQUOT, CacheSpaceError),
        (errno.EFBIG, CacheSpaceError),
        (errno.EROFS, CacheError),
        (errno.EACCES, CacheError),
        (errno.EIO, CacheError),
    ],
)
def test_disk_errors_have_a_name(monkeypatch: pytest.MonkeyPatch, code: int, kind: type[CacheError]) -> None:
    files.publish("a", BODY, same)
    monkeypatch.setattr(os, "fsync", fails_with(code))
    with pytest.raises(CacheError, match="HRNET_ZOO_CACHE") as caught:
        files.publish("a", BODY, same)
    assert type(caught.value) is kind
    assert type(pickle.loads(pickle.dumps(caught.value))) is kind  # noqa: S301 - our own
    assert caught.value.path == files.path_of("a")
    assert kinds() == {"model": 1}
    same(files.path_of("a"))


def test_file_size_limit() -> None:
    done = run_child("""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        files.publish("a", BODY, same)
    """)
    assert "CacheSpaceError" in done.stderr
    assert kinds() == {}


def test_a_folder_at_the_place_of_the_model() -> None:
    files.path_of("a").mkdir(parents=True)
    with pytest.raises(CacheError, match=r"a\.safetensors"):
        files.publish("a", BODY, same)
    assert kinds() == {}


def test_a_dangling_link_is_replaced(tmp_path: Path) -> None:
    files.path_of("b").parent.mkdir(parents=True)
    files.path_of("b").symlink_to(tmp_path / "nowhere")
    assert kinds() == {"model": 1}
    same(files.publish("b", BODY, same))
    assert not files.path_of("b").is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("place", ["sync", "check", "rename"])
def test_killed_while_publishing(place: str) -> None:
    change = {"sync": "os.fsync = die", "rename": "Path.replace = die"}.get(place, "same = die")
    assert run_child(f"{change}\nfiles.publish('a', BODY, same)").returncode == -signal.SIGKILL
    assert kinds() == {"temp": 1}
    same(files.publish("b", BODY, same))
    files.sweep()
    assert kinds() == {"model": 1, "temp": 1}  # who wrote it may be writing still
    aged(next(entry.path for entry in files.entries() if entry.kind == "temp"), files.STALE_S + 1)
    files.sweep()
    assert kinds() == {"model": 1}


def test_readers_see_a_whole_file_or_none() -> None:
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(len(files.path_of("a").read_bytes()))
            except FileNotFoundError:
                seen.append(0)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        files.publish("a", BODY, same)
        files.clear("a")
    stop.set()
    reader.join()
    assert set(seen) <= {0, len(BODY)}


def test_a_finished_file_is_never_opened_for_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    final = files.publish("a", BODY, same)
    number = final.stat().st_ino
    with final.open("rb") as mapped:
        files.publish("a", BODY, same)
        assert final.stat().st_ino != number  # a new file under the name, and the old one intact for who has it open
        assert mapped.read() == BODY


# --- partial downloads -----------------------------------------------------------------------------------------------


def test_a_silent_partial_download_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 2e9)  # this machine's clock is a day late, or a year
    left = left_behind("a")
    now = files._now_s(left.parent)
    partial = files.claim_partial("a")
    assert partial != left
    assert not left.exists()
    assert partial.read_bytes() == b"x" * 100
    assert partial.stat().st_mtime >= now  # and is not silent for the next
    assert files.claim_partial("a").read_bytes() == b""


def test_one_that_is_being_written_is_let_alone() -> None:
    live = left_behind("a", silent_s=files.SILENT_S - 5)
    assert files.claim_partial("a").read_bytes() == b""
    assert live.exists()


def test_one_that_was_released_is_taken_over_at_once() -> None:
    released = left_behind("a", silent_s=0)
    files.release_partial(released)
    assert files.claim_partial("a").stat().st_size == 100
    files.release_partial(released)  # gone: fine


def test_the_longest_one_is_taken_over_and_other_models_are_let_alone() -> None:
    left = [left_behind(key, size) for key, size in (("a", 100), ("a.b", 900), ("a", 300))]
    assert files.claim_partial("a").stat().st_size == 300
    assert [path.exists() for path in left] == [True, True, False]


def test_one_that_another_process_takes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_behind("a")
    real = os.utime

    def utime(path: Path, *args: object) -> None:
        real(path)
        left.rename(left.with_name("theirs"))

    monkeypatch.setattr(os, "utime", utime)
    assert files.claim_partial("a").read_bytes() == b""


def test_partial_downloads_of_the_last_version_are_known() -> None:
    """They are taken over (to begin anew), swept and cleared as ours are; so are the notes beside them."""
    folder = files.claim_partial("a").parent
    old = [folder / f"a.host-deadbeef-12-345-678-0123abcd.{end}" for end in ("part", "json")]
    for path in old:
        path.write_bytes(b"{}")
        aged(path, files.STALE_S + 1)
    assert files.claim_partial("a").read_bytes() == b"{}"
    assert [entry.path for entry in files.sweep()] == [old[1]]
    old[0].touch()
    assert old[0] in {entry.path for entry in files.clear("a")}
    assert "unknown" not in kinds()


def test_a_planted_link_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    left = left_behind("a")
    left.unlink()
    left.symlink_to(tmp_path / "precious")
    partial = files.claim_partial("a")
    assert not partial.is_symlink()
    assert partial.stat().st_size == 0
    files.sweep()
    assert (tmp_path / "precious").read_text() == "mine"


def test_sweep_keeps_one_partial_download_of_an_unfinished_model() -> None:
    live = left_behind("a", silent_s=files.STALE_S - 60)
    for key, size in (("a", 100), ("a", 300), ("b", 300)):
        left_behind(key, size, files.STALE_S + 1)
    files.publish("b", BODY, same)
    files.sweep()
    assert sorted((entry.key, entry.size) for entry in files.entries() if entry.kind == "partial") == [
        ("a", 100),
        ("a", 300),
    ]
    files.publish("a", BODY, same)
    files.sweep()
    assert [entry.path for entry in files.entries() if entry.kind == "partial"] == [live]


def test_sweep_of_everything_tells_what_went() -> None:
    for size in (100, 300):
        left_behind("a", size, files.STALE_S + 1)
    assert [entry.size for entry in files.sweep()] == [100]
    assert [entry.size for entry in files.sweep(everything=True)] == [300]
    assert kinds() == {}


# --- damage ----------------------------------------------------------------------------------------------------------


def test_only_what_is_damaged_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is kept as *.corrupt, as was proposed: nobody looks at one, and it takes as much room as the good file."""
    final = files.publish("a", BODY, whole)
    files.remove_damaged(final, whole)
    same(final)
    final.write_bytes(b"damaged")
    for _ in range(2):
        files.remove_damaged(final, whole)
        assert set(kinds()) == {"lock"}
    files.publish("a", BODY, whole)
    monkeypatch.setattr(Path, "read_bytes", fails_with(errno.EIO))
    with pytest.raises(CheckpointFormatError):
        files.remove_damaged(final, whole)  # what cannot be read may be whole
    monkeypatch.undo()
    assert final.read_bytes() == BODY


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
            same(files.publish("a", BODY, same))
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
                    same(files.path_of("a"))
                    continue
                except FileNotFoundError:
                    pass  # not built yet, or cleared by another process
                part = files.claim_partial("a")
                part.write_bytes(bytes(3_000_000))
                files.publish("a", bytes(3_000_000), same)
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
        files.publish("a", BODY, same)
    part = files.claim_partial("b-1.2")
    part.write_bytes(b"123")
    (cache / "v1" / "models" / ".a.tmp").write_text("?")
    (cache / "v1" / "downloads" / "readme.txt").write_text("?")
    (cache / "v1" / "downloads" / "a.safetensors").write_text("?")
    os.mkfifo(cache / "v1" / "downloads" / "pipe")
    found = {(entry.kind, entry.key, entry.path.name, entry.size) for entry in files.entries()}
    assert found == {
        ("model", "a", "a.safetensors", len(BODY)),
        ("partial", "b-1.2", part.name, 3),
        ("lock", "a", "a.lock", 0),
        ("unknown", "", ".a.tmp", 1),
        ("unknown", "", "readme.txt", 1),
        ("unknown", "", "a.safetensors", 1),
        ("unknown", "", "pipe", 0),
    }


def test_logs_lie_beside_models(cache: Path) -> None:
    """A finished log appears, is found, resumed, swept and cleared as a model is; neither is taken for the other."""
    left_behind("a", size=100)
    assert files.claim_partial("a").stat().st_size == 100
    left_behind("b", 300, files.STALE_S + 1)
    assert files.publish("b", BODY, same, "log") == files.path_of("b", "log") == cache / "v1" / "logs" / "b.log.json"
    assert files.is_cached("b", "log")
    assert not files.is_cached("b")
    (cache / "v1" / "logs" / "b.safetensors").write_text("?")
    files.sweep()
    assert kinds() == {"log": 1, "partial": 1, "unknown": 1}  # that of b went: b is finished
    files.publish("b2", BODY, same)
    assert [(entry.kind, entry.key) for entry in files.clear("b")] == [("log", "b")]
    assert sorted((entry.kind, entry.key) for entry in files.clear()) == [("model", "b2"), ("partial", "a")]


def test_clear() -> None:
    for key in ("a", "b"):
        files.publish(key, BODY, same)
        files.claim_partial(key)
    assert sorted((entry.kind, entry.key) for entry in files.clear("a")) == [("model", "a"), ("partial", "a")]
    assert kinds() == {"model": 1, "partial": 1, "lock": 1}
    assert len(files.clear()) == 2
    assert set(kinds()) == {"lock"}
    with pytest.raises(ValueError, match="cannot name"):
        files.clear("../..")


def test_clear_waits_for_a_builder() -> None:
    done: list[str] = []

    def clear() -> None:
        files.clear("a")
        done.append("cleared")

    files.publish("a", BODY, same)
    with files.lock("a"):
        thread = threading.Thread(target=clear)
        thread.start()
        time.sleep(0.1)
        done.append("built")
    thread.join()
    assert done == ["built", "cleared"]


def test_discard_of_nothing(cache: Path) -> None:
    files.discard(cache / "a.part")


def test_importing_does_nothing(cache: Path) -> None:
    done = run_child("""
        import subprocess
        seen = []
        sys.addaudithook(lambda event, args: seen.append((event, args)))
        import importlib
        importlib.reload(files)
        import hrnet_zoo.weights.download
        print([event for event, args in seen if event.startswith(("socket.connect", "os.mkdir", "os.rename"))])
        print(any("hrnet-zoo" in str(args) for event, args in seen if event == "open"))
    """)
    assert done.stdout.split() == ["[]", "False"]
    assert not cache.exists()


def test_tag_only_in_a_folder_of_its_own(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.claim_partial("a")
    assert (cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "home"))
    files.claim_partial("a")
    assert not (tmp_path / "home" / "CACHEDIR.TAG").exists()


@needs_root
def test_a_cache_that_anybody_may_change(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    for mode, owner, warnings_told in ((0o777, 0, 0), (0o1777, 65534, 0), (0o755, 65534, 0), (0o777, 65534, 1)):
        cache.chmod(mode)
        os.chown(cache, owner, -1)
        caplog.clear()
        files.claim_partial("a")
        assert len([line for line in caplog.messages if "anybody may change" in line]) == warnings_told


def test_a_good_file_that_others_have_mapped_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where it cannot be replaced."""
    files.publish("a", BODY, whole)

    def replace(self: Path, target: Path) -> Path:
        raise PermissionError(13, "the file is in use")

    monkeypatch.setattr(Path, "replace", replace)
    same(files.publish("a", BODY, whole))
    files.path_of("a").write_bytes(b"damaged")
    with pytest.raises(CacheError, match="in use"):
        files.publish("a", BODY, whole)
    assert kinds() == {"model": 1}
