"""What a training consists of beside its updates; `test_finetune.py` has the rest, from outside."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_zoo.training.finetune import finetune
from hrnet_zoo.training.run import ECHO_S, Run, StopSignal
from hrnet_zoo.training.trainer import Trainer
from tests.support.training_data import write_own_folder

OPTIONS: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "crop": (64, 64),
    "resize_to": (192, 96),
    "val": 0.25,
    "validate_every": 2,
    "workers": 0,
    "device": "cpu",
    "progress": False,
}


def iterations(out: Path, mode: str) -> list[int]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["iter"] for line in lines if line.get("mode") == mode]


def test_a_validation_that_was_missed_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between an update and the validation that was due after it."""
    data = write_own_folder(tmp_path / "data", 6)
    with monkeypatch.context() as patch:
        patch.setattr(
            Run, "_validate_if_due", lambda self, _: self.trainer.progress.step == 2 and self.save() and False
        )
        update = Trainer.update

        def stopped(self: Trainer, *batch: Any) -> Any:
            if self.progress.step == 2:
                raise KeyboardInterrupt
            return update(self, *batch)

        patch.setattr(Trainer, "update", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune("demo", data, tmp_path / "run", save_every=2, **OPTIONS)
    assert iterations(tmp_path / "run", "val") == []
    finetune("demo", data, tmp_path / "run", save_every=2, resume=True, **OPTIONS)
    assert iterations(tmp_path / "run", "val") == [2, 4]
    assert iterations(tmp_path / "run", "train") == [1, 2, 3, 4]


def test_a_validation_stopped_before_its_end_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_own_folder(tmp_path / "data", 6)

    def stopped(_: Run) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_draw_sheet", stopped)
        with pytest.raises(MemoryError):
            finetune("demo", data, tmp_path / "run", **OPTIONS)
    assert iterations(tmp_path / "run", "val") == [2]
    finetune("demo", data, tmp_path / "run", resume=True, **OPTIONS)
    assert iterations(tmp_path / "run", "val") == [2, 4]
    assert iterations(tmp_path / "run", "train") == [1, 2, 3, 4]


def test_state_is_saved_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(Run, "save", lambda self: saved.append(self.trainer.progress.step))
    finetune("demo", write_own_folder(tmp_path / "data", 6), tmp_path / "run", save_every=3, **OPTIONS)
    assert saved == [2, 2, 3, 4, 4]  # before and after each validation


@pytest.mark.parametrize(("load", "threads", "said"), [(9.0, 2, True), (0.5, 2, False), (9.0, 1, False)])
def test_a_busy_machine_is_told_of_at_the_first_update(
    load: float, threads: int, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finetune("demo", write_own_folder(tmp_path / "data", 4), tmp_path / "run", **{**OPTIONS, "steps": 2, "val": 0})
    assert caplog.text.count("OMP_NUM_THREADS=1 may be much faster") == said


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
    ids=["SIGINT", "SIGTERM"],
)
def test_the_first_signal_is_noted_and_a_later_one_acts(
    number: signal.Signals, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with StopSignal() as stop:
            assert stop.number is None
            signal.raise_signal(number)
            assert stop.number is number
            clock[0] += ECHO_S / 2
            for echo in StopSignal.SIGNALS:  # by a launcher that was signalled too
                signal.raise_signal(echo)
            assert stop.number is number
            clock[0] += ECHO_S
            with pytest.raises(expected):
                signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(*_: object) -> None:
    raise SystemExit(1)


def test_aloud_it_tells_once_that_it_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignal(verbose=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # an echo
    assert capfd.readouterr().err.count("stopping") == 1


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in StopSignal.SIGNALS]
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in StopSignal.SIGNALS] == before


def test_in_another_thread_it_stands_aside() -> None:
    seen = []

    def work() -> None:
        with StopSignal() as stop:
            seen.append(stop.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
