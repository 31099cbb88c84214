"""Errors: four parts, facts, exit codes, and a safe journey between processes."""

import pickle
from pathlib import Path

from hrnet_zoo import errors
from hrnet_zoo.errors import CacheSpaceError, HashMismatchError, HRNetZooError

EVERY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HRNetZooError)]


def test_message_has_four_parts() -> None:
    error = HRNetZooError(asked="a model", found="none", done="nothing", advice="look elsewhere")
    assert str(error) == "a model\n  found: none\n  done:  nothing\n  next:  look elsewhere"


def test_facts_and_pickling() -> None:
    error = HashMismatchError(
        asked="a", found="b", done="c", advice="d", source="x.pth", expected="00", actual="11", size=3
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line above
    assert isinstance(copy, HashMismatchError)
    assert str(copy) == str(error)
    assert (copy.expected, copy.actual, copy.size, copy.source) == ("00", "11", 3, "x.pth")


EXIT_CODES = {
    1: "HRNetZooError RankError TrainingError WorkerError FidelityError",
    2: "ConfigError DeviceError UnknownModelError",
    3: "DownloadError OfflineError HTTPStatusError TransferError UnexpectedContentError HubError HubNotFoundError "
    "HubAuthError",
    4: "CheckpointError HashMismatchError UnsafeCheckpointError CheckpointFormatError StateDictMismatchError "
    "ModelConfigError ResumeError",
    5: "CheckpointNotFoundError ImageError UnreadableImageError ImageTooLargeError UnsupportedImageError DatasetError "
    "OutputError",
    6: "CacheError CachePermissionError CacheSpaceError",
}


def test_exit_codes() -> None:
    stated = {name: code for code, names in EXIT_CODES.items() for name in names.split()}
    assert {kind.__name__: kind.exit_code for kind in EVERY} == stated


def test_a_cache_error_is_told_apart() -> None:
    error = CacheSpaceError(asked="a", found="b", done="c", advice="d", path=Path("x"))
    assert error.exit_code == 6
    assert error.path == Path("x")
