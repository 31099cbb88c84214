r"""Train the bundled demo checkpoint: FCN-HRNet-W18-Small on generated street scenes, from nothing, in minutes.

    python examples/train_demo.py --out fcn_hr18s_demo.pth --device cuda --workers 15
    python examples/train_demo.py --out fcn_hr18s_demo.pth --device cpu --workers 1 --minutes 60 --batch 8 --fresh 1 \
        --pool 1500 --crop 256 256 --zoom 0.2 --bfloat16

The defaults are for a GPU and have not been tried on one. The bundled checkpoint was made about as in the second
way, on two cores of a CPU that computes in bfloat16, but in four runs: MODEL_CARD.md tells.

Worker processes draw fresh scenes without end; the newest of them wait on the device in a pool from which every step
takes a random batch, so that drawing and learning do not wait for each other. The learning rate follows the clock.
The result has the format of the published checkpoints, in float16, and is renamed to end in the first eight hex digits
of its own SHA-256. It is then read back and scored, in float32, on the evaluation scenes, which training never draws.
"""

import argparse
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hrnet_zoo import __version__
from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.scenes import EVALUATION_SEEDS, TRAINING_SEEDS_START, UNLABELED, scene
from hrnet_zoo.images.preprocess import MEAN, STD
from hrnet_zoo.inference.metrics import class_iou, count_matrix
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import BasicBlock, Bottleneck
from hrnet_zoo.zoo.create import initialize

SAVE_EVERY = 120.0  # seconds


def main() -> None:
    """Train, save, score."""
    args = arguments()
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    model = FCNHRNet("hr18s", SCENES).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if args.init:
        model.load_state_dict(torch.load(args.init, map_location=device, weights_only=True)["state_dict"], strict=True)
    else:
        begin_as_identity(model)
    follow = get_ema_multi_avg_fn(0.995)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    pool = Pool(args, device)
    steps = train(model, average, pool, args)
    save(average.module, args.out, steps, args)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    final = args.out.rename(args.out.with_name(f"{args.out.stem}-{digest[:8]}.pth"))
    print(f"{final}: {final.stat().st_size:,} bytes, sha256 {digest}")
    score(final, device, args)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write, e.g. fcn_hr18s_demo.pth")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for the training itself (default: 8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=15, help="processes that draw scenes (default: 15)")
    parser.add_argument("--batch", type=int, default=32, help="scenes a step (default: 32)")
    parser.add_argument("--fresh", type=int, default=12, help="new scenes that join the pool each step (default: 12)")
    parser.add_argument("--pool", type=int, default=8192, help="scenes kept on the device, 1.2 MB each (default: 8192)")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 768), metavar=("H", "W"), help="of a scene")
    parser.add_argument("--crop", type=int, nargs=2, default=(384, 512), metavar=("H", "W"), help="of a training view")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate (default: 0.002)")
    parser.add_argument("--zoom", type=float, default=0.3, help="spread of the random sizes, as a power of e (0.3)")
    parser.add_argument("--settle", type=float, default=0.25, help="share of the time without levelling (0.25)")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, help="default: on CUDA alone")
    parser.add_argument("--init", type=Path, help="go on from the weights in this file, instead of random ones")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.bfloat16 is None:
        args.bfloat16 = args.device.startswith("cuda")
    return args


class FreshScenes(IterableDataset[tuple[Tensor, Tensor]]):
    """Every training scene once, shared out among the workers."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        seed = TRAINING_SEEDS_START + index
        while True:
            drawn = scene(seed, *self.size)
            yield torch.from_numpy(drawn.image), torch.from_numpy(drawn.mask)
            seed += workers


class Pool:
    """The newest scenes, on the device: images (N, H, W, 3) and masks (N, H, W), uint8."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        loader = DataLoader(
            FreshScenes(tuple(args.size)),
            batch_size=args.fresh,
            num_workers=args.workers,
            prefetch_factor=3 if args.workers else None,
            multiprocessing_context="spawn" if args.workers else None,
            pin_memory=device.type == "cuda",
        )
        self.stream = iter(loader)
        self.images = torch.empty((args.pool, *args.size, 3), dtype=torch.uint8, device=device)
        self.masks = torch.empty((args.pool, *args.size), dtype=torch.uint8, device=device)
        self.made = 0
        while self.made < min(args.pool, 8 * args.batch):
            self.refresh()

    def refresh(self) -> None:
        """Let the next fresh scenes take the place of the oldest."""
        images, masks = next(self.stream)
        places = torch.arange(self.made, self.made + len(images)) % len(self.images)
        places = places.to(self.images.device)
        self.images[places] = images.to(self.images.device, non_blocking=True)
        self.masks[places] = masks.to(self.masks.device, non_blocking=True)
        self.made += len(images)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Give random scenes: normalized images (count, 3, H, W) float32 and masks (count, H, W) int64."""
        device = self.images.device
        chosen = torch.randint(min(self.made, len(self.images)), (count,), device=device)
        return normalize(self.images[chosen].permute(0, 3, 1, 2).float()), self.masks[chosen].long()


def normalize(images: Tensor) -> Tensor:
    """Bring RGB values of 0-255 to the range of the published networks."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def vary(images: Tensor, masks: Tensor, crop: tuple[int, int], zoom: float, level: bool) -> tuple[Tensor, Tensor]:
    """Take a view of every scene (crop, flip, size) in varied light and color.

    With `level`, somewhere in the view lies a pixel of a class drawn with equal chances among those of the scene, so
    that rare classes come often; else the view lies anywhere, and classes come as often as they do.
    """
    count, _, height, width = images.shape
    device = images.device
    scale = torch.exp(torch.randn(count, device=device) * zoom).clamp(0.5, 2.0)
    flip = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    size = torch.tensor([width, height], device=device)
    seen = torch.tensor(crop[::-1], device=device) / scale[:, None]  # (x, y) pixels of the scene
    free = (size - seen).clamp(min=0)
    corner = torch.rand(count, 2, device=device) * (free + 1)
    if level:
        corner = torch.stack([interesting(mask) for mask in masks]) - torch.rand(count, 2, device=device) * seen
    corner = corner.clamp(min=0).minimum(free).floor()  # whole pixels: unzoomed, unresampled
    view, shift = seen / size, (2 * corner + seen) / size - 1
    theta = images.new_zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = view[:, 0] * flip, view[:, 1], shift
    grid = F.affine_grid(theta, [count, 3, *crop], align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    labels = F.grid_sample(masks[:, None].float() + 1, grid, mode="nearest", align_corners=False)[:, 0].long() - 1
    labels = torch.where(labels < 0, UNLABELED, labels)
    contrast = 1 + 0.25 * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
    tint = 1 + 0.08 * torch.randn(count, 3, 1, 1, device=device)
    brightness = 0.25 * torch.randn(count, 1, 1, 1, device=device)
    return (images * contrast * tint + brightness).contiguous(memory_format=torch.channels_last), labels


def interesting(mask: Tensor) -> Tensor:
    """Draw a class of a mask (H, W), then one of its pixels; return (x, y)."""
    present = mask.flatten().bincount().nonzero()
    places = (mask == present[torch.randint(len(present), ())]).nonzero()
    place: Tensor = places[torch.randint(len(places), ())]
    return place.flip(0)


def begin_as_identity(model: FCNHRNet) -> None:
    """Draw weights at random, and let every residual block begin as the identity."""
    initialize(model)
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def loss_of(scores: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy plus the mean soft Dice loss of the classes present, on every second row and column."""
    row, column = torch.randint(2, (2,)).tolist()  # half a pixel to either side, so none on average
    labels = labels[:, row::2, column::2]
    scores = F.interpolate(scores.float(), labels.shape[-2:], mode="bilinear", align_corners=False)
    entropy = F.cross_entropy(scores, labels, weight, ignore_index=UNLABELED)
    known = labels != UNLABELED
    target = torch.where(known, labels, 0)
    shares = scores.softmax(1) * known[:, None]
    area = torch.bincount(target[known], minlength=len(weight)).float()
    hits = torch.zeros_like(area).index_add(0, target.flatten(), shares.gather(1, target[:, None]).flatten())
    dice = 2 * hits / (shares.sum((0, 2, 3)) + area).clamp(min=1)
    loss: Tensor = entropy + 0.5 * (1 - dice[area > 0].mean())
    return loss


def train(model: FCNHRNet, average: AveragedModel, pool: Pool, args: argparse.Namespace) -> int:
    """Train `model` for the time given, `average` following it; return the number of steps."""
    area = torch.bincount(pool.masks[: min(pool.made, args.pool)].flatten().long(), minlength=256)[:19].float()
    weight = (area.mean() / area.clamp(min=1)).pow(0.2).clamp(0.4, 4.0)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, fused=args.device.startswith("cuda"))
    budget, begin = 60 * args.minutes, time.monotonic()
    reported, saved, seen, steps = begin, begin, 0, 0
    model.train()
    while (done := (time.monotonic() - begin) / budget) < 1:
        rate = args.lr * min(1.0, done / 0.04 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pool.refresh()
        # In the end, scenes as they are judged: at their size, and classes as often as they come.
        early = done < 1 - args.settle
        images, labels = vary(*pool.draw(args.batch), tuple(args.crop), args.zoom if early else 0.0, early)
        with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bfloat16):
            scores = model.decode_head(model.backbone(images))
        loss = loss_of(scores, labels, weight if early else torch.ones_like(weight))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(model)
        steps, seen, now = steps + 1, seen + args.batch, time.monotonic()
        if now - reported > 20:
            print(
                f"step {steps:6d}  loss {loss.item():.4f}  lr {rate:.2e}  {seen / (now - reported):6.0f} images/s  "
                f"{pool.made:7d} scenes  {budget - (now - begin):4.0f} s left",
                flush=True,
            )
            reported, seen = now, 0
        if now - saved > SAVE_EVERY:
            save(average.module, args.out, steps, args)
            saved = now
    return steps


def save(model: nn.Module, path: Path, steps: int, args: argparse.Namespace) -> None:
    """Write a checkpoint in the published format, with float16 in place of float32."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        state[name] = value.half() if value.is_floating_point() else value
        if not state[name].isfinite().all():
            raise SystemExit(f"{name} does not fit into float16 (largest value {value.abs().max().item():g})")
    meta: dict[str, Any] = {
        "CLASSES": list(SCENES.classes),
        "PALETTE": [list(color) for color in SCENES.palette],
        "iter": steps,
        "seed": args.seed,
        "exp_name": "fcn_hr18s_demo",
        "config": f"hrnet-zoo {__version__} examples/train_demo.py: {args.minutes} minutes, batch {args.batch}, "
        f"crop {tuple(args.crop)}, learning rate {args.lr}",
    }
    partial = path.with_name(path.name + ".part")
    torch.save({"meta": meta, "state_dict": state}, partial, _use_new_zipfile_serialization=False)
    partial.replace(path)


@torch.inference_mode()
def score(path: Path, device: torch.device, args: argparse.Namespace) -> None:
    """Read the checkpoint back, widen it to float32 and print IoU by class over the evaluation scenes."""
    torch.backends.cudnn.allow_tf32 = False
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = FCNHRNet("hr18s", SCENES)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True)
    model.eval().to(device)
    classes = len(SCENES.classes)
    counts = np.zeros((classes, classes), dtype=np.int64)
    for seed in EVALUATION_SEEDS:
        drawn = scene(seed, *args.size)
        image = normalize(torch.from_numpy(drawn.image).permute(2, 0, 1)[None].float().to(device))
        counts += count_matrix(drawn.mask, model(image).argmax(1)[0].cpu().numpy(), classes)
    iou, pixels = 100 * class_iou(counts), counts.sum(axis=1)
    for name, value, number in zip(SCENES.classes, iou, pixels, strict=True):
        print(f"{name:15s} {value:6.2f}   {number:10,d} pixels")
    print(f"mIoU {np.nanmean(iou):.2f}   {len(EVALUATION_SEEDS)} scenes, {np.count_nonzero(pixels)} classes")


if __name__ == "__main__":
    main()
