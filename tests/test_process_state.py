"""What belongs to the whole process is the user's: before, while and after this library works it is the same."""

import dataclasses
import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # which torch imports at the first training, and which changes the environment and warnings
from PIL import Image, ImageFile
from tqdm import tqdm

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.inference.predict import full_precision
from hrnet_zoo.models.fcn import FCNHRNet
from tests.support.training_data import write_own_folder

pytestmark = pytest.mark.usefixtures("quick_demo")

IMAGE = scene(0, 64, 96).image


def process_state() -> dict[str, Any]:
    """Return what every thread of the process shares, and could be changed by a library."""
    cudnn: Any = torch.backends.cudnn
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "umask": _umask(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "collector": (gc.isenabled(), gc.get_threshold()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "logging": (logging.root.level, list(logging.root.handlers), logging.getLogger("hrnet_zoo").level),
        "locale": locale.setlocale(locale.LC_ALL),
        "streams": (sys.stdout, sys.stderr, sys.excepthook, sys.getrecursionlimit(), sys.getswitchinterval()),
        "sockets": socket.getdefaulttimeout(),
        "multiprocessing": multiprocessing.get_start_method(allow_none=True),
        "pillow": (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, ImageFile.MAXBLOCK),
        "numpy": (np.geterr(), np.get_printoptions()["precision"]),
        "dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark),
        "precision": (cudnn.conv.fp32_precision, torch.get_float32_matmul_precision(), cudnn.enabled),
        "modules": (torch.nn.Module.__call__, torch.nn.Module.__getattr__, torch.nn.Conv2d.forward),
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": str(np.random.get_state()),
        "python's generator": random.getstate(),
        "tqdm": tqdm.__dict__.get("_lock"),
        "thread's own": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }


def _umask() -> str:
    status = Path("/proc/self/status")
    text = status.read_text(encoding="utf-8") if status.exists() else ""
    return next((line for line in text.splitlines() if line.startswith("Umask")), "")


@pytest.fixture
def model() -> FCNHRNet:
    model = hrnet_zoo.create_model("demo", device="cpu")
    model.dataset = dataclasses.replace(model.dataset, resize_to=(96, 64), crop=(64, 64))
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_own_folder(tmp_path / "data", 4, height=64, width=96)


def changes(work: Callable[[], object]) -> set[str]:
    """Return what another thread saw changed while the work was done, or is changed afterwards."""
    before, changed, done = process_state(), set[str](), threading.Event()

    def look() -> None:
        while not done.is_set():
            changed.update(name for name, value in process_state().items() if value != before[name])
            time.sleep(0.002)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        work()
    finally:
        done.set()
        looking.join()
    return changed | {name for name, value in process_state().items() if value != before[name]}


def test_creating_predicting_and_saving_change_nothing(model: FCNHRNet, tmp_path: Path) -> None:
    def work() -> None:
        hrnet_zoo.create_model("demo", device="cpu").predict([IMAGE, IMAGE])
        model.train().predict(IMAGE, probabilities=True)
        hrnet_zoo.create_model("demo", device="cpu", dtype=torch.bfloat16).save_pretrained(tmp_path / "saved")

    assert changes(work) == set()


def test_random_weights_are_drawn_from_torch_s_generator_as_documented() -> None:
    assert changes(lambda: hrnet_zoo.create_model("demo", pretrained=False, device="cpu")) == {"torch's generator"}


def test_evaluating_changes_nothing(model: FCNHRNet, folder: Path) -> None:
    own = hrnet_zoo.create_model("demo", device="cpu", classes=["ground", "standing", "sky"])
    own.dataset = dataclasses.replace(own.dataset, resize_to=(96, 64))
    assert changes(lambda: hrnet_zoo.evaluate(own, folder, workers=1, progress=False)) == set()


@pytest.mark.parametrize("main", [False, True])
def test_training_changes_nothing_but_the_handlers_of_signals_in_the_main_thread(
    folder: Path, tmp_path: Path, main: bool
) -> None:
    def work() -> None:
        options: dict[str, Any] = {"batch": 2, "crop": (64, 64), "resize_to": (96, 64), "val": 0.5, "device": "cpu"}
        out = tmp_path / "run"
        hrnet_zoo.finetune(
            "demo", folder, out, steps=2, gradient_checkpointing=True, workers=1, progress=False, **options
        )

    def in_thread() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (tmp_path / "run" / "model.safetensors").exists()

    before = process_state()["signals"]
    assert changes(work if main else in_thread) == ({"signals"} if main else set())
    assert process_state()["signals"] == before


def test_users_of_cudnn_s_precision_are_counted() -> None:
    def precision() -> str:
        return str(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]

    before = precision()
    first, second = full_precision(), full_precision()
    with first:
        second.__enter__()
        assert precision() == "ieee"
    assert precision() == "ieee"  # the second one is not done
    second.__exit__(None, None, None)
    assert precision() == before
