"""The state of a training on disk: whole or not at all, and nobody else's."""

import dataclasses
import json
import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hrnet_zoo.errors import OutputError, ResumeError
from hrnet_zoo.training import resume
from hrnet_zoo.training.config import TrainingConfig
from hrnet_zoo.training.resume import Progress, read_state, write_state
from hrnet_zoo.weights.convert import to_safetensors
from tests.training.test_config import CONFIG

KILLS = 40
TENSORS = {"network.a": torch.arange(6.0).view(2, 3), "network.b": torch.tensor(7), "momentum.0": torch.ones(2)}


def zeros() -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}


def read(file: Path, config: TrainingConfig = CONFIG) -> Progress:
    return read_state(file, config, zeros())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    progress = Progress(step=12, best_miou=61.5, without_gain=2, validated=10, scaler={"scale": 65536.0})
    write_state(tmp_path / "s", CONFIG, progress, TENSORS)
    tensors = zeros()
    assert read_state(tmp_path / "s", CONFIG, tensors) == progress
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_no_pickle_is_written(tmp_path: Path) -> None:
    write_state(tmp_path / "s", CONFIG, Progress(), TENSORS)
    data = (tmp_path / "s").read_bytes()
    assert data[8:9] == b"{"
    assert not data.startswith((b"PK", b"\x80"))


CHANGED: dict[str, Any] = {
    "arch": "hr18",
    "classes": ("a", "c"),
    "images": "2 others",
    "steps": 101,
    "batch": 3,
    "accumulate": 2,
    "crop": (64, 96),
    "resize_to": (192, 128),
    "lr": 0.02,
    "backbone_lr": 0.5,
    "head_lr": 1.0,
    "weight_decay": 0.0,
    "warmup": 5,
    "freeze": "backbone",
    "loss": "dice",
    "class_weights": (1.0, 2.0),
    "precision": "bf16",
    "ema": 0.99,
    "gradient_checkpointing": True,
    "seed": 1,
    "augment": "mine",
    "bands": ("red", "green", "blue", "nir"),
    "mean": (1.0, 2.0, 3.0),
    "std": (1.0, 2.0, 3.0),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CONFIG)])
def test_another_config_is_refused_by_the_name_of_what_differs(tmp_path: Path, name: str) -> None:
    write_state(tmp_path / "s", CONFIG, Progress(step=3), TENSORS)
    with pytest.raises(ResumeError) as caught:
        read(tmp_path / "s", dataclasses.replace(CONFIG, **{name: CHANGED[name]}))
    assert caught.value.field == name
    assert f"{name} was " in caught.value.found


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def foreign(data: bytes) -> bytes:
    return data.replace(b"training_state", b"something_else", 1)


def future(data: bytes) -> bytes:
    return data.replace(b'{\\"version\\": 2', b'{\\"version\\": 9', 1)


def beyond(data: bytes) -> bytes:
    return data.replace(b'\\"step\\": 3', b'\\"step\\": -', 1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "missing|describes"),
        (flip, "but the header says"),
        (foreign, "no training state of hrnet-zoo"),
        (future, "this release reads"),
        (beyond, "no training state of hrnet-zoo"),
        (lambda _: pickle.dumps({"step": 3}), "safetensors"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    file = tmp_path / "s"
    write_state(file, CONFIG, Progress(step=3), TENSORS)
    data = file.read_bytes()
    file.write_bytes(damage(data))
    assert file.read_bytes() != data
    with pytest.raises(ResumeError, match=words):
        read(file)


@pytest.mark.parametrize(
    "wrong",
    [{"step": 2.5}, {"best_miou": "x"}, {"scaler": {"scale": None}}, {"scaler": []}, {"validated": True}, {"more": 1}],
    ids=str,
)
def test_progress_of_other_types_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    facts = {"version": 2, "config": CONFIG.to_dict(), "progress": vars(Progress()) | wrong}
    (tmp_path / "s").write_bytes(to_safetensors(TENSORS, {"training_state": json.dumps(facts)}))
    with pytest.raises(ResumeError, match="no training state of hrnet-zoo"):
        read(tmp_path / "s")


def test_a_step_that_the_config_does_not_have_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "s", CONFIG, Progress(step=101), TENSORS)
    with pytest.raises(ResumeError, match="101"):
        read(tmp_path / "s")


def test_all_tensors_are_copied_or_none(tmp_path: Path) -> None:
    write_state(tmp_path / "s", CONFIG, Progress(step=3), TENSORS)
    shape, name = torch.zeros(3), torch.zeros(2)
    for wrong in ({"momentum.0": shape}, {"momentum.1": name}, {"momentum.0": name.half()}):
        target = zeros() | wrong
        with pytest.raises(ResumeError, match="differs"):
            read_state(tmp_path / "s", CONFIG, target)
        assert not any(tensor.any() for tensor in target.values())


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s"
    write_state(file, CONFIG, Progress(step=3), TENSORS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_state(file, CONFIG, Progress(step=4), TENSORS)
    assert read(file).step == 3
    assert list(tmp_path.iterdir()) == [file]


def test_killed_while_saving_there_is_always_a_whole_state(tmp_path: Path) -> None:
    """SIGKILL at a random moment of the writing: what is read is one of the states that were written."""
    file = tmp_path / "s"
    tensors = {"network.a": torch.arange(250_000.0)}  # 1 MB: most kills hit the writing
    write_state(file, CONFIG, Progress(step=0), tensors)
    chance = random.Random(0)  # noqa: S311 - no secret
    before = 0
    for _ in range(KILLS):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            step = before
            while True:
                step = min(step + 1, CONFIG.steps)
                write_state(file, CONFIG, Progress(step=step), tensors)
                os.write(writing, b"1")
        os.close(writing)
        assert os.read(reading, 1) == b"1"  # one is written, however slow the disk; the kill hits a later one
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        found = {"network.a": torch.zeros(250_000)}
        progress = read_state(file, CONFIG, found)
        assert torch.equal(found["network.a"], tensors["network.a"])
        assert progress.step >= min(before + 1, CONFIG.steps)
        before = progress.step


def test_version_is_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "STATE_VERSION", 3)
    write_state(tmp_path / "s", CONFIG, Progress(), TENSORS)
    monkeypatch.undo()
    with pytest.raises(ResumeError, match="version 3; this release reads 1 to 2"):
        read(tmp_path / "s")


def test_a_state_of_version_1_is_read(tmp_path: Path) -> None:
    """As release 1ca3816 wrote it."""
    recipe = {
        "arch": "hr18s",
        "classes": ["a", "b"],
        "pictures": "3 pictures whose names have the SHA-256 "
        "26d6a8ad97c75ffc548f6873e5e93ce475479e3e1a1097381e54221fb53ec1d2",
        "steps": 100,
        "batch": 2,
        "accumulate": 1,
        "crop": [64, 64],
        "box": [192, 96],
        "lr": 0.01,
        "backbone_lr": 1.0,
        "head_lr": 10.0,
        "weight_decay": 0.0005,
        "warmup": 0,
        "freeze": "",
        "loss": "cross_entropy",
        "class_weights": [],
        "precision": "fp32",
        "ema": 0.0,
        "gradient_checkpointing": False,
        "seed": 0,
    }
    progress = {"step": 12, "best_miou": 61.5, "without_gain": 2, "validated": 10, "scaler": {}}
    facts = {"version": 1, "recipe": recipe, "progress": progress}
    (tmp_path / "s").write_bytes(to_safetensors(TENSORS, {"training_state": json.dumps(facts)}))
    tensors = zeros()
    assert read_state(tmp_path / "s", CONFIG, tensors) == Progress(
        step=12, best_miou=61.5, without_gain=2, validated=10
    )
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    with pytest.raises(ResumeError, match="resize_to was") as caught:
        read(tmp_path / "s", dataclasses.replace(CONFIG, resize_to=(192, 128)))
    assert caught.value.field == "resize_to"
