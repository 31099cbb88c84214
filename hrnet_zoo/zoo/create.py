"""Model name -> network or backbone with its weights: resolve, build, load, finish."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn

from hrnet_zoo.datasets.dataset import RGB_BANDS
from hrnet_zoo.errors import ConfigError, no_such_argument, redact
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.fork_safety import refuse_after_fork
from hrnet_zoo.models.hrnet import SPECS, HRNet
from hrnet_zoo.models.skip_init import skip_init
from hrnet_zoo.weights.convert import STEM, backbone_shapes, claimed_classes, with_bands, with_classes
from hrnet_zoo.weights.state_dict import unwrap_backbone
from hrnet_zoo.zoo.catalog import IMAGENET
from hrnet_zoo.zoo.resolve import is_arch, load_custom, load_published, resolve, resolve_arch

MAX_CLASSES = 255  # of a label map's 256 values, 255 is kept for pixels without a label
IMAGENET_LICENSE = "ImageNet: non-commercial research and education only, see https://image-net.org/download.php"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INSTEAD = {
    **dict.fromkeys(("num_classes", "nc", "n_classes"), "classes=: names, or their number"),
    **dict.fromkeys(("weights", "ckpt", "checkpoint_path", "path"), "checkpoint=: path or address of a file"),
    **dict.fromkeys(("torch_dtype", "precision"), "dtype="),
    "revision": 'the name: "hf-hub:ORG/NAME@REVISION"',
    **dict.fromkeys(("in_channels", "in_chans"), "bands=, mean=, std=: names and statistics of the bands"),
    "features_only": "create_backbone(name): maps at four strides",
}
N = TypeVar("N", bound=nn.Module)

logger = logging.getLogger("hrnet_zoo")


@torch.inference_mode(mode=False)  # a network created in inference mode can be trained, too
def create_model(
    name: str | Path,
    pretrained: bool | str = True,
    *,
    checkpoint: str | Path | None = None,
    classes: int | Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
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
            branch or tag. With `classes`, and pretrained="imagenet", False or a checkpoint, also a network alone with
            the FCN head: "hr18s", "hr18", "hr32", "hr40" or "hr48".
        pretrained: True: the published (or saved) weights; "imagenet": a backbone with the weights that the published
            trainings began with, and a random head, to be trained; False: random weights.
        checkpoint: path or address of a .pth or .safetensors to load instead of the published file, into the network
            that `name` describes. What training scripts wrap around the weights is removed, and one log line says
            what. If a file has averaged weights besides the plain ones, those under "state_dict" are taken, else the
            plain ones.
        classes: names of the classes, or their number. With the published weights: a new classifier; rows are copied
            for class names that the pretrained one has, and random for the others. With `checkpoint`: the classes of
            the file's own classifier, where they differ from those of `name`.
        bands: names of the bands of other images than 8-bit RGB, such as ["red", "green", "blue", "nir"]; the model
            then takes arrays (height, width, bands), TIFF and .npy files (`hrnet_zoo.images.bands`). Filters of bands
            that the weights know are kept; the others share equally those of the bands that are missing, or get zeros.
            With `checkpoint`: the bands of the file's own network.
        mean: of each band, in the values of the images.
        std: standard deviation of each band, likewise.
        device: None: CUDA if there is one, else the CPU. torch's default device and dtype have no effect.
        dtype: of the weights and the arithmetic: a torch dtype, or its name ("bfloat16"). None: float16 on CUDA,
            float32 elsewhere.
        generator: draws random weights; None: torch's default generator.
        progress: show a bar for a download on a terminal, else a line once a minute; the Hub's own bars obey
            HF_HUB_DISABLE_PROGRESS_BARS.
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
    _require_start(pretrained, checkpoint)
    device = usable_device(device)
    dtype = _usable_dtype(dtype, device)
    names, name = _class_names(classes), str(name)
    if is_arch(name) and (checkpoint is not None or pretrained is not True):
        if not names:
            raise ConfigError(
                asked=f"the network {name} without classes",
                found="no dataset belongs to it",
                done="nothing was created",
                advice='name the classes: classes=["background", "road", ...], or --classes background,road,...',
            )
        model = resolve_arch(name)
    else:
        model = resolve(name, progress=progress)
    dataset = model.dataset.with_bands(bands, mean, std)
    dataset = dataset.with_classes(names) if names else dataset
    if pretrained == "imagenet":
        with skip_init():
            dataset = replace(dataset, data_license=IMAGENET_LICENSE)
            network = FCNHRNet(model.arch, dataset, model.info, model.name, model.method)
        network.provenance = _load_imagenet(network.backbone, model.arch, dataset.bands, progress=progress)
        initialize(network.decode_head.to_empty(device="cpu"), generator)
    elif not pretrained:
        network = FCNHRNet(model.arch, dataset, model.info, model.name, model.method)
        initialize(network, generator)
    else:
        with skip_init():
            network = FCNHRNet(model.arch, dataset, model.info, model.name, model.method)
        shapes = {key: entry.shape for key, entry in network.state_dict().items()}
        if checkpoint is not None:
            state, network.provenance = load_custom(str(checkpoint), model.arch, shapes, progress=progress)
        else:
            old = model.dataset
            state, network.provenance = model.load(with_bands(with_classes(shapes, len(old.classes)), len(old.bands)))
            if names:
                state = _swap_classifiers(state, [*network.classifiers], old.classes, names, generator)
            if dataset.bands != old.bands:
                state = {**state, STEM: _new_stem(state[STEM], old.bands, dataset.bands)}
        _assign(network, state)
        # A list of new classes for the published weights, or a number of them, has nothing to be compared with.
        if not names or (checkpoint is not None and isinstance(classes, Sequence)):
            _compare_names(network, redact(str(checkpoint)) if checkpoint is not None else model.source)
    return _placed(network, device, dtype)


@torch.inference_mode(mode=False)
def create_backbone(
    name: str | Path,
    pretrained: bool | str = True,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    progress: bool = True,
) -> HRNet:
    """Create HRNet alone, in eval mode: four feature maps for a head of your own.

    It takes images (N, 3, H, W) and returns a list of maps (N, C, ceil(H / S), ceil(W / S)), finest first. C are its
    `channels`, such as (18, 36, 72, 144) for "hr18"; S are its `strides`, (4, 8, 16, 32). Images are RGB, normalized
    by (x - mean) / std; for values from 0 to 255, mean is (123.675, 116.28, 103.53), std (58.395, 57.12, 57.375).

    Args:
        name: a network: "hr18s", "hr18", "hr32", "hr40" or "hr48"; or a model as `create_model` takes it, whose
            backbone is returned.
        pretrained: True: the weights of that model, or ImageNet's for a network; "imagenet": ImageNet's; False:
            random weights from torch's default generator.
        checkpoint: path or address of a .pth or .safetensors that has a backbone of this size: of mmsegmentation, an
            ImageNet classifier of HRNet, or a segmentation network of HRNet's authors. All of the backbone's entries
            must be there; heads are left out, and one log line says which. Maps are resized as in mmsegmentation
            (bilinear, align_corners=False), whatever the file's network did.
        device: None: CUDA if there is one, else the CPU.
        dtype: None: float16 on CUDA, float32 elsewhere. To train it, say "float32".
        progress: show a bar for a download on a terminal, else a line once a minute.

    Raises:
        UnknownModelError, ConfigError, DownloadError, HubError, CheckpointError, CacheError: as `create_model`.

    """
    _require_start(pretrained, checkpoint)
    name, is_bare = str(name), is_arch(str(name))
    if pretrained is True and checkpoint is None and not is_bare:
        return create_model(name, device=device, dtype=dtype, progress=progress).backbone
    device = usable_device(device)
    dtype = _usable_dtype(dtype, device)
    arch = name if is_bare else resolve(name, progress=progress).arch
    if not pretrained:
        backbone = HRNet(SPECS[arch])
        initialize(backbone)
        return _placed(backbone, device, dtype)
    with skip_init():
        backbone = HRNet(SPECS[arch])
    if checkpoint is None:
        _load_imagenet(backbone, arch, RGB_BANDS, progress=progress)
    else:
        shapes, key = backbone_shapes(arch), f"{arch}-backbone"
        _assign(backbone, load_custom(str(checkpoint), key, shapes, progress=progress, unwrap=unwrap_backbone)[0])
    return _placed(backbone, device, dtype)


def _require_start(pretrained: object, checkpoint: object) -> None:
    is_known = isinstance(pretrained, bool) or pretrained == "imagenet"
    if not is_known or (checkpoint is not None and pretrained is not True):
        raise ConfigError(
            asked=f"a model with pretrained={pretrained!r} and checkpoint={checkpoint!r}",
            found="pretrained is True, 'imagenet' or False, and only True goes with a checkpoint",
            done="nothing was created",
            advice="leave pretrained out, and use checkpoint= for a file of weights",
        )


def _placed(network: N, device: torch.device, dtype: torch.dtype) -> N:
    network.eval()
    if device.type == "cpu" and dtype == torch.float32:
        # channels_last weights would copy the mapped file, and be no faster: CPU kernels reorder weights themselves.
        return network
    refuse_after_fork(device)
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _load_imagenet(backbone: HRNet, arch: str, bands: Sequence[str], *, progress: bool) -> dict[str, str]:
    """Give a backbone its ImageNet weights; return the provenance of their file."""
    state, provenance = load_published(IMAGENET[arch], backbone_shapes(arch), progress=progress)
    if bands != RGB_BANDS:
        state = {**state, "conv1.weight": _new_stem(state["conv1.weight"], RGB_BANDS, bands)}
    _assign(backbone, state)
    logger.warning("%s: %s", IMAGENET[arch].file_name, provenance.get("file_notes", "a backbone alone"))
    return provenance


def initialize(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw random weights as mmsegmentation does: Kaiming normal convolutions, a classifier with a deviation of 0.01.

    Source: `init_cfg` of HRNet, FCNHead and OCRHead in mmsegmentation.
    """
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d)]
    for _, layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    for name, layer in layers:
        if name.endswith("conv_seg"):
            nn.init.normal_(layer.weight, std=0.01, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # of one that was built without values


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


def _new_stem(filters: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    """Return the first filters for the bands `new` in place of `old`.

    Bands that are in `old` keep theirs; the others get equal shares of the sum of those that are missing. So an image
    whose normalized bands are all equal keeps its features; and if none is missing, every image does.
    """
    known, wanted = ([name.strip().casefold() for name in names] for names in (old, new))
    kept = [index for index, name in enumerate(wanted) if name in known]
    others = [index for index, name in enumerate(wanted) if name not in known]
    missing = [index for index, name in enumerate(known) if name not in wanted]
    stem = filters.new_zeros(len(filters), len(new), *filters.shape[2:])
    stem[:, kept] = filters[:, [known.index(wanted[index]) for index in kept]]
    shares = others or kept
    stem[:, shares] += filters[:, missing].sum(1, keepdim=True) / len(shares)
    share = " + ".join(old[index] for index in missing)
    logger.warning(
        "new tensor: %s for %d bands; filters kept by name: %s; %s",
        *(STEM, len(new), ", ".join(new[index] for index in kept) or "none"),
        f"filters of {share}, in equal shares, added to: {', '.join(new[index] for index in shares)}"
        if missing
        else f"zeros, to be trained: {', '.join(new[index] for index in others) or 'none'}",
    )
    return stem


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
