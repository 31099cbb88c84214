"""Fetch, convert and publish outlive kills, crowds and full disks: the trials of tests/support/survival.py.

HRNET_ZOO_TEST_KILLS sets how many random kills there are (default 200).
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from hrnet_zoo.weights import download
from hrnet_zoo.zoo.create import create_model
from tests.support.cache_fsck import fsck
from tests.support.http_faults import faults
from tests.support.http_server import FaultServer, ranged
from tests.support.survival import BODY, DIGEST, EXPECTED, KEY, load
from tests.support.tables import ROOT

KILLS = int(os.environ.get("HRNET_ZOO_TEST_KILLS", "200"))
STEP = 64 << 10  # bytes, of full disks

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, fork and flock"),
    pytest.mark.timeout(max(3600, 15 * KILLS)),  # seconds: hundreds of processes, one after the other
]


def trials(what: str, count: int = 0, seed: int = 1) -> dict[str, Any]:
    """Run trials in a process of their own, which has one thread to fork from."""
    command = [sys.executable, "-m", "tests.support.survival", what, str(count), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if "CalledProcessError" in done.stderr and "'mount'" in done.stderr:
        pytest.skip("this user may not mount a file system")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_killed_at_every_event() -> None:
    """Three beginnings: nothing, half a download of a process that was killed before, a finished file that is damaged.

    Each time the next process has its model, and the file system is as it should be: `fsck` has looked.
    """
    found = trials("events")
    assert min(found["points"].values()) >= 20
    assert found["sent"] <= 1.15


def test_killed_at_random() -> None:
    found = trials("random", KILLS)
    assert found["kills"] >= KILLS
    assert found["sent"] <= 1.15
    assert any("partial" in left for left in found["left"])  # some came in the middle of it


def test_interrupted_at_random() -> None:
    found = trials("interrupts", 30)
    assert found["ends"].keys() <= {"0", "130", "-15"}  # KeyboardInterrupt itself, and nothing in its place
    assert sum(found["ends"].values()) == 30


def test_many_ask_for_one_model() -> None:
    """Locks that work: one GET. Without (Lustre and some NFS grant each to all; ENOLCK): the same files, more GETs."""
    found = trials("crowds", 1)
    del found["took"]
    assert len(found) == 8
    assert [facts["failures"] for facts in found.values()] == [0] * 8
    for name, facts in found.items():
        # ENOSYS: filelock makes lock files then, which take turns well, and are no proof of it.
        assert 1 <= facts["gets"] <= (1 if name.endswith(", flock") else 64), name


def test_partial_downloads_stolen_from_the_living() -> None:
    """Where locks lie and a download is silent for long, another takes it: that costs bandwidth, and no file."""
    found = trials("thieves", 6)
    assert found["failures"] == 0
    assert found["gets"] > 6  # they did steal


def test_crowds_that_die() -> None:
    found = trials("dying crowds", 12)
    assert found["kills"] >= 6


@pytest.mark.parametrize("kind", ["full disk", "small files"])
def test_no_room(kind: str) -> None:
    """From none to 2.2 times the file; a disk needs room for one copy only, for at the end the download makes way."""
    found = trials(kind, STEP)
    assert found["refused"] >= 10
    assert found["enough"] <= 1.1
    assert found["sent"] <= 1.25  # at worst: of 1.1 MB a slice or two were on their way when the disk was full


def test_loading_while_another_clears() -> None:
    assert trials("pruned", 100)["end"] == 0


SMALL = f"/{KEY}.pth"
FAULTS = faults(BODY, SMALL, stall_s=2.0)  # longer than the timeout below


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_host(name: str, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends in the whole file, or in the error that is stated for it: by the whole way, and never a bad file."""
    fault = FAULTS[name]
    monkeypatch.setattr(download, "TIMEOUT_S", (5.0, 0.3))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(download, "sleep", lambda _: None)
    url = host.play(SMALL, *fault.answers)
    if fault.ends_in is None:
        load(url)
        assert fsck(EXPECTED, DIGEST, settled=True)["model"] == 1
    else:
        with pytest.raises(fault.ends_in) as caught:
            load(url)
        assert type(caught.value) is fault.ends_in
        assert url in str(caught.value)
        assert "model" not in fsck(EXPECTED, DIGEST)
        host.play(SMALL, ranged(BODY))
        load(url)
        fsck(EXPECTED, DIGEST, settled=True)


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 31


SOCKETS = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append((event, arguments)) if event.startswith("socket.") else None)
import hrnet_zoo
from hrnet_zoo.zoo.create import create_model
create_model("demo", device="cpu")
print(opened, "urllib3" in sys.modules)
"""


def test_import_and_warm_load_open_no_socket() -> None:
    create_model("demo", device="cpu")
    done = subprocess.run([sys.executable, "-c", SOCKETS], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stderr == ""
    assert done.stdout == "[] False\n"
