"""A published network and your own labeled images -> your own network."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.datasets.check import DataReport, check_splits, require_sound
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.splits import find_training_data
from hrnet_zoo.errors import OutputSpaceError
from hrnet_zoo.evaluation.evaluate import default_workers
from hrnet_zoo.evaluation.ranks import local_device
from hrnet_zoo.images.atomic import kind_of, make_folder
from hrnet_zoo.inference.predict import without_autocast
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.forks import refuse_after_fork
from hrnet_zoo.training.balance import class_weights as balanced
from hrnet_zoo.training.losses import Loss, make_loss
from hrnet_zoo.training.options import (
    misuse,
    number_of_steps,
    numbers_by_class,
    require_statistics,
    usable_precision,
    whole,
)
from hrnet_zoo.training.recipe import Recipe, image_set
from hrnet_zoo.training.run import STATE_FILE, Run, tell
from hrnet_zoo.training.stream import TrainingStream
from hrnet_zoo.training.team import Team
from hrnet_zoo.training.trainer import Trainer
from hrnet_zoo.zoo.create import create_to_train, usable_device
from hrnet_zoo.zoo.model_config import WEIGHTS_FILE
from hrnet_zoo.zoo.save import config_of

OWN_TERMS = "those of your own images; what it started from: "

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class FineTuning:
    """What a fine-tuning gave.

    Attributes:
        folder: a model folder: `create_model(f"local-dir:{folder}")`.
        steps: updates done.
        miou: mean intersection over union on the validation images, percent, of the network that was kept; None
            without validation images.
        loss: of the last update; None where a run that had ended was resumed.

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
    val: float | str | Path | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
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
    tensorboard: bool = False,
    progress: bool = True,
) -> FineTuning:
    """Teach a network your own classes, or more of those it knows; `out` becomes a model folder.

    Beside the model, `out` holds `metrics.jsonl` (what `hrnet-zoo log` reads), `curves.png`, a sheet of validation
    images for each validation in `sheets/`, and the state from which `resume=True` goes on: on a CPU to the very
    same bits as without the stop (with as many threads). SIGTERM and Ctrl-C finish the update under way, save and
    leave; once more, two seconds later or more, they end it at once.

    Under `accelerate launch` or `torchrun` the processes share each batch (extra `train`), on one machine or on several
    with `data` and `out` in a shared folder. Their batch norm sees all of the batch, and with cross-entropy the result
    is that of one process but for rounding.

    Args:
        model: name as `create_model` takes it, or a network with float32 weights, which is left as it is.
        data: `images/`, `masks/` and `classes.txt`, or `train/` and `val/` with the first two inside; or a download of
            one of the four datasets. File values are class indices, 255 is ignored (for the four, their own rules).
        out: folder for everything that is made.
        classes: names by index, where no `classes.txt` says them; the folder is then your own, whatever its layout.
            Rows of names that the model's classifier knows are copied.
        val: share of the images to validate on (0: none), a text file of their names, or a folder; None: `val/`,
            `valid/` or `validation/` if it is there, else `test/`, else a tenth.
        epochs: how often each image is seen; None: 50, where `steps` is None too.
        steps: updates of the weights, in place of `epochs`.
        batch: images of one update, over all processes; None: for each process as many as its dataset was trained
            with on each GPU (2 to 8), or as many as there are.
        accumulate: parts in which each process computes its share of a batch, to save memory.
        crop: (height, width) in pixels that the network sees of an image; None: as its dataset was trained.
        resize_to: (long side, short side) in pixels that images are resized to fit, here and later by `predict`; random
            sizes are half to twice as large. None: that of the model's dataset.
        lr: highest learning rate; it falls to a hundredth.
        backbone_lr: factor on `lr` for the backbone, no rate: 0.1 lets it learn at a tenth of `lr`.
        head_lr: factor on `lr` for the head.
        weight_decay: of all parameters.
        warmup: updates in which the learning rate rises.
        freeze: "backbone": only the head learns. Else all does, also what takes no gradient in a network given.
        loss: "cross_entropy", "ohem", "dice", "lovasz", or any function of scores (N, K, H, W) and labels (N, H, W; 255
            ignored) to a mean.
        class_weights: factors on the loss by class, or "auto": by how rare each class is.
        precision: of the arithmetic: "fp32", "bf16" or "fp16" (CUDA only); None: bf16 on a GPU that has it, else fp16
            there, fp32 on a CPU.
        ema: share that a running average of the weights keeps of itself at each update, such as 0.999; that average is
            then what is scored and kept. 0: none.
        gradient_checkpointing: compute activations twice rather than keep them: less memory, about a third slower.
        patience: stop after so many validations without a gain.
        validate_every: updates; None: an epoch.
        save_every: updates after which the state is saved; None: at each validation.
        seed: of everything random here. The generators of torch, NumPy and Python are left alone: a loss that draws
            from them is for its author to seed.
        workers: processes that read ahead; None: half the processors, at most 8; 0: none.
        device: None: CUDA if there is one, else the CPU.
        resume: go on where `out` stands; a run that never saved begins anew.
        tensorboard: also write events for TensorBoard to `out`.
        progress: show bars on a terminal, else a line for the first update and for each validation.

    Raises:
        ConfigError: an argument cannot be used, or `out` is in use or holds a run and `resume` is not set.
        DatasetError: something is wrong with the data; all of it is said before anything is computed.
        ResumeError: `out` holds a run that these arguments did not begin, or its state is damaged.
        TrainingError: the loss is not finite any more.
        OutputError: `out` cannot be written, or the disk is too full for what will be.
        RankError: one of several processes died.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, when all is saved.

    """
    out = Path(out)
    whole("seed", seed, 0)
    for name, value in (("validate_every", validate_every), ("save_every", save_every), ("patience", patience)):
        if value is not None:
            whole(name, value, 1)
    if workers is not None:
        whole("workers", workers, 0)
    if not isinstance(model, str | Path | FCNHRNet):
        found, advice = "it is neither a name nor a network of hrnet_zoo.create_model", "name a model"
        raise misuse(f"fine-tune {model!r:.100}", found, advice)
    place = usable_device(local_device(str(device) if device else None))
    team = Team(place)
    refuse_after_fork(place)
    # As if nothing were around it: no inference mode, gradients on, no autocast.
    with _claimed(out, resume, team), torch.inference_mode(mode=False), torch.enable_grad(), without_autocast(place):
        train, held_out, names = team.ranks.all_gather(lambda: find_training_data(data, val=val, classes=classes))[
            team.rank
        ]
        network = _network(model, train, names, resize_to, crop, place, seed, progress)
        batch = _batch(network, train, team.size) if batch is None else whole("batch", batch, 1)
        length = math.ceil(len(train.samples) / batch)
        recipe = Recipe(
            arch=network.arch,
            classes=names,
            images=image_set(sample.name for sample in train.samples),
            steps=number_of_steps(epochs, steps, length),
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
            loss=loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__),
            class_weights=numbers_by_class(class_weights, len(names)),
            precision=usable_precision(precision, place),
            ema=ema,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
        )
        config_of(network)  # what could not be kept is not begun
        stream = TrainingStream(
            samples=train.samples,
            rule=train.rule,
            resize_to=recipe.resize_to,
            crop=recipe.crop,
            seed=seed,
            batch=recipe.batch,
            workers=default_workers() if workers is None else workers,
            rank=team.rank,
            ranks=team.size,
        )
        require_statistics(recipe.crop, batch, accumulate, team.size)
        make_loss(loss)
        # One process does for all what takes long: it reads all the data once, and tells the others.
        report, *_ = team.ranks.all_gather(lambda: _checked(train, held_out, progress) if team.rank == 0 else None)
        if class_weights == "auto" and report:
            recipe = replace(recipe, class_weights=balanced(report))
        factors = recipe.class_weights
        weights = torch.tensor(factors, dtype=torch.float32, device=place) if factors else None
        trainer = Trainer(network, recipe, make_loss(loss, weights), team)
        run = Run(
            trainer=trainer,
            stream=stream,
            out=out,
            val=held_out,
            validate_every=validate_every or length,
            save_every=save_every or 0,
            patience=patience,
            tensorboard=tensorboard,
            progress=progress,
        )
        _begin(run, resume)
        if progress and run.first:
            tell(_plan(train, held_out, recipe))
        run.go()
    return FineTuning(out, trainer.progress.step, trainer.progress.best_miou, run.last.loss if run.last else None)


def _plan(train: LabeledFolder, held_out: LabeledFolder | None, recipe: Recipe) -> str:
    """Say in one line what will be done, which part is used for what, and the rates that the factors make."""
    held = f"{len(held_out.samples)} to validate on{_part(held_out)}" if held_out else "none to validate on"
    rates = f"learning rate {recipe.lr:g}"
    for name, factor in (("backbone", recipe.backbone_lr), ("head", recipe.head_lr)):
        rates += f", {recipe.lr * factor:g} for the {name}" if factor != 1 else ""
    return (
        f"{len(train.samples)} images to train on{_part(train)}, {held}; "
        f"{recipe.steps} updates of {recipe.batch} images; {rates}"
    )


def _part(folder: LabeledFolder) -> str:
    return f" ({folder.split})" if folder.split else ""


def _begin(run: Run, resume: bool) -> None:
    """Go on where the folder stands, if all processes see the same there, and there is room for more."""
    team, trainer = run.team, run.trainer

    def resumed() -> tuple[int, Recipe]:
        if run.state.exists():
            trainer.resume(run.state)
        elif resume and run.first:
            logger.warning("%s holds no state of a training: it begins anew", run.out)
        if run.first:
            _require_space(run.out, trainer.network, trainer.recipe)
        return trainer.progress.step, trainer.recipe

    places = team.ranks.all_gather(resumed)
    for rank, (step, recipe) in enumerate(places):
        if (step, recipe) != places[0]:
            raise misuse(
                f"fine-tune into {run.out} by {team.size} processes",
                f"process 0 stands at update {places[0][0]}, process {rank} at {step}, or it sees other images",
                "every machine needs the same data, and a shared folder for what is made",
            )


@contextmanager
def _claimed(out: Path, resume: bool, team: Team) -> Iterator[None]:
    """Keep the folder of a run to this run; one process does it for all."""
    lock = FileLock(out / ".lock")

    def claim() -> None:
        if team.rank:
            return
        make_folder(out)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise misuse(f"fine-tune into {out}", "another run writes there now", "name another folder") from error
        except OSError as error:
            raise kind_of(error)(
                asked=f"fine-tune into {out}",
                found=error.strerror or str(error),
                done="nothing was computed",
                advice="name a folder that can be written",
                path=out,
            ) from error
        if not resume and (out / STATE_FILE).exists():
            found, advice = "it holds a run already", "go on with resume=True, or name another folder"
            raise misuse(f"fine-tune into {out}", found, advice)
        if (out / WEIGHTS_FILE).exists() and not (out / STATE_FILE).exists():
            raise misuse(f"fine-tune into {out}", "it holds a model that would be overwritten", "name another folder")

    try:
        team.ranks.all_gather(claim)
        yield
    finally:
        lock.release()


def _checked(train: LabeledFolder, held_out: LabeledFolder | None, progress: bool) -> DataReport:
    """Read all data once, before a night is spent on it; return what the training images hold."""
    parts = [part for part in (train, held_out) if part]
    reports = check_splits(*parts, progress=progress)
    require_sound("fine-tune on", [(part, report.problems) for part, report in zip(parts, reports, strict=True)])
    return reports[0]


def _network(
    model: str | Path | FCNHRNet,
    train: LabeledFolder,
    names: tuple[str, ...],
    resize_to: tuple[int, int] | None,
    crop: tuple[int, int] | None,
    place: torch.device,
    seed: int,
    progress: bool,
) -> FCNHRNet:
    """Return a network for the classes of the data, with float32 weights."""
    if not isinstance(model, FCNHRNet):
        network = create_to_train(model, names, place, torch.Generator().manual_seed(seed), progress)
    else:
        wrong = {str(parameter.dtype) for parameter in model.parameters() if parameter.dtype != torch.float32}
        if wrong:
            found = f"its weights are {', '.join(sorted(wrong))}, in which small updates are lost"
            advice = "create_model(..., dtype=torch.float32); precision= sets how it computes"
            raise misuse(f"fine-tune {model.arch}", found, advice)
        if model.classes != names:
            found = f"it has {len(model.classes)} classes, {', '.join(model.classes)[:100]}, and not those of the data"
            raise misuse(f"fine-tune {model.arch}", found, "create_model(..., classes=[the names])")
        network = copy.deepcopy(model).to(place)
        network.requires_grad_(True)  # what is frozen is for `freeze` to say
    official = [each for each in DATASETS.values() if each.key == train.key]
    started = network.dataset
    if official:
        dataset = replace(official[0], title=train.title)  # VOC 2012 has a name of its own without the augmented labels
    else:
        # Once, however often a model is taught more: the text has a limit.
        terms = OWN_TERMS + started.data_license.removeprefix(OWN_TERMS)
        dataset = replace(started.with_classes(names, train.colors), title="images of one's own", data_license=terms)
    network.dataset = replace(dataset, resize_to=resize_to or dataset.resize_to, crop=crop or dataset.crop)
    return network


def _batch(network: FCNHRNet, train: LabeledFolder, processes: int) -> int:
    """Return as many images for each process as there were for each GPU, unless there are fewer in all."""
    return processes * max(1, min(network.dataset.batch_per_gpu, len(train.samples) // processes))


def _require_space(out: Path, network: FCNHRNet, recipe: Recipe) -> None:
    """Refuse to begin what could not be saved: an old state and a new one, an old model and a new one."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    needed = weights * (2 * (3 if recipe.ema else 2) + 2)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OutputSpaceError(
            asked=f"fine-tune into {out}",
            found=f"{free / 1e6:.0f} MB are free there, and up to {needed / 1e6:.0f} MB are needed to save safely",
            done="nothing was computed",
            advice="make room, or name a folder on another disk",
            path=out,
        )
