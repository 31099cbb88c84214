"""Errors: four parts, facts, exit codes, and a safe journey between processes."""

import pickle
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("kind", EVERY)
def test_exit_codes(kind: type[HRNetZooError]) -> None:
    assert kind.exit_code in {1, 2, 3, 4, 5, 6}
    assert kind.__doc__


def test_a_cache_error_is_told_apart() -> None:
    error = CacheSpaceError(asked="a", found="b", done="c", advice="d", path=Path("x"))
    assert error.exit_code == 6
    assert error.path == Path("x")
