"""What a training consists of beside its updates; `test_finetune.py` has the rest, from outside."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_zoo.training.finetune import finetune
from hrnet_zoo.training.loop import TrainingLoop
from hrnet_zoo.training.update import Updater
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
            TrainingLoop, "_validate_if_due", lambda self: self.updater.progress.step == 2 and self.save() and False
        )
        update = Updater.update

        def stopped(self: Updater, *batch: Any) -> Any:
            if self.progress.step == 2:
                raise KeyboardInterrupt
            return update(self, *batch)

        patch.setattr(Updater, "update", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune("demo", data, tmp_path / "run", save_every=2, **OPTIONS)
    assert iterations(tmp_path / "run", "val") == []
    finetune("demo", data, tmp_path / "run", save_every=2, resume=True, **OPTIONS)
    assert iterations(tmp_path / "run", "val") == [2, 4]
    assert iterations(tmp_path / "run", "train") == [1, 2, 3, 4]


def test_a_validation_stopped_before_its_end_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_own_folder(tmp_path / "data", 6)

    def stopped(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_draw_sheet", stopped)
        with pytest.raises(MemoryError):
            finetune("demo", data, tmp_path / "run", **OPTIONS)
    assert iterations(tmp_path / "run", "val") == [2]
    finetune("demo", data, tmp_path / "run", resume=True, **OPTIONS)
    assert iterations(tmp_path / "run", "val") == [2, 4]
    assert iterations(tmp_path / "run", "train") == [1, 2, 3, 4]


def test_state_is_saved_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(TrainingLoop, "save", lambda self: saved.append(self.updater.progress.step))
    finetune("demo", write_own_folder(tmp_path / "data", 6), tmp_path / "run", save_every=3, **{**OPTIONS, "val": 0})
    assert saved == [2, 2, 3, 4, 4]  # before and after each validation


@pytest.mark.parametrize(("load", "threads", "said"), [(9.0, 2, True), (9.0, 1, False)])
def test_a_busy_machine_is_told_of_at_the_first_update(
    load: float, threads: int, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finetune("demo", write_own_folder(tmp_path / "data", 4), tmp_path / "run", **{**OPTIONS, "steps": 1, "val": 0})
    assert caplog.text.count("OMP_NUM_THREADS=1 may be much faster") == said
