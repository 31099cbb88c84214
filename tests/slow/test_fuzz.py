"""No mutant of a file crashes, hangs, fills the memory or gets another answer than one of our errors.

HRNET_ZOO_MUTANTS says how many there are of each kind; `tests.support.fuzz.mutant(KIND, NUMBER)` makes one of them
again.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_zoo.errors import HRNetZooError
from tests.support.fuzz import KINDS, attempt, mutant

COUNT = int(os.environ.get("HRNET_ZOO_MUTANTS", "5000"))
GROWTH_MB = {"image": 700}  # of resident memory, over all mutants; one may decode to 64 megapixels. Of others 256.

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc as on Linux")


def tried(kind: str, first: int, count: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "tests.support.fuzz", kind, str(first), str(count)]
    here = Path(__file__).parents[2]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603 - our own code


@pytest.mark.parametrize("kind", KINDS)
def test_mutants(kind: str) -> None:
    done = tried(kind, 0, COUNT)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 0, f"{kind} {last}: exit code {done.returncode}"
    facts = json.loads(done.stdout)
    assert facts["others"] == []
    assert facts["accepted"] + facts["refused"] == COUNT
    assert facts["refused"] > COUNT // 2
    assert facts["accepted"]
    assert facts["growth_mb"] <= GROWTH_MB.get(kind, 256)


def test_the_trial_can_fail() -> None:
    """Other exceptions and bad messages are told apart, and a hang ends the process."""

    def leak(_: bytes) -> None:
        raise KeyError("a")

    def words(found: str) -> None:
        raise HRNetZooError(asked="a", found=found, done="c", advice="d")

    assert attempt(leak, b"") == "KeyError: 'a'"
    assert attempt(lambda _: words("b"), b"") == "refused"
    assert attempt(lambda _: words("a" * 4000), b"").startswith("a message that is long or steers")
    assert attempt(lambda _: words("weights_" + "only"), b"").startswith("a message without its parts")
    assert attempt(len, b"") == "accepted"
    code = (
        "from tests.support import fuzz\n"
        "calls = []\n"
        "def hang(use, data):\n"
        "    calls.append(data)\n"
        "    while len(calls) > 1: pass\n"  # the first is the rehearsal
        "fuzz.SECONDS, fuzz.attempt = 0.1, hang\n"
        "fuzz.KINDS['x'] = lambda: fuzz.Kind(lambda chance: b'', len)\n"
        "fuzz.main('x', 7, 1)\n"
    )
    here = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == -signal.SIGVTALRM
    assert done.stderr.strip() == "7"


def test_a_mutant_is_made_again() -> None:
    assert mutant("config", 3) == mutant("config", 3) != mutant("config", 4)
