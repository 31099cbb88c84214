"""Two processes train as one does, with every option that splits or copies the network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_zoo.training.finetune import finetune
from tests.support.training_data import write_own_folder
from tests.training.test_finetune import lines, train, train_in_two_processes


def test_two_processes_learn_as_one_does_with_all_options(tmp_path: Path) -> None:
    data = write_own_folder(tmp_path / "data", 8)
    options: dict[str, Any] = {
        "steps": 2,
        "batch": 4,
        "lr": 0.001,
        "crop": [64, 64],
        "resize_to": [192, 96],
        "val": 0.25,
        "workers": 0,
        "device": "cpu",
        "gradient_checkpointing": True,
        "ema": 0.9,
        "accumulate": 2,
        "class_weights": "auto",
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    given = {**options, "crop": (64, 64), "resize_to": (192, 96)}
    finetune("demo", data, tmp_path / "one", **given, progress=False)
    torch.set_num_threads(threads)
    train_in_two_processes(data, tmp_path / "two", tmp_path / "train.py", **options)
    one, two = ([line["loss"] for line in lines(tmp_path / out, "train")] for out in ("one", "two"))
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-5)
    state = (tmp_path / "two" / "training_state.safetensors").read_bytes()
    one_goes_on = finetune("demo", data, tmp_path / "two", **given, progress=False, resume=True)
    assert one_goes_on.loss is None  # nothing was left to do, for any number of processes
    assert (tmp_path / "two" / "training_state.safetensors").read_bytes() == state
    config = json.loads((tmp_path / "two" / "config.json").read_text(encoding="utf-8"))
    assert config["metrics"]["steps"] == 2


def test_two_processes_learn_as_one_does(tmp_path: Path) -> None:
    data = write_own_folder(tmp_path / "data", 8)
    options: dict[str, Any] = {"steps": 2, "batch": 4, "lr": 0.001, "val": 0.25, "workers": 0, "device": "cpu"}
    train(data, tmp_path / "one", **options)
    train_in_two_processes(
        data, tmp_path / "two", tmp_path / "train.py", crop=(64, 64), resize_to=(192, 96), validate_every=2, **options
    )
    one, two = ([line["loss"] for line in lines(tmp_path / out, "train")] for out in ("one", "two"))
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-5)
    scores = [[line["mIoU"] for line in lines(tmp_path / out, "val")] for out in ("one", "two")]
    assert scores[1] == pytest.approx(scores[0], abs=0.5)
