"""Cases for the comparison with the reference: weights that behave like trained ones, small official downloads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from hrnet_zoo.datasets import CITYSCAPES, Dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.images.preprocess import keep_ratio_size, normalize, resize
from hrnet_zoo.images.read import RGB
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import BasicBlock, Bottleneck

Labels = npt.NDArray[np.uint8]

# cityscapesScripts, helpers/labels.py: the official id of each train id. Written out here, and not taken from the
# package, so that a slip there shows.
_OFFICIAL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VOID_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)

# Images and labels of each layout's validation part, for an image's name.
_PLACES = {
    "cityscapes": ("leftImg8bit/val/a/{}_leftImg8bit.png", "gtFine/val/a/{}_gtFine_labelIds.png"),
    "ade20k": ("images/validation/{}.jpg", "annotations/validation/{}.png"),
    "voc12aug": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    **dict.fromkeys(("pascal_context", "pascal_context_59"), ("JPEGImages/{}.jpg", "SegmentationClassContext/{}.png")),
    **dict.fromkeys(("loveda", "potsdam", "vaihingen"), ("img_dir/val/{}.png", "ann_dir/val/{}.png")),
    "isaid": ("img_dir/val/{}.png", "ann_dir/val/{}_instance_color_RGB.png"),
}
_LISTS = {
    "voc12aug": "ImageSets/Segmentation/val.txt",
    **dict.fromkeys(("pascal_context", "pascal_context_59"), "ImageSets/SegmentationContext/val.txt"),
}
# Where names tell what it is.
_NAMES = {
    "loveda": "{:d}",
    "potsdam": "2_13_{:d}_0_512_512",
    "vaihingen": "area6_{:d}_0_512_512",
    "isaid": "P{:04d}_0_896_0_896",
}


def trained_like(arch: str, dataset: Dataset, method: str = "FCN") -> FCNHRNet:
    """Make a network, always the same, that a gray level more or less confuses as little as a trained one.

    With plain random weights such a trifle changes half of the mask, so that two correct systems would disagree.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = FCNHRNet(arch, dataset, method=method)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                _smooth(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(std=0.1)
                module.momentum = None  # the statistics become those of the batch below
        for module in network.modules():
            if isinstance(module, BasicBlock | Bottleneck):  # what a block adds to its input is little
                (module.bn2 if isinstance(module, BasicBlock) else module.bn3).weight.mul_(0.2)
        if method == "OCRNet":  # random weights make almost the same context for all pixels of an image
            network.decode_head[1].object_context_block.bottleneck.conv.weight[:, :512].mul_(0.2)
        # Enlarged, as most images are on their way into the box.
        enlarged = [resize(scene(seed, 320, 480).image, 560, 840) for seed in range(2)]
        images = torch.cat([normalize(image[:448, :512]) for image in enlarged])
        network.train()(images)
        network.eval()
        for place, classifier in enumerate(network.classifiers.values()):
            _classify(classifier, lambda place=place: network.heads_logits(images)[place])  # type: ignore[misc]
    return network


@functools.cache
def random_network(arch: str, method: str = "FCN") -> FCNHRNet:
    """Make a Cityscapes network of random weights and batch-norm statistics, quickly; leave it as it is."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = FCNHRNet(arch, CITYSCAPES, method=method)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    cast(torch.Tensor, tensor).uniform_(0.1, 0.5)
    return network.eval()


def _smooth(weight: torch.Tensor) -> None:
    """Draw weights whose kernels blur rather than sharpen."""
    nn.init.kaiming_normal_(weight)
    if weight.shape[-1] == 3:
        blur = torch.tensor([1.0, 2.0, 1.0]) / 4
        weight.copy_(weight[:, :, 1:2, 1:2] * torch.outer(blur, blur) + weight / 10)


def _classify(classifier: nn.Conv2d, logits: Callable[[], torch.Tensor]) -> None:
    """Scale and shift the logits so that every class has the same mean and spread, and so many classes win."""
    assert classifier.bias is not None
    classifier.bias.zero_()
    spread, mean = torch.std_mean(logits(), dim=(0, 2, 3))
    classifier.weight.mul_(3 / spread[:, None, None, None])
    classifier.bias.copy_(-mean * 3 / spread)


def write_folder(root: Path, network: FCNHRNet, sizes: Sequence[tuple[int, int]]) -> None:
    """Write street scenes of these sizes (height, width) as an official download of the network's dataset.

    The labels are half right: what the network sees, some pixels aside, with blocks of all classes in turn and of
    ignored pixels strewn in. So every class has an area that a few pixels more or less hardly change.
    """
    random = np.random.default_rng(0)
    key = network.dataset.key
    blocks = cycle(random.permutation(len(network.classes)).tolist())
    names = []
    for seed, (height, width) in enumerate(sizes):
        image = scene(seed, height, width).image
        labels = _seen(network, image)
        side = min(height, width) // 16
        for top in range(0, height, side):
            for left in range(0, width, side):
                chance = random.random()
                if chance < 0.3:
                    labels[top : top + side, left : left + side] = next(blocks) if chance > 0.05 else 255
        names.append(_NAMES.get(key, "a_{:06d}_000019").format(seed))
        _write(root, key, names[-1], image, labels)
    if key in _LISTS:
        _made(root / _LISTS[key]).write_text("\n".join(names) + "\n", encoding="utf-8")


def _seen(network: FCNHRNet, image: RGB) -> Labels:
    """Return what the network sees at a quarter of its input's size, brought to the image's and moved aside."""
    height, width = image.shape[:2]
    x = normalize(resize(image, *keep_ratio_size(height, width, network.dataset.resize_to)))
    with torch.inference_mode():
        coarse = network.decode_head(network.backbone(x))[0].argmax(dim=0).to(torch.uint8)
    seen = Image.fromarray(coarse.numpy()).resize((width, height), Image.Resampling.NEAREST)
    return np.roll(np.asarray(seen), (2, -3), axis=(0, 1))


def _write(root: Path, key: str, name: str, image: RGB, labels: Labels) -> None:
    path, truth = (_made(root / place.format(name)) for place in _PLACES[key])
    Image.fromarray(image).save(path, quality=95)
    ignored = labels == 255
    rows, columns = np.nonzero(ignored)
    if key == "cityscapes":
        # The reference reads the train ids, we prefer the official ones.
        Image.fromarray(labels).save(truth.with_name(f"{name}_gtFine_labelTrainIds.png"))
        values = np.append(_OFFICIAL_IDS, np.zeros(256 - len(_OFFICIAL_IDS)))[labels].astype(np.uint8)
        values[ignored] = np.take(_VOID_IDS, (rows + columns) % len(_VOID_IDS))
    elif key in ("ade20k", "pascal_context_59", "loveda", "potsdam", "vaihingen"):
        values = labels + np.uint8(1)  # 255 becomes 0
    elif key == "voc12aug":
        values = labels.copy()
        values[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255  # the border around objects
    else:
        values = labels
    file: Image.Image = Image.fromarray(values)
    if key == "voc12aug":
        file.putpalette(bytes(range(256)) * 3)
    file.save(truth)


def _made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
