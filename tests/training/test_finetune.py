"""Your own classes, from the first update to a model folder that comes back."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import hrnet_zoo
from hrnet_zoo.cli import main
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.datasets.check import check_data, check_splits
from hrnet_zoo.datasets.splits import find_training_data
from hrnet_zoo.errors import (
    ConfigError,
    DatasetError,
    ImageError,
    ModelConfigError,
    OutputError,
    ResumeError,
    TrainingError,
)
from hrnet_zoo.evaluation.evaluate import evaluate
from hrnet_zoo.training import finetune as finetune_module
from hrnet_zoo.training import loop
from hrnet_zoo.training.events import TrainingEvent
from hrnet_zoo.training.finetune import FineTuning, _restore, finetune
from hrnet_zoo.training.log_writer import LogWriter
from hrnet_zoo.training.losses import cross_entropy
from hrnet_zoo.zoo.create import create_model
from tests.support import label_folders
from tests.support.band_images import BANDS, MEAN, STD, write_band_images
from tests.support.label_folders import labels, mask, own
from tests.support.training_data import GROUPS, write_own_folder

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_folder(tmp_path_factory.mktemp("data"), 8)


def train(data: Path, out: Path, **options: Any) -> FineTuning:
    given: dict[str, Any] = {
        "steps": STEPS,
        "batch": 2,
        "crop": (64, 64),
        "resize_to": (192, 96),
        "val": 0.25,
        "validate_every": 2,
        "workers": 0,
        "device": "cpu",
        "progress": False,
    }
    return finetune(options.pop("model", "demo"), data, out, **{**given, **options})


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Use one thread: sums over threads depend on their number, and a forked process has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _quick(cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert the demo network once, and draw the curves of `whole` alone."""
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.getbasetemp() / "finetune_cache"))
    monkeypatch.setattr(LogWriter, "draw_curves", lambda _: None)


def lines(out: Path, mode: str) -> list[dict[str, Any]]:
    found = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in found if line.get("mode") == mode]


def same_weights(a: Path, b: Path) -> bool:
    one, other = load_file(a / "training_state.safetensors"), load_file(b / "training_state.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.getbasetemp() / "finetune_cache"))
        train(data, out)
    return out


def test_out_is_a_model_folder(data: Path, whole: Path) -> None:
    model = hrnet_zoo.create_model(f"local-dir:{whole}")
    assert model.classes == tuple(GROUPS)
    image = next((data / "images").iterdir())
    assert set(model.predict(image).fractions()) <= set(GROUPS)
    scores = hrnet_zoo.evaluate(model, data, workers=0, progress=False)
    assert scores.miou > 30


def test_out_tells_how_it_went(whole: Path) -> None:
    assert [line["iter"] for line in lines(whole, "train")] == list(range(1, STEPS + 1))
    assert [line["iter"] for line in lines(whole, "val")] == [2, 4]
    for name in ("update_000002.jpg", "update_000004.jpg"):
        with Image.open(whole / "sheets" / name) as sheet:
            assert sheet.width > 1200
    assert (whole / "curves.png").exists()
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    assert config["metrics"]["miou"] == pytest.approx(max(line["mIoU"] for line in lines(whole, "val")), abs=1e-3)


def test_colors_of_the_class_list_are_the_models(tmp_path: Path) -> None:
    root = own(tmp_path / "data", ["a", "b"], ["background", "road", "crack #ff0080"])
    train(root, tmp_path / "out", steps=1, batch=1, val=0, validate_every=1)
    model = hrnet_zoo.create_model(f"local-dir:{tmp_path / 'out'}", device="cpu")
    assert model.classes == ("background", "road", "crack")
    assert model.palette == ((0, 0, 0), DATASETS["cityscapes"].palette[0], (255, 0, 128))


def test_what_is_kept_is_the_best(data: Path, whole: Path) -> None:
    """The model's figure is that of the best validation, and its own evaluation gives it again."""
    held = data / "held"
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    from hrnet_zoo.datasets.splits import find_training_data  # which images were held back

    _, val, _ = find_training_data(data, val=0.25)
    assert val is not None
    for sample in val.samples:
        for folder, path in (("images", sample.image), ("masks", sample.labels)):
            (held / folder).mkdir(parents=True, exist_ok=True)
            (held / folder / path.name).write_bytes(path.read_bytes())
    scores = hrnet_zoo.evaluate(hrnet_zoo.create_model(f"local-dir:{whole}"), held, workers=0, progress=False)
    assert scores.miou == pytest.approx(config["metrics"]["miou"], abs=1e-9)


class StopAt:
    """A loss that sends a signal to its own process at an update."""

    __name__ = "cross_entropy"

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number, self.calls = step, number, 0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Be the cross-entropy."""
        self.calls += 1
        if self.calls == self.step:
            signal.raise_signal(self.number)
        return cross_entropy(logits, labels)


def test_told_to_stop_it_goes_on_bit_exactly(data: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(data, tmp_path, loss=StopAt(3, signal.SIGTERM))
    assert len(lines(tmp_path, "train")) == 3  # the update under way was finished
    made = train(data, tmp_path, resume=True)
    assert made.steps == STEPS
    assert same_weights(tmp_path, whole)
    kept, expected = (load_file(out / "model.safetensors") for out in (tmp_path, whole))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept.items())
    ours, theirs = ([line["loss"] for line in lines(out, "train")] for out in (tmp_path, whole))
    assert ours == theirs
    assert [line["mIoU"] for line in lines(tmp_path, "val")] == [line["mIoU"] for line in lines(whole, "val")]


def test_killed_it_goes_on_from_what_was_saved(data: Path, whole: Path, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        train(data, tmp_path, save_every=1, loss=StopAt(3, signal.SIGKILL))
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    train(data, tmp_path, resume=True, save_every=1)
    assert same_weights(tmp_path, whole)


def test_a_callback_hears_all_and_stops_a_run_that_goes_on_bit_exactly(data: Path, whole: Path, tmp_path: Path) -> None:
    heard: list[TrainingEvent] = []

    def stop_at(kind: str, step: int) -> Callable[[TrainingEvent], object]:
        def hear(event: TrainingEvent) -> str | None:
            heard.append(event)
            return "stop" if (event.kind, event.step) == (kind, step) else None

        return hear

    stops = [("update", 2), ("validation", 2), ("update", STEPS)]  # the last one comes too late
    for number, (kind, step) in enumerate(stops):
        run = train(data, tmp_path, on_event=stop_at(kind, step), trackers="tensorboard", resume=number > 0)
        assert run.steps == step
        assert hrnet_zoo.create_model(tmp_path, device="cpu").classes == tuple(GROUPS)
    assert [(event.kind, event.step, event.reason) for event in heard] == [
        *[("update", 1, ""), ("update", 2, ""), ("end", 2, "stopped")],
        *[("validation", 2, ""), ("end", 2, "stopped")],
        *[("update", 3, ""), ("update", 4, ""), ("validation", 4, ""), ("end", 4, "finished")],
    ]
    assert list((tmp_path / "tensorboard").glob("events.*"))
    for mode, kind in (("train", "update"), ("val", "validation")):
        figures = [{"mode": mode, "iter": event.step, **event.figures} for event in heard if event.kind == kind]
        assert figures == lines(tmp_path, mode)
    assert [event.best_miou is None for event in heard] == [True] * 3 + [False] * 6
    assert [event.seconds_left is None for event in heard] == [False] * 3 + [True] * 2 + [False] * 4
    assert same_weights(tmp_path, whole)
    kept, expected = (load_file(out / "model.safetensors") for out in (tmp_path, whole))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept.items())


def test_the_former_form_of_tensorboard(data: Path, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="one more version"), pytest.raises(ConfigError, match="lr is"):
        train(data, tmp_path, tensorboard=True, lr=-1.0)


def test_neither_workers_nor_who_fails_beside_it_change_a_run(
    data: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker: Any = pytest.importorskip("accelerate.tracking").GeneralTracker

    class Broken(tracker):  # type: ignore[misc] # accelerate has no types
        name, requires_logging_directory, tracker = "broken", False, None

        def log(self, values: dict[str, float], step: int) -> None:
            raise ConnectionError("the server is gone")

    def fail(event: TrainingEvent) -> None:
        torch.rand(3)
        raise ValueError("not today")

    assert train(data, tmp_path, workers=2, trackers=[Broken()], on_event=fail).steps == STEPS
    assert same_weights(tmp_path, whole)
    assert [caplog.text.count(f"{name} failed, and the run goes on") for name in ("broken", "on_event")] == [1, 1]


def test_an_augmentation_of_ones_own_is_resumed_bit_exactly(data: Path, tmp_path: Path) -> None:
    def dim(image: Any, labels: Any, rng: np.random.Generator) -> Any:
        return (image * rng.uniform(0.5, 1)).astype(np.uint8), labels

    given: dict[str, Any] = {"steps": 2, "val": 0, "save_every": 1, "augment": dim}
    train(data, tmp_path / "whole", **given)
    train(data, tmp_path / "parts", **given, on_event=lambda event: "stop")
    train(data, tmp_path / "parts", **given, workers=2, resume=True)
    assert same_weights(tmp_path / "parts", tmp_path / "whole")
    losses = [[line["loss"] for line in lines(tmp_path / name, "train")] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    with pytest.raises(ResumeError, match="augment was 'dim', and '<lambda>' is asked for"):
        train(data, tmp_path / "parts", **{**given, "augment": lambda *pair: pair[:2]}, resume=True)


def test_a_run_that_ended_is_not_run_again(data: Path, whole: Path) -> None:
    before = (whole / "model.safetensors").stat().st_mtime_ns
    made = train(data, whole, resume=True)
    assert (made.steps, made.loss) == (STEPS, None)
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_a_loss_that_is_not_finite_leaves_what_was_kept(data: Path, tmp_path: Path) -> None:
    calls = []

    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return cross_entropy(logits, labels) * (float("nan") if len(calls) == 3 else 1.0)

    with pytest.raises(TrainingError, match="update 3 of 4"):
        train(data, tmp_path, loss=broken)
    kept = load_file(tmp_path / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["metrics"]["steps"] == 2


def test_patience_ends_it(data: Path, tmp_path: Path) -> None:
    made = train(data, tmp_path, lr=1e-9, validate_every=1, patience=1, steps=20, freeze="backbone")
    assert made.steps < 20


def test_without_validation_the_last_network_is_kept_and_a_batch_that_was_found(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(finetune_module, "largest_batch", lambda *_: (2, 12345))
        made = train(data, tmp_path, val=0, steps=2, batch="auto")
    first = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["config"]["batch"] == 2
    assert first["auto_batch"] == {"batch": 2, "update_memory": 12345}
    monkeypatch.setattr(finetune_module, "largest_batch", lambda *_: pytest.fail("a resumed run keeps its batch"))
    assert train(data, tmp_path, val=0, steps=2, batch="auto", resume=True).steps == 2
    assert made.miou is None
    assert hrnet_zoo.create_model(f"local-dir:{tmp_path}").classes == tuple(GROUPS)
    assert not (tmp_path / "sheets").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "auto"},
        {"class_weights": (1.0, 2.0, 0.5), "loss": "ohem"},
        {"loss": "dice", "ema": 0.9},
        {"loss": "lovasz", "freeze": "backbone"},
        {"gradient_checkpointing": True, "accumulate": 2, "warmup": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_way_to_train_gives_a_model(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    train(data, tmp_path, steps=1, val=0, **options)
    assert hrnet_zoo.create_model(f"local-dir:{tmp_path}").classes == tuple(GROUPS)


def test_a_network_in_hand_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    network = hrnet_zoo.create_model("demo", classes=list(GROUPS))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    finetune(network, data, tmp_path, steps=1, batch=2, crop=(64, 64), val=0, workers=0, progress=False, device="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("key", "write"),
    [
        ("cityscapes", lambda home: label_folders.cityscapes(home, split="train")),
        ("ade20k", lambda home: label_folders.ade20k(home, split="training")),
        ("voc12aug", lambda home: label_folders.voc12(home, split="train")),
        ("pascal_context", lambda home: label_folders.pascal_context(home, split="train")),
        ("vaihingen", lambda home: label_folders.vaihingen(home, split="train")),
    ],
)
def test_data_sets_bring_their_own_ways(tmp_path: Path, key: str, write: Callable[[Path], Path]) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"steps": 1, "batch": 2, "crop": (64, 64), "val": 0, "workers": 0, "progress": False}
    finetune("demo", write(tmp_path / "data"), out, **given)
    found, expected = hrnet_zoo.create_model(f"local-dir:{out}").dataset, DATASETS[key]
    for name in (
        "key",
        "classes",
        "palette",
        "resize_to",
        "sliding_window",
        "data_license",
        "bands",
        "meters_per_pixel",
    ):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.title == expected.title.removesuffix(" + Aug")


def test_taught_again_and_again_the_terms_stay_as_long(data: Path, tmp_path: Path) -> None:
    model: str | Path = "demo"
    terms = []
    for generation in "ab":
        finetune(model, data, tmp_path / generation, steps=1, batch=2, crop=(64, 64), val=0, workers=0, progress=False)
        model = tmp_path / generation
        terms.append(hrnet_zoo.create_model(model).dataset.data_license)
    assert terms[0].endswith("generated by hrnet_zoo.demo.scenes, Apache-2.0")
    assert len({*terms}) == 1


def one_class(root: Path) -> None:
    (root / "classes.txt").write_text("ground\n", encoding="utf-8")


def no_names(root: Path) -> None:
    (root / "classes.txt").unlink()


def no_images(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()


def nothing_labeled(root: Path) -> None:
    for path in (root / "masks").iterdir():
        Image.new("L", (192, 96), 255).save(path)


def label_outside(root: Path) -> None:
    path = next((root / "masks").iterdir())
    Image.new("L", (192, 96), 9).save(path)


@pytest.mark.parametrize("spoil", [one_class, no_names, no_images, label_outside, nothing_labeled])
def test_wrong_data_is_refused_before_anything_is_computed(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    root = write_own_folder(tmp_path / "data", 3)
    spoil(root)
    with pytest.raises((DatasetError, ConfigError)) as caught:
        train(root, tmp_path / "out")
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_evaluate_and_finetune_judge_labels_as_check_data_does(tmp_path: Path) -> None:
    root = own(tmp_path / "data", [str(index) for index in range(12)], ["background", "crack", "spall"])
    for index in range(8):
        labels(root / f"masks/{index}.png", mask(2) * np.uint8(255))
    (problem,) = check_data(root, progress=False).problems
    model = create_model("demo", classes=["background", "crack", "spall"])
    said = f"255 as a class: {problem.found}"
    with pytest.raises(DatasetError) as caught:
        evaluate(model, root, workers=0, progress=False)
    assert caught.value.found == said
    with pytest.raises(DatasetError) as caught:
        finetune(model, root, tmp_path / "out", val=0, steps=1, device="cpu", workers=0, progress=False)
    assert caught.value.found == said
    assert problem.advice in caught.value.advice
    with pytest.raises(DatasetError, match="255 as a class"):  # whichever part the others fall into
        finetune(model, root, tmp_path / "out", val=0.3, steps=1, device="cpu", workers=0, progress=False)


def test_a_background_that_is_partly_ignored_is_no_fault(tmp_path: Path) -> None:
    """Not even if it is all there is to validate on."""
    root = own(tmp_path, ["train/a", "train/b", "val/c"], ["background", "crack", "spall"])
    labels(root / "masks/val/c.png", mask(2) * np.uint8(255))
    train_part, val_part, _ = find_training_data(root)
    assert val_part
    assert [report.ok for report in check_splits(train_part, val_part, progress=False)] == [True, True]
    assert not check_splits(val_part, progress=False)[0].ok


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"epochs": 1}, "exclude each other"),
        ({"steps": None, "epochs": 0}, "at least 1"),
        ({"lr": -1.0}, "lr is"),
        ({"loss": "hinge"}, "loss"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"patience": 0}, "at least 1"),
        ({"class_weights": (1.0, 2.0)}, "3 numbers"),
        ({"class_weights": "none"}, "3 numbers"),
        ({"val": 1.5}, "val"),
        ({"batch": 0}, "batch"),
        ({"augment_replaces": True}, "no augment"),
        ({"augment": lambda image, labels, rng: image}, "not two NumPy arrays"),
        ({"trackers": ["mlfow"]}, "with the tracker 'mlfow'"),
        ({"seed": "1"}, "seed is a whole number"),
        ({"patience": 1.5}, "patience is a whole number"),
        ({"validate_every": "3"}, "validate_every is a whole number"),
        ({"workers": "2"}, "workers is a whole number"),
        ({"crop": (32, 64)}, "at least 64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_refused(data: Path, tmp_path: Path, options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        train(data, tmp_path, **options)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_half_precision_weights_are_trained_in_float32(data: Path, tmp_path: Path) -> None:
    network = hrnet_zoo.create_model("demo", classes=list(GROUPS), dtype=torch.float16)
    train(data, tmp_path, model=network, steps=1, val=0)
    assert load_file(tmp_path / "model.safetensors")["backbone.conv1.weight"].dtype == torch.float32
    assert network.dtype == torch.float16


def test_what_is_no_network_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Linear"):
        train(data, tmp_path, model=torch.nn.Linear(1, 1))


def test_a_network_of_other_classes_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="19 classes"):
        finetune(hrnet_zoo.create_model("demo"), data, tmp_path)


def test_somebodys_model_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    hrnet_zoo.create_model("demo").save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    for resume in (False, True):
        with pytest.raises(ConfigError, match="overwritten"):
            train(data, tmp_path, resume=resume)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("device", ["gpu", "cuda:7", "meta"])
def test_a_device_that_is_not_there(data: Path, tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError):
        train(data, tmp_path, device=device)


def test_what_could_not_be_kept_is_not_begun(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError):
        train(data, tmp_path, crop=(64, 20_000))
    with pytest.raises(ModelConfigError):
        train(data, tmp_path, resize_to=(96, 192))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_frozen_network_learns_unless_asked_not_to(data: Path, tmp_path: Path) -> None:
    network = hrnet_zoo.create_model("demo", classes=list(GROUPS))
    network.freeze_backbone()
    finetune(network, data, tmp_path, steps=1, batch=2, crop=(64, 64), val=0, workers=0, progress=False, device="cpu")
    kept = load_file(tmp_path / "model.safetensors")
    assert not torch.equal(kept["backbone.conv1.weight"], network.backbone.conv1.weight)


def test_killed_while_validating_nothing_is_lost(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "count_pixels", killed)
        with pytest.raises(MemoryError):
            train(data, tmp_path)
    train(data, tmp_path, resume=True)
    assert same_weights(tmp_path, whole)


def test_a_log_that_was_deleted_does_not_stop_it(data: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(data, tmp_path, loss=StopAt(3, signal.SIGTERM))
    (tmp_path / "metrics.jsonl").unlink()
    train(data, tmp_path, resume=True)
    assert same_weights(tmp_path, whole)
    assert [line["iter"] for line in lines(tmp_path, "train")] == [4]


def test_a_folder_that_holds_a_run_is_not_overwritten(data: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="resume=True"):
        train(data, whole)


@pytest.mark.parametrize("changed", [{"lr": 0.5}, {"steps": 7}, {"seed": 1}, {"classes": ["a", "b", "c"]}])
def test_resuming_with_other_arguments_is_refused(
    data: Path, whole: Path, changed: dict[str, Any], tmp_path: Path
) -> None:
    if "classes" in changed:
        data = write_own_folder(tmp_path / "data", 8)
        (data / "classes.txt").unlink()
    with pytest.raises(ResumeError) as caught:
        train(data, whole, resume=True, **changed)
    assert caught.value.field == next(iter(changed))


def test_a_torn_state_is_refused_and_kept(data: Path, whole: Path, tmp_path: Path) -> None:
    torn = (whole / "training_state.safetensors").read_bytes()[:-100]
    (tmp_path / "training_state.safetensors").write_bytes(torn)
    with pytest.raises(ResumeError):
        train(data, tmp_path, resume=True)
    assert (tmp_path / "training_state.safetensors").read_bytes() == torn


def test_resuming_nothing_begins_anew_and_says_so(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train(data, tmp_path, steps=1, resume=True).steps == 1
    assert "begins anew" in caplog.text


def test_two_runs_cannot_share_a_folder(data: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="another run"):
        train(data, tmp_path)


def test_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"--data {data} --out {tmp_path / 'a'} --steps 2 --batch 2 --crop 64x64 --resize-to 192x96 --val 0.25"
    with pytest.raises(SystemExit) as caught:
        main(["finetune", "demo", *options.split(), "--workers", "0", "--class-weights", "auto", "--json"])
    assert not caught.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 2
    assert facts["miou"] == json.loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))["metrics"]["miou"]


def options_of(data: Path, out: Path, steps: int) -> list[str]:
    return (
        f"finetune demo --data {data} --out {out} --steps {steps} --batch 2 --crop 64x64 --resize-to 192x96 --val 0.25 "
        "--validate-every 2 --backbone-lr 0.1 --workers 0 --device cpu"
    ).split()


def test_without_a_terminal_lines_tell_how_it_goes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options_of(data, tmp_path / "a", 3))
    assert not caught.value.code
    said = capsys.readouterr().err
    told = [line for line in said.splitlines() if "images to train" in line or "update " in line]
    assert len(told) == 4
    assert re.fullmatch(r"\d images to train on, \d to validate on; 3 updates of 2 images; learning rate 0.01", told[0])
    loss, speed = r"loss \d+\.\d{3}", r"[\d.e+]+ images/s, \d:\d\d:\d\d left"
    assert re.fullmatch(rf"update 1 of 3: {loss}, {speed}", told[1])
    for line, step in zip(told[2:], (2, 3), strict=True):
        assert re.fullmatch(rf"update {step} of 3: {loss}, mIoU \d+\.\d\d \(best \d+\.\d\d\), {speed}", line)
    holds, following = said.splitlines()[-2:]
    assert holds.startswith(f"{tmp_path / 'a'} holds model.safetensors, metrics.jsonl, ")
    assert f"hrnet-zoo predict {tmp_path / 'a'} photo.jpg" in following


@pytest.mark.timeout(300)
def test_stopped_on_the_command_line_it_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hrnet_zoo", *options_of(data, tmp_path / "a", 500)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        assert process.stderr
        try:
            while not process.stderr.readline().startswith("update 1 of 500"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait() == 130
        finally:
            process.kill()
    assert "stopping: this update is finished and saved" in said
    assert re.search(rf"the run is saved in {tmp_path / 'a'} after update \d+; resume continues it", said)
    assert "the same command with --resume goes on" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lr", "20"], ("fine-tune with --lr 20.0", "correct it, or leave it out")),
        (["--precision", "fp16"], ("use --precision bf16 or",)),
        (["--crop", "10x10"], ("fine-tune with --crop 10x10",)),
    ],
)
def test_errors_of_the_command_name_its_options(
    more: list[str], words: tuple[str, ...], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*options_of(data, tmp_path / "a", 5), *more])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert all(each in said for each in words), said


def test_a_run_that_is_there_is_gone_on_with_by_an_option(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options_of(data, whole, STEPS))
    said = capsys.readouterr().err
    assert "go on with --resume, or name another folder" in said
    with pytest.raises(ConfigError, match="go on with resume=True"):
        train(data, whole)


# --- what no run of one process on a good disk meets ------------------------------------------------------------------


def test_processes_that_stand_elsewhere(tmp_path: Path) -> None:
    ranks = SimpleNamespace(size=2, all_gather=lambda work: [(3, "config"), (5, "config")])
    with pytest.raises(ConfigError, match="they stand at updates 3, 5") as caught:
        _restore(SimpleNamespace(ranks=ranks), tmp_path, resume=True)  # type: ignore[arg-type]
    assert "a shared folder for the results" in caught.value.advice


def test_processes_share_a_batch_equally(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = SimpleNamespace(size=2, rank=0, all_gather=lambda work: [work(), work()])
    monkeypatch.setattr(finetune_module, "join", lambda _: nullcontext(ranks))
    with pytest.raises(ConfigError, match="not a multiple of the 2 processes"):
        train(data, tmp_path, batch=3)


def test_a_folder_that_cannot_be_locked(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"(?s)fine-tune into .*found: .*done:  nothing was computed"):
        finetune("demo", data, tmp_path / "out", steps=1, device="cpu", progress=False)


@pytest.fixture(scope="module")
def four_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_band_images(tmp_path_factory.mktemp("bands") / "data", 5)


BANDS_GIVEN: dict[str, Any] = {"bands": BANDS, "mean": MEAN, "std": STD, "resize_to": (96, 64), "steps": 2}


@pytest.fixture(scope="module")
def four_bands_run(four_bands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bands") / "run"
    train(four_bands, out, **BANDS_GIVEN)
    return out


def test_images_of_other_bands(four_bands: Path, four_bands_run: Path) -> None:
    model = hrnet_zoo.create_model(four_bands_run, device="cpu")
    assert (model.dataset.own_bands, model.dataset.mean, model.dataset.std) == (BANDS, MEAN, STD)
    filters = model.backbone.conv1.weight[:, 3]
    assert 0 < filters.abs().max() < 0.1  # two updates after zero
    results = model.predict([four_bands / "images/0.tif", np.load(four_bands / "images/1.npy")], progress=False)
    assert [result.mask.shape for result in results] == [(64, 96)] * 2
    assert results[0].image.shape == (64, 96, 3)
    assert 100 < results[0].image.mean() < 155  # stretched by mean and std
    assert hrnet_zoo.evaluate(model, four_bands, workers=0, progress=False).images == 5
    fast = hrnet_zoo.optimize(model, engine="pytorch", dtype=torch.float32).predict(four_bands / "images/0.tif").mask
    assert (fast == results[0].mask).mean() > 0.99
    with pytest.raises(ConfigError, match="color is one of 'rgb'"):
        model.predict(four_bands / "images/0.tif", color="bgr")
    with pytest.raises(ImageError, match="64 x 96 x 3 where height, width and 4 bands"):
        model.predict(np.zeros((64, 96, 3), np.uint8))


def test_bands_are_kept_and_go_on(four_bands: Path, four_bands_run: Path, tmp_path: Path) -> None:
    train(four_bands, tmp_path / "next", model=four_bands_run, steps=1, val=0)
    assert hrnet_zoo.create_model(tmp_path / "next", device="cpu").dataset.mean == MEAN
    with pytest.raises(ResumeError, match="mean was"):
        train(four_bands, four_bands_run, **BANDS_GIVEN | {"mean": STD}, resume=True)
    network = hrnet_zoo.create_model(four_bands_run, device="cpu")
    with pytest.raises(ConfigError, match="it takes the bands red, green, blue, nir, and not red, green, blue"):
        train(write_band_images(tmp_path / "colors", 2, rgb=True), tmp_path / "rgb", model=network, bands=BANDS[:3])


def test_bands_need_statistics_and_files(four_bands: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mean and std of each of the 4 bands .* they are mean=\[1\d\d\d") as caught:
        train(four_bands, tmp_path / "a", bands=BANDS)
    with pytest.raises(ConfigError, match="are not trained yet, and would not be"):
        train(four_bands, tmp_path / "a", **BANDS_GIVEN, freeze="backbone")
    words = dict(re.findall(r"(mean|std)=(\[.*?\])", caught.value.found))
    np.testing.assert_allclose(json.loads(words["mean"]), MEAN, rtol=0.05)
    np.testing.assert_allclose(json.loads(words["std"]), STD, rtol=0.15)
    with pytest.raises(DatasetError, match=r"the extension is none of .npy, .tif, .tiff \(8: images/7.*png"):
        train(data, tmp_path / "b", **BANDS_GIVEN)
    with pytest.raises(DatasetError, match=r"not an image: skipped.*1.npy[^;]*next:  name the bands of \.npy files"):
        train(shutil.copytree(four_bands, tmp_path / "npy", ignore=shutil.ignore_patterns("*.tif")), tmp_path / "c")
    broken = tmp_path / "data"
    shutil.copytree(four_bands, broken)
    np.save(broken / "images/1.npy", np.full((64, 96, 4), np.nan))
    np.save(broken / "images/2.npy", np.zeros((64, 97, 4)))
    with pytest.raises(DatasetError) as refused:
        train(broken, tmp_path / "d", **BANDS_GIVEN)
    for found in ("images/1.npy: values that are infinite or not a number", "image 97 x 64, mask 96 x 64 pixels"):
        assert found in refused.value.found
    assert "--bands red,green,blue,nir" in refused.value.advice
    report = check_data(broken, bands=BANDS, progress=False)
    assert [problem.kind for problem in report.problems] == ["unreadable image", "sizes differ"]
    for wrong in ("nir", 4):
        with pytest.raises(ConfigError, match="bands are different names"):
            check_data(broken, bands=wrong, progress=False)  # type: ignore[arg-type]


def test_own_augmentation_of_bands(four_bands: Path, tmp_path: Path) -> None:
    seen = []

    def noted(image: Any, labels: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        seen.append((image.dtype.name, image.shape[2], float(image.max()) > 255))
        return image, labels

    train(four_bands, tmp_path / "a", **BANDS_GIVEN | {"steps": 1, "val": 0}, augment=noted)
    assert set(seen) == {("float32", 4, True)}
