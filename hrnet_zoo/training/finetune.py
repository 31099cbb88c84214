"""A published network and labeled images -> your own network: `finetune`, its arguments, and the folder of a run."""

from __future__ import annotations

import copy
import logging
import math
import multiprocessing
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from hrnet_zoo.datasets import DATASETS, Dataset
from hrnet_zoo.datasets.check import DataReport, check_splits, require_sound
from hrnet_zoo.datasets.dataset import RGB_BANDS
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.splits import find_training_data
from hrnet_zoo.evaluation.evaluate import default_workers
from hrnet_zoo.evaluation.ranks import Ranks, join, local_device
from hrnet_zoo.images.atomic import make_folder, output_errors
from hrnet_zoo.images.bands import measure_bands
from hrnet_zoo.inference.predict import without_autocast
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.fork_safety import refuse_after_fork
from hrnet_zoo.training.augmentation import Augment, OwnAugmentation
from hrnet_zoo.training.augmentation import augment as default_augment
from hrnet_zoo.training.auto_batch import largest_batch, require_memory
from hrnet_zoo.training.batches import try_augmentation
from hrnet_zoo.training.config import (
    TrainingConfig,
    config_error,
    images_digest,
    name_of,
    require_whole,
    resolve_class_weights,
    resolve_precision,
    resolve_steps,
)
from hrnet_zoo.training.events import OnEvent, make_trackers
from hrnet_zoo.training.loop import SHEETS, TrainingLoop, print_line
from hrnet_zoo.training.losses import Loss, balanced_class_weights, make_loss
from hrnet_zoo.training.resume import STATE_FILE, read_config
from hrnet_zoo.training.update import Updater
from hrnet_zoo.zoo.create import create_model, usable_device
from hrnet_zoo.zoo.model_config import WEIGHTS_FILE
from hrnet_zoo.zoo.model_folder import config_of
from hrnet_zoo.zoo.resolve import is_arch, resolve, resolve_arch
from hrnet_zoo.zoo.training_log import OWN_LOG

CUSTOM_LICENSE = "those of your own images; what it started from: "

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class FineTuning:
    """The result of a fine-tuning.

    Attributes:
        folder: a model folder: `create_model(folder)`.
        steps: updates done.
        miou: mean intersection over union on the validation images, percent, of the network that was kept; None
            without validation images.
        loss: of the last update; None where a finished run was resumed.

    """

    folder: Path
    steps: int
    miou: float | None
    loss: float | None


def finetune(
    model: str | Path | FCNHRNet,
    data: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    val: float | str | Path | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch: int | str | None = None,
    accumulate: int = 1,
    crop: tuple[int, int] | None = None,
    resize_to: tuple[int, int] | None = None,
    lr: float = 0.01,
    backbone_lr: float = 1.0,
    head_lr: float = 1.0,
    weight_decay: float = 5e-4,
    warmup: int = 0,
    freeze: str | None = None,
    loss: str | Loss = "cross_entropy",
    class_weights: str | Sequence[float] | None = None,
    precision: str | None = None,
    ema: float = 0.0,
    gradient_checkpointing: bool = False,
    patience: int | None = None,
    validate_every: int | None = None,
    save_every: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    augment: Augment | None = None,
    augment_replaces: bool = False,
    trackers: str | Sequence[Any] = (),
    on_event: OnEvent | None = None,
    tensorboard: bool = False,
    progress: bool = True,
) -> FineTuning:
    """Train a network on your own classes; `out` becomes a model folder.

    Defaults are those of the published training: SGD with momentum 0.9, and a polynomial learning rate.

    Beside the model, `out` holds `metrics.jsonl` (which `hrnet-zoo log` reads), `curves.png`, a sheet of validation
    images for each validation in `sheets/`, and the state from which `resume=True` continues: on a CPU with as many
    threads, to the same bits as without the stop. SIGTERM and Ctrl-C finish the current update, save and leave; a
    second one, two seconds later or more, ends the run at once.

    Under `torchrun` or `accelerate launch` the processes share each batch, on one machine or on several with `data`
    and `out` in a shared folder. Batch norm sees the whole batch, and with cross-entropy the result is that of one
    process except for rounding.

    Args:
        model: name as `create_model` takes it; or "hr18s", "hr18", "hr32", "hr40" or "hr48": a backbone with ImageNet
            weights and a random head; or a network, which is not changed.
        data: `images/`, `masks/` and `classes.txt`, or `train/` and `val/` with the first two inside; or a download of
            one of the datasets. Mask values are class indices, 255 is ignored (in a download, by its own rule).
        out: folder for all results.
        classes: names of the classes by index, instead of `classes.txt`; the data then count as custom, whatever their
            layout. Classifier rows of classes that the model knows are copied.
        bands: names of the bands of other images than 8-bit RGB, such as red, green, blue, nir: TIFF or .npy files
            (height, width, bands). Filters of bands that the model knows are kept. Augmentation leaves the values as
            they are. Default: those of the model, if it takes such images.
        mean: of each band, in the values of the images; the error without it states those of the training images.
        std: standard deviation of each band, likewise.
        val: fraction of the images to validate on (0: none), a text file of their names, or a folder; default: `val/`,
            `valid/` or `validation/` if it is there, else `test/`, else a tenth.
        epochs: passes over the images; default: 50, unless `steps` is given.
        steps: updates of the weights, instead of `epochs`.
        batch: images per update, over all processes; default: for each process as many as its dataset was trained
            with on each GPU (2 to 8), or as many as there are. "auto": for each process the largest power of two that
            fits into memory, at most as many as there are; updates of a copy of the network are tried for it.
        accumulate: parts in which each process computes its share of a batch, to save memory.
        crop: (height, width) in pixels of the training crops; default: the crop that its dataset was trained with.
        resize_to: (long side, short side) in pixels that images are resized to fit, here and later by `predict`; random
            sizes are half to twice as large; default: that of the model's dataset.
        lr: peak learning rate; it falls to a hundredth.
        backbone_lr: factor on `lr` for the backbone: 0.1 lets it learn at a tenth of `lr`.
        head_lr: factor on `lr` for the head.
        weight_decay: of all parameters.
        warmup: updates in which the learning rate rises.
        freeze: "backbone" trains the head alone; default: everything learns, even what was frozen before.
        loss: "cross_entropy", "ohem", "dice" or "lovasz"; in Python also any function of logits (N, K, H, W) and labels
            (N, H, W; 255 ignored) to a mean.
        class_weights: factors on the loss by class, or "auto" to weight rare classes more.
        precision: "fp32", "bf16" or "fp16" (CUDA only); default: bf16 on a GPU that has it, else fp16 there, fp32 on a
            CPU.
        ema: decay of a running average of the weights, such as 0.999; the average is validated and kept. 0: none.
        gradient_checkpointing: recompute activations instead of keeping them: less memory, about a third slower.
        patience: validations without a gain after which to stop.
        validate_every: updates between validations; default: an epoch.
        save_every: updates between saves of the state; default: at each validation.
        seed: of everything random here. The generators of torch, NumPy and Python are left alone: if a custom loss
            draws from them, seed them yourself.
        workers: processes that prefetch images; default: half the processors, at most 8; 0: none.
        device: such as "cpu" or "cuda:1"; default: CUDA if there is one, else the CPU.
        resume: continue the run in `out`, with the same arguments; a run that never saved begins anew.
        augment: your own augmentation: a function of an image (H, W, 3) uint8 RGB, or with `bands` (H, W, bands)
            float32, its labels (H, W) uint8 with 255 ignored, and a `numpy.random.Generator`, that returns image and
            labels, at most as large as the crop. It is called after ours (random resize, crop, flip, colors), and tried
            on three samples first. Runs resume bit-exactly if it draws from the generator alone.
        augment_replaces: call `augment` in place of ours; it gets images as large as they are.
        trackers: experiment trackers that get all figures, by their names in accelerate (extra `train`), such as
            "tensorboard" (in `out/tensorboard`), "wandb" or "mlflow"; or trackers of accelerate that you made.
        on_event: called with a `hrnet_zoo.training.events.TrainingEvent` after each update and validation and at the
            end, in the first process. If it returns "stop", the state is saved, and this function returns; `resume`
            continues. What it or a tracker raises is warned of once, and changes nothing.
        tensorboard: the former form of `trackers=["tensorboard"]`.
        progress: show a bar on a terminal, else a line for the first update, each validation, and once a minute.

    Raises:
        ConfigError: an argument cannot be used, or `out` is in use or holds a run and `resume` is not set.
        DatasetError: the data have faults; all of them are listed before anything is computed.
        ResumeError: `out` holds a run that began with other arguments, or its state is damaged.
        TrainingError: the loss is not finite any more.
        OutputError: `out` cannot be written.
        ProcessError: one of several processes died.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, when the state is saved.

    """
    out = Path(out)
    if tensorboard:
        words = 'tensorboard=True is trackers=["tensorboard"] now; the old form works for one more version'
        warnings.warn(words, DeprecationWarning, stacklevel=2)
        trackers = [*([trackers] if isinstance(trackers, str) else trackers), "tensorboard"]
    least = {"seed": 0, "workers": 0, "patience": 1, "validate_every": 1, "save_every": 1}
    for name, value in zip(least, (seed, workers, patience, validate_every, save_every), strict=True):
        if value is not None:
            require_whole(name, value, least[name])
    torch_device = usable_device(local_device(str(device) if device else None))
    refuse_after_fork(torch_device)
    with (
        join(torch_device) as ranks,
        _lock(out, resume, ranks),
        # The caller's contexts have no effect in here.
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        without_autocast(torch_device),
    ):
        if batch == "auto" and torch_device.type == "cpu":
            require_memory(ranks)  # before anything else takes some: libraries without memory crash
        if isinstance(model, FCNHRNet):
            started = model.dataset
        else:
            started = (resolve_arch if is_arch(str(model)) else resolve)(str(model), progress=progress).dataset

        def find(bands: Sequence[str]) -> tuple[LabeledFolder, LabeledFolder | None, tuple[str, ...]]:
            return find_training_data(data, val=val, classes=classes, bands=bands)

        inputs = started.with_bands(bands, mean, std, lambda bands: _measured(find(bands)[0], bands))
        train, held_out, names = ranks.all_gather(lambda: find(inputs.own_bands))[ranks.rank]
        if freeze and inputs.bands != started.bands:
            found = f"the first filters of {', '.join(inputs.bands)} are not trained yet, and would not be"
            raise config_error(f"with freeze={freeze!r}", found, "leave freeze out, or use the bands of the model")
        network = _load(model, names, inputs, torch_device, seed, progress)
        dataset = _dataset(network.dataset, train, names)
        if inputs.own_bands:
            dataset = replace(dataset, bands=inputs.bands, mean=inputs.mean, std=inputs.std)
        network.dataset = replace(dataset, resize_to=resize_to or dataset.resize_to, crop=crop or dataset.crop)
        is_tried = batch == "auto"
        if is_tried and resume and (out / STATE_FILE).exists():
            is_tried, batch = False, read_config(out / STATE_FILE)[0]["batch"]
        if is_tried:
            batch = ranks.size * require_whole("accumulate", accumulate, 1)  # until the largest is found
        elif batch is None:
            batch = ranks.size * max(1, min(network.dataset.batch_per_gpu, len(train.samples) // ranks.size))
        batch = require_whole("batch", batch, 1)
        epoch_length = math.ceil(len(train.samples) / batch)
        config = TrainingConfig(
            arch=network.arch,
            classes=names,
            images=images_digest(sample.name for sample in train.samples),
            steps=resolve_steps(epochs, steps, epoch_length),
            batch=batch,
            accumulate=accumulate,
            crop=network.dataset.crop,
            resize_to=network.dataset.resize_to,
            lr=lr,
            backbone_lr=backbone_lr,
            head_lr=head_lr,
            weight_decay=weight_decay,
            warmup=warmup,
            freeze=freeze or "",
            loss=loss if isinstance(loss, str) else name_of(loss),
            class_weights=resolve_class_weights(class_weights, len(names)),
            precision=resolve_precision(precision, torch_device),
            ema=ema,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            augment=f"{name_of(augment)}{' in place of ours' if augment_replaces else ''}" if augment else "",
            bands=network.dataset.bands,
            mean=network.dataset.mean,
            std=network.dataset.std,
        )
        own = OwnAugmentation(augment, augment_replaces, len(names)) if augment else None
        if augment_replaces and not own:
            raise config_error("with augment_replaces=True", "there is no augment that could replace ours")
        if batch % ranks.size:
            raise config_error(f"with batch={batch}", f"it is not a multiple of the {ranks.size} processes")
        make_loss(loss)  # refuses an unknown one
        if trackers:
            ranks.all_gather(lambda: make_trackers(trackers, out, 0) and None)  # refuses unknown ones
        config_of(network)  # refuses a model that could not be saved
        # The first process alone reads all the data once, which takes long.
        report, *_ = ranks.all_gather(lambda: _check_data(train, held_out, progress) if ranks.rank == 0 else None)
        if class_weights == "auto" and report:
            config = replace(config, class_weights=balanced_class_weights(report))
        workers = default_workers() if workers is None else workers
        if own:
            if multiprocessing.current_process().daemon:
                workers = 0  # its threads would share what the augmentation keeps between calls
            ranks.all_gather(lambda: try_augmentation(train, config, own, workers) if ranks.rank == 0 else None)
        weights = torch.tensor(config.class_weights, device=torch_device) if config.class_weights else None
        loss_function, memory = make_loss(loss, weights), None
        if is_tried:
            share, memory = largest_batch(network, config, loss_function, ranks, len(train.samples) // ranks.size)
            batch = share * ranks.size
            epoch_length = math.ceil(len(train.samples) / batch)
            config = replace(config, batch=batch, steps=resolve_steps(epochs, steps, epoch_length))
        loop = TrainingLoop(
            updater=Updater(network, config, loss_function, ranks),
            train=train,
            val=held_out,
            out=out,
            workers=workers,
            validate_every=validate_every or epoch_length,
            save_every=save_every or 0,
            patience=patience or 0,
            progress=progress,
            on_event=on_event,
            trackers=trackers,
            augment=own or default_augment,
            tried_memory=memory,
        )
        _restore(loop.updater, out, resume)
        if progress and loop.is_first:
            counts = [len(part.samples) if part else 0 for part in (train, held_out)]
            images = f"{counts[0]} images to train on, {counts[1]} to validate on"
            fits = f" (the most that fits: an update takes {memory / 1e9:.2f} GB)" if memory is not None else ""
            print_line(f"{images}; {config.steps} updates of {batch} images{fits}; learning rate {lr:g}")
        loop.run()
    if progress and loop.is_first:
        _print_end(out, loop.reason, "image.npy" if inputs.own_bands else "photo.jpg")
    return FineTuning(out, loop.updater.progress.step, loop.updater.progress.best_miou, loop.loss)


def _print_end(out: Path, reason: str, image: str) -> None:
    """Say on stderr where everything lies, and what to type next."""
    if reason == "stopped":
        print_line("stopped by on_event: resume=True continues")
    found = [
        name
        for name in (WEIGHTS_FILE, OWN_LOG, "curves.png", SHEETS, "tensorboard", STATE_FILE)
        if (out / name).exists()
    ]
    print_line(f"{out} holds {', '.join(found)}")
    print_line(f"next: hrnet-zoo predict {shlex.quote(str(out))} {image}, or hrnet_zoo.create_model({str(out)!r})")


@contextmanager
def _lock(out: Path, resume: bool, ranks: Ranks) -> Iterator[None]:
    """Lock the folder for this run; only the first process does it."""
    lock = FileLock(out / ".lock")

    def acquire() -> None:
        make_folder(out)
        with output_errors(out, f"fine-tune into {out}", "nothing was computed", "name a folder that can be written"):
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise config_error(f"into {out}", "another run writes there now", "name another folder") from error
        if (out / STATE_FILE).exists():
            if not resume:
                advice = "go on with resume=True, or name another folder"
                raise config_error(f"into {out}", "it holds a run already", advice)
        elif (out / WEIGHTS_FILE).exists():
            raise config_error(f"into {out}", "it holds a model that would be overwritten", "name another folder")

    try:
        ranks.all_gather(lambda: acquire() if ranks.rank == 0 else None)
        yield
    finally:
        lock.release()


def _load(
    model: str | Path | FCNHRNet,
    names: tuple[str, ...],
    inputs: Dataset,
    device: torch.device,
    seed: int,
    progress: bool,
) -> FCNHRNet:
    """Return a trainable float32 network for these classes and the bands of `inputs`."""
    if not isinstance(model, FCNHRNet):
        return create_model(
            model,
            "imagenet" if is_arch(str(model)) else True,
            classes=names,
            bands=inputs.bands,
            mean=inputs.mean or None,
            std=inputs.std or None,
            device=device,
            dtype=torch.float32,
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        )
    if model.dataset.bands != inputs.bands:
        found = f"it takes the bands {', '.join(model.dataset.bands)}, and not {', '.join(inputs.bands)}"
        raise config_error(model.arch, found, "create_model(..., bands=[the names], mean=, std=)")
    if model.classes != names:
        found = f"it has {len(model.classes)} classes, {', '.join(model.classes)[:100]}, and not those of the data"
        raise config_error(model.arch, found, "create_model(..., classes=[the names])")
    return copy.deepcopy(model).to(device, torch.float32).requires_grad_(True)


def _dataset(started: Dataset, train: LabeledFolder, names: tuple[str, ...]) -> Dataset:
    """Return the dataset to train on; `started` is the one that the network was trained on before."""
    if train.key:
        return replace(DATASETS[train.key], title=train.title)  # VOC 2012 without the augmented labels has another one
    # Added only once, however often a model is fine-tuned: the text has a limit.
    data_license = CUSTOM_LICENSE + started.data_license.removeprefix(CUSTOM_LICENSE)
    custom = started.with_classes(names, train.colors)
    # As far as is known of the custom images.
    custom = replace(custom, meters_per_pixel=None, bands=RGB_BANDS, mean=(), std=())
    return replace(custom, title="custom images", data_license=data_license)


def _measured(train: LabeledFolder, bands: tuple[str, ...]) -> str:
    """Return what an error says of the bands of the training images."""
    mean, std = measure_bands([sample.image for sample in train.samples], bands)
    return f"; over the {len(train.samples)} training images they are mean={mean} and std={std}"


def _check_data(train: LabeledFolder, held_out: LabeledFolder | None, progress: bool) -> DataReport:
    """Raise all faults of the data before the training; return the pixel counts of the training images."""
    parts = [part for part in (train, held_out) if part]
    reports = check_splits(*parts, progress=progress)
    for part, report in zip(parts, reports, strict=True):
        require_sound("fine-tune on", part, report.problems)
    return reports[0]


def _restore(updater: Updater, out: Path, resume: bool) -> None:
    """Resume from the state in the folder, if there is one; all processes must see the same."""
    ranks = updater.ranks

    def restore() -> tuple[int, TrainingConfig]:
        if (out / STATE_FILE).exists():
            updater.resume(out / STATE_FILE)
        elif resume and ranks.rank == 0:
            logger.warning("%s holds no training state: the run begins anew", out)
        return updater.progress.step, updater.config

    restored = ranks.all_gather(restore)
    if len(set(restored)) > 1:
        raise config_error(
            f"into {out} by {ranks.size} processes",
            f"they stand at updates {', '.join(str(step) for step, _ in restored)}, or see different images",
            "every machine needs the same data, and a shared folder for the results",
        )
