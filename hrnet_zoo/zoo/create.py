"""name -> network with its weights in."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from hrnet_zoo.datasets import PASCAL_CONTEXT
from hrnet_zoo.errors import ConfigError, DeviceError, no_such_argument, redact
from hrnet_zoo.models.empty import empty_layers
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.forks import refuse_after_fork
from hrnet_zoo.weights.build import with_classes
from hrnet_zoo.weights.convert import claimed_classes
from hrnet_zoo.weights.state_dict import CLASSIFIER
from hrnet_zoo.zoo.custom import load_own
from hrnet_zoo.zoo.origin import find

MAX_CLASSES = 255  # of a label map's 256 values, 255 is kept for pixels without a label
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INSTEAD = {
    **dict.fromkeys(("num_classes", "nc", "n_classes"), "classes=: names, or their number"),
    **dict.fromkeys(("weights", "ckpt", "checkpoint_path", "path"), "checkpoint=: path or address of a file"),
    **dict.fromkeys(("torch_dtype", "precision"), "dtype="),
    "device_map": "device=",
    "revision": 'the name: "hf-hub:ORG/NAME@REVISION"',
    "features_only": "model.backbone(x): maps at four strides",
}

logger = logging.getLogger("hrnet_zoo")


def create_model(
    name: str | Path,
    pretrained: bool = True,
    *,
    checkpoint: str | Path | None = None,
    classes: int | Sequence[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    progress: bool = True,
    **wrong: NoReturn,
) -> FCNHRNet:
    """Create a network with its weights, in eval mode.

    Names and colors are those of the dataset, or of `classes`. Where a checkpoint's own metadata names its classes
    otherwise, one log line says how far; the metadata is used for nothing else.

    On CUDA the weights are channels_last. On a CPU in float32 they are the cached file itself, memory-mapped: nothing
    is copied before it is used, and writing to the weights does not alter the file. Files outside the cache are read:
    who rewrites them later changes no network.

    Args:
        name: catalog name or alias (`hrnet_zoo.model_info` says which), or "demo"; or a model that was saved: the path
            of a folder of `save_pretrained` ("local-dir:PATH" where a row has the same name); "hf-hub:ORG/NAME", a
            repository on the Hub of Hugging Face with such a folder's files, or "hf-hub:ORG/NAME@REVISION": commit,
            branch or tag.
        pretrained: the published (or saved) weights; else random ones, drawn from torch's default generator.
        checkpoint: path or address of a .pth or .safetensors to load instead of the published file, into the network
            that `name` describes. What training scripts wrap around the weights is taken off, and one log line says
            what; of a file with averaged weights beside its own, those under "state_dict" are taken, else its own.
        classes: names of the classes, or their number. With the published weights: a new classifier, in which the
            rows of names that the pretrained one knows are copied and the others are random, as above. With
            `checkpoint`: the classes that the file's own classifier has, where they are not those of `name`.
        device: None: CUDA if there is one, else the CPU. torch's own defaults of device and dtype count for nothing.
        dtype: of the weights, and so of the arithmetic; torch's, or its name ("bfloat16"). None: float16 on CUDA,
            float32 elsewhere.
        progress: show a bar for a download on a terminal.
        wrong: no other argument is taken; the error for those of other libraries says what to use.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: an argument cannot be used (`DeviceError` for the device).
        DownloadError: the weights cannot be had. Random weights are never handed out in their place.
        HubError: the repository cannot be had.
        CheckpointError: a file is damaged, unsafe, or does not fit the network.
        CacheError: the cache cannot be used.

    """
    if wrong:
        raise no_such_argument("create_model", wrong, _INSTEAD)
    if not isinstance(pretrained, bool):
        raise ConfigError(
            asked=f"a model with pretrained={pretrained!r}",
            found="pretrained is True or False",
            done="nothing was created",
            advice="use checkpoint= for a file of weights, device= for a device",
        )
    with torch.inference_mode(mode=False):  # whoever is in it gets a network that can be trained all the same
        return _create(name, pretrained, checkpoint, classes, device, dtype, progress, None)


def create_to_train(
    name: str | Path, classes: Sequence[str], device: torch.device, generator: torch.Generator, progress: bool
) -> FCNHRNet:
    """Create a network with float32 weights for these classes; its random rows are drawn from the generator."""
    return _create(name, True, None, classes, device, torch.float32, progress, generator)


def _create(
    name: str | Path,
    pretrained: bool,
    checkpoint: str | Path | None,
    classes: int | Sequence[str] | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    progress: bool,
    generator: torch.Generator | None,
) -> FCNHRNet:
    device = usable_device(device)
    dtype = _usable_dtype(dtype, device)
    names = _class_names(classes)
    origin = find(str(name), progress=progress)
    arch, info = origin.arch, origin.info
    dataset = origin.dataset.with_classes(names) if names else origin.dataset
    if not pretrained:
        if checkpoint is not None:
            raise ConfigError(
                asked=f"create {origin.name} with pretrained=False and a checkpoint",
                found="these two exclude each other",
                done="nothing was created",
                advice="leave pretrained out to load the checkpoint, or leave the checkpoint out",
            )
        network = FCNHRNet(arch, dataset, info, origin.name)
        initialize(network)
        return _finish(network, device, dtype)
    with empty_layers():
        network = FCNHRNet(arch, dataset, info, origin.name)
        places = _places(network)
    shapes = {key: holder[entry].shape for key, (holder, entry) in places.items()}
    if checkpoint is not None:
        state, network.provenance = load_own(str(checkpoint), arch, shapes, progress=progress)
    else:
        state, network.provenance = origin.load(with_classes(shapes, len(origin.dataset.classes)))
        if names:
            state = _swap_classifier(state, origin.dataset.classes, names, generator)
    if not names:
        source = origin.file if checkpoint is None else redact(str(checkpoint))
        known = "; this is known of the two published files" if origin.dataset is PASCAL_CONTEXT else ""
        _compare_names(network, source, f"those of {origin.dataset.title} are used{known}")
    elif checkpoint is not None and isinstance(classes, Sequence):  # a number names nothing
        _compare_names(network, redact(str(checkpoint)), "those of your list are used")
    for key, (holder, entry) in places.items():  # names and shapes were compared by the file's header
        holder[entry] = nn.Parameter(state[key]) if isinstance(holder[entry], nn.Parameter) else state[key]
    return _finish(network, device, dtype)


def initialize(network: FCNHRNet) -> None:
    """Draw random weights as the published networks began: Kaiming normal, batch norm 1 and 0, classifier 0.01.

    Source: `init_cfg` of HRNet and FCNHead in mmsegmentation.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(network.decode_head.conv_seg.weight, std=0.01)
    for name, parameter in network.decode_head.conv_seg.named_parameters():
        if name == "bias":
            nn.init.zeros_(parameter)


def _places(module: nn.Module, prefix: str = "") -> dict[str, tuple[dict[str, Any], str]]:
    """Find where each entry of the state dict lies: a layer's dictionary, and the name in it."""
    places = {
        f"{prefix}{name}": (entries, name)
        for entries in (module._parameters, module._buffers)
        for name, entry in entries.items()
        if entry is not None
    }
    for name, child in module._modules.items():
        if child is not None:
            places.update(_places(child, f"{prefix}{name}."))
    return places


def _swap_classifier(
    state: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str], generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Give the state dict a classifier for the names `new`, with the rows of names that stand in `old` too."""
    weight, bias = state[f"{CLASSIFIER}.weight"], state[f"{CLASSIFIER}.bias"]
    new_weight = weight.new_empty(len(new), *weight.shape[1:]).normal_(std=0.01, generator=generator)
    new_bias = bias.new_zeros(len(new))
    copied = [name for name in new if name in old]
    for name in copied:
        new_weight[new.index(name)] = weight[old.index(name)]
        new_bias[new.index(name)] = bias[old.index(name)]
    logger.warning(
        "new tensors: %s.weight and %s.bias for %d classes; rows copied by name: %s; random rows, to be trained: %s",
        *(CLASSIFIER, CLASSIFIER, len(new)),
        ", ".join(copied) or "none",
        ", ".join(name for name in new if name not in old) or "none",
    )
    return {**state, f"{CLASSIFIER}.weight": new_weight, f"{CLASSIFIER}.bias": new_bias}


def _compare_names(network: FCNHRNet, source: str, consequence: str) -> None:
    """Log one line if the file that the weights came from names its classes otherwise than the network does."""
    claimed = claimed_classes(network.provenance)
    pairs = list(zip_longest(claimed, network.classes))
    different = [(index, *pair) for index, pair in enumerate(pairs) if _letters(pair[0]) != _letters(pair[1])]
    if not claimed or not different:
        return
    logger.warning(
        "%s disagrees about the names of its classes: %d of %d differ (%s%s); %s",
        *(source, len(different), len(pairs)),
        ", ".join(f"{index} is {claim!r} in the file and {used!r} here" for index, claim, used in different[:3]),
        ", ..." if len(different) > 3 else "",
        consequence,
    )


def _letters(name: str | None) -> str | None:
    """Reduce a class name to what tells it from others: "Traffic light" and "traffic_light" are one."""
    return name and "".join(letter for letter in name.casefold() if letter.isalnum())


def _finish(network: FCNHRNet, device: torch.device, dtype: torch.dtype) -> FCNHRNet:
    network.eval()
    if device.type == "cpu" and dtype == torch.float32:
        # channels_last weights would be a second copy of the mapped file, and no faster: the CPU kernels reorder
        # weights for themselves, and the images are channels_last (`prediction.score`).
        return network
    refuse_after_fork(device)
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for; None: CUDA if there is one, else the CPU.

    Raises:
        DeviceError: torch cannot use it.

    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).item()  # the device "meta" has no values, and fails here
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # torch has no class for "not here"
        cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise DeviceError(
            asked=f"a model on the device {device!r}",
            found=f"torch cannot use it: {str(error).splitlines()[0][:200]}",
            done="nothing was created",
            advice=f"devices here: {', '.join(['cpu', *cuda])}; leave device out for the best of them",
        ) from error
    return chosen


def _usable_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."), dtype)
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ConfigError(
            asked=f"a model with dtype={dtype!r}",
            found=f"dtype is one of {', '.join(map(str, DTYPES))}",
            done="nothing was created",
            advice="use one of these, or leave dtype out",
        )
    return dtype


def _class_names(classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """Names of the classes that the caller asked for; empty for the dataset's own."""
    if classes is None:
        return ()
    try:
        names = tuple(f"class {index}" for index in range(min(operator.index(classes), MAX_CLASSES + 1)))  # type: ignore[arg-type]
    except TypeError:  # no whole number, so names; one string is not several
        names = tuple(classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else ()
    if (
        not 2 <= len(names) <= MAX_CLASSES
        or len(set(names)) < len(names)
        or not all(isinstance(name, str) and name.strip() for name in names)
    ):
        raise ConfigError(
            asked=f"a model with classes={str(classes)[:100]}",
            found=f"classes is a number from 2 to {MAX_CLASSES}, or as many different names",
            done="nothing was created",
            advice="one class alone cannot be told from anything: name the background too",
        )
    return names
