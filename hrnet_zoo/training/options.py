"""What a user asks a fine-tuning for -> the numbers that it is done with, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hrnet_zoo.errors import ConfigError

EPOCHS = 50
COARSEST = 32  # pixels of the image for one of the network's coarsest map


def whole(name: str, value: object, least: int) -> int:
    """Return a whole number of at least `least`.

    Raises:
        ConfigError: it is something else.

    """
    if type(value) is not int or value < least:
        raise misuse(
            f"fine-tune with {name}={value!r:.100}",
            f"{name} is a whole number, at least {least}",
            f"correct it, or leave {name} out",
        )
    return value


def number_of_steps(epochs: int | None, steps: int | None, length: int) -> int:
    """Return the updates to do, of which an epoch has `length`.

    Raises:
        ConfigError: both ways to say it were used, or one of them wrongly.

    """
    if epochs is not None and steps is not None:
        raise misuse(f"fine-tune for {epochs} epochs and {steps} steps", "these two exclude each other", "give one")
    if steps is not None:
        return whole("steps", steps, 1)
    return (EPOCHS if epochs is None else whole("epochs", epochs, 1)) * length


def numbers_by_class(wanted: str | Sequence[float] | None, classes: int) -> tuple[float, ...]:
    """Return the class weights that are numbers already: none for None and for "auto".

    Raises:
        ConfigError: they are neither, or not one for each class.

    """
    if wanted is None or wanted == "auto":
        return ()
    if isinstance(wanted, Sequence) and not isinstance(wanted, str) and len(wanted) == classes:
        numbers = [float(each) for each in wanted if isinstance(each, int | float) and 0 <= each < 1e6]
        if len(numbers) == classes and any(numbers):
            return tuple(numbers)
    found = f"class_weights is 'auto', or {classes} numbers from 0, not all of them 0"
    raise misuse(f"fine-tune with class_weights={wanted!r:.100}", found, "correct it, or leave it out")


def usable_precision(wanted: str | None, place: torch.device) -> str:
    """Return the precision to compute in; None: bfloat16 on a GPU that has it, else float16 there, float32 on a CPU.

    Raises:
        ConfigError: this device does not have it.

    """
    if wanted is None:
        if place.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if wanted == "fp16" and place.type != "cuda":
        raise misuse("fine-tune in fp16 on a CPU", "float16 needs a GPU", "use precision='bf16' or 'fp32'")
    if wanted == "bf16" and place.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        found = "this processor has no instructions for bfloat16: it would be far slower than float32"
        raise misuse("fine-tune in bf16", found, "use precision='fp32'")
    return wanted


def require_statistics(crop: tuple[int, int], batch: int, accumulate: int, processes: int) -> None:
    """Refuse a training in which batch norm would see a single value: it has no variance.

    Args:
        crop: (height, width) in pixels.
        batch: images of an update, over all processes.
        accumulate: parts in which each process computes its share.
        processes: how many there are; batch norm sees what all of them compute at the same time.

    Raises:
        ConfigError: the coarsest map of the smallest part has one pixel.

    """
    share = batch // processes
    part = -(-share // accumulate)
    smallest = share - part * ((share - 1) // part)  # as Tensor.chunk cuts: the last one has the rest
    if processes * smallest * -(-crop[0] // COARSEST) * -(-crop[1] // COARSEST) < 2:
        raise misuse(
            f"fine-tune with crop={crop}, batch={batch} and accumulate={accumulate}",
            "a part of one image, of which the coarsest map sees one pixel: batch norm needs two values",
            "use a larger crop or batch, or fewer parts",
        )


def misuse(asked: str, found: str, advice: str) -> ConfigError:
    """Make the error for an argument that cannot be used."""
    return ConfigError(asked=asked, found=found, done="nothing was computed", advice=advice)
