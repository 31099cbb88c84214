"""Model name -> network with its weights: resolve, build, load, finish."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from hrnet_zoo.errors import ConfigError, no_such_argument, redact
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.fork_safety import refuse_after_fork
from hrnet_zoo.models.skip_init import skip_init
from hrnet_zoo.weights.convert import claimed_classes, with_classes
from hrnet_zoo.zoo.resolve import load_custom, resolve

MAX_CLASSES = 255  # of a label map's 256 values, 255 is kept for pixels without a label
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INSTEAD = {
    **dict.fromkeys(("num_classes", "nc", "n_classes"), "classes=: names, or their number"),
    **dict.fromkeys(("weights", "ckpt", "checkpoint_path", "path"), "checkpoint=: path or address of a file"),
    **dict.fromkeys(("torch_dtype", "precision"), "dtype="),
    "revision": 'the name: "hf-hub:ORG/NAME@REVISION"',
    "features_only": "model.backbone(x): maps at four strides",
}

logger = logging.getLogger("hrnet_zoo")


@torch.inference_mode(mode=False)  # a network created in inference mode can be trained, too
def create_model(
    name: str | Path,
    pretrained: bool = True,
    *,
    checkpoint: str | Path | None = None,
    classes: int | Sequence[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
    **wrong: NoReturn,
) -> FCNHRNet:
    """Create a network with its weights, in eval mode.

    Class names and colors are those of the dataset, or of `classes`. If a checkpoint's metadata names its classes
    differently, one log line says so; the metadata is used for nothing else.

    On CUDA the weights are channels_last. On a CPU in float32 they are the cached file itself, memory-mapped: nothing
    is read before it is used, and writing to the weights does not change the file.

    Args:
        name: catalog name or alias (see `hrnet_zoo.model_info`), or "demo"; or a saved model: the path of a folder
            written by `save_pretrained` ("local-dir:PATH" where a row has the same name); "hf-hub:ORG/NAME", a
            repository on the Hugging Face Hub with such a folder's files, or "hf-hub:ORG/NAME@REVISION": a commit,
            branch or tag.
        pretrained: load the published (or saved) weights; else draw random ones from torch's default generator.
        checkpoint: path or address of a .pth or .safetensors to load instead of the published file, into the network
            that `name` describes. What training scripts wrap around the weights is removed, and one log line says
            what. If a file has averaged weights besides the plain ones, those under "state_dict" are taken, else the
            plain ones.
        classes: names of the classes, or their number. With the published weights: a new classifier; rows are copied
            for class names that the pretrained one has, and random for the others. With `checkpoint`: the classes of
            the file's own classifier, where they differ from those of `name`.
        device: None: CUDA if there is one, else the CPU. torch's default device and dtype have no effect.
        dtype: of the weights and the arithmetic: a torch dtype, or its name ("bfloat16"). None: float16 on CUDA,
            float32 elsewhere.
        generator: draws the random rows of a new classifier; None: torch's default generator.
        progress: show a bar for a download on a terminal; the Hub's own bars obey HF_HUB_DISABLE_PROGRESS_BARS.
        wrong: no other argument is accepted; for those of other libraries, the error says what to use.

    Raises:
        UnknownModelError: no model has this name.
        ConfigError: an argument cannot be used.
        DownloadError: the weights cannot be downloaded. They are never replaced by random ones.
        HubError: the repository cannot be downloaded.
        CheckpointError: a file is damaged, unsafe, or does not fit the network.
        CacheError: the cache cannot be used.

    """
    if wrong:
        raise no_such_argument("create_model", wrong, _INSTEAD)
    if not isinstance(pretrained, bool) or (checkpoint is not None and not pretrained):
        raise ConfigError(
            asked=f"a model with pretrained={pretrained!r} and checkpoint={checkpoint!r}",
            found="pretrained is True or False, and False excludes a checkpoint",
            done="nothing was created",
            advice="leave pretrained out, and use checkpoint= for a file of weights",
        )
    device = usable_device(device)
    dtype = _usable_dtype(dtype, device)
    names = _class_names(classes)
    model = resolve(str(name), progress=progress)
    dataset = model.dataset.with_classes(names) if names else model.dataset
    if not pretrained:
        network = FCNHRNet(model.arch, dataset, model.info, model.name, model.method)
        initialize(network)
    else:
        with skip_init():
            network = FCNHRNet(model.arch, dataset, model.info, model.name, model.method)
        shapes = {key: entry.shape for key, entry in network.state_dict().items()}
        if checkpoint is not None:
            state, network.provenance = load_custom(str(checkpoint), model.arch, shapes, progress=progress)
        else:
            state, network.provenance = model.load(with_classes(shapes, len(model.dataset.classes)))
            if names:
                state = _swap_classifiers(state, [*network.classifiers], model.dataset.classes, names, generator)
        _assign(network, state)
        # A list of new classes for the published weights, or a number of them, has nothing to be compared with.
        if not names or (checkpoint is not None and isinstance(classes, Sequence)):
            _compare_names(network, redact(str(checkpoint)) if checkpoint is not None else model.source)
    network.eval()
    if device.type == "cpu" and dtype == torch.float32:
        # channels_last weights would copy the mapped file, and be no faster: CPU kernels reorder weights themselves.
        return network
    refuse_after_fork(device)
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def initialize(network: FCNHRNet) -> None:
    """Draw random weights as mmsegmentation does: Kaiming normal convolutions, a classifier with a deviation of 0.01.

    Source: `init_cfg` of HRNet, FCNHead and OCRHead in mmsegmentation.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for classifier in network.classifiers.values():
        nn.init.normal_(classifier.weight, std=0.01)
        if classifier.bias is not None:
            nn.init.zeros_(classifier.bias)


def _assign(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Replace all entries; names and shapes were compared. load_state_dict(assign=True) takes 1.6 times as long."""
    for prefix, module in network.named_modules():
        for entries in (module._parameters, module._buffers):
            for name, entry in entries.items():
                if entry is not None:
                    value = state[f"{prefix}.{name}"]
                    entries[name] = nn.Parameter(value) if isinstance(entry, nn.Parameter) else value


def _swap_classifiers(
    state: Mapping[str, Tensor],
    classifiers: Sequence[str],
    old: Sequence[str],
    new: Sequence[str],
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Replace the classifiers by some for the classes `new`; copy the rows of classes that are in `old`."""
    copied = [name for name in new if name in old]
    swapped = dict(state)
    for classifier in classifiers:
        weight, bias = state[f"{classifier}.weight"], state[f"{classifier}.bias"]
        new_weight = weight.new_empty(len(new), *weight.shape[1:]).normal_(std=0.01, generator=generator)
        new_bias = bias.new_zeros(len(new))
        for name in copied:
            new_weight[new.index(name)] = weight[old.index(name)]
            new_bias[new.index(name)] = bias[old.index(name)]
        swapped |= {f"{classifier}.weight": new_weight, f"{classifier}.bias": new_bias}
    logger.warning(
        "new tensors: %s for %d classes; rows copied by name: %s; random rows, to be trained: %s",
        " and ".join(f"{name}.{kind}" for name in classifiers for kind in ("weight", "bias")),
        len(new),
        ", ".join(copied) or "none",
        ", ".join(name for name in new if name not in old) or "none",
    )
    return swapped


def _compare_names(network: FCNHRNet, source: str) -> None:
    """Log one line if the weights' file names its classes differently than the network does."""
    claimed = claimed_classes(network.provenance)
    pairs = list(zip_longest(claimed, network.classes))
    different = [
        f"{index} is {claim!r} in the file and {ours!r} here"
        for index, (claim, ours) in enumerate(pairs)
        if _letters(claim) != _letters(ours)
    ]
    if claimed and different:
        logger.warning(
            "%s disagrees about the names of its classes: %d of %d differ (%s%s); those here are used",
            *(source, len(different), len(pairs), ", ".join(different[:3]), ", ..." if len(different) > 3 else ""),
        )


def _letters(name: str | None) -> str | None:
    """Normalize a class name: "Traffic light" and "traffic_light" are the same."""
    return name and "".join(letter for letter in name.casefold() if letter.isalnum())


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device; None: CUDA if there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).item()  # fails on the device "meta", which has no values
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has no class for it
        cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ConfigError(
            asked=f"a model on the device {device!r}",
            found=f"torch cannot use it: {str(error).splitlines()[0][:200]}",
            done="nothing was created",
            advice=f"devices here: {', '.join(['cpu', *cuda])}; or leave device out",
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
    """Return the requested class names; none for the dataset's own."""
    if classes is None:
        return ()
    try:
        names = tuple(f"class {index}" for index in range(min(operator.index(classes), MAX_CLASSES + 1)))  # type: ignore[arg-type]
    except TypeError:  # no whole number, so names
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
            advice="at least two classes are required; add a background class",
        )
    return names
