"""What `optimize` gains on a GPU: one command, one dated table in Markdown.

    python examples/benchmark_cuda.py > table.md

Random weights, random pictures of 512x1024, float16. All variants of a network take turns, so that what else the
machine does meets all alike; compare only figures of one table. The roof is what this GPU would need if each step of
the plan took the longer of its arithmetic, at the rate of a large matrix product, and its memory traffic, inputs and
weights read once and results written once, at the rate of a large copy; both rates are measured first.
"""

import argparse
import copy
import datetime
import functools
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from hrnet_zoo import create_model, optimize
from hrnet_zoo.costs import Cost, machine_of, measure
from hrnet_zoo.engines.gpu_plan import regroup
from hrnet_zoo.engines.padding import pad, padded
from hrnet_zoo.engines.plan import Convolution, Head, make_plan
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.prediction import evaluating, make_mask
from hrnet_zoo.scores import ScoreMap, Window

# Classes, size of the network's input, size of the picture.
MASKS = [(19, (1024, 2048), (1024, 2048)), (150, (512, 683), (512, 683)), (19, (512, 1024), (1024, 2048))]


class Roof(fx.Interpreter):
    """The least time that a plan takes, step by step, by the rates of arithmetic and memory."""

    def __init__(self, plan: fx.GraphModule, flops: float, bandwidth: float, size: int) -> None:
        super().__init__(plan)
        self.flops, self.bandwidth, self.bytes_each = flops, bandwidth, size
        self.seconds = self.operations = 0.0
        self.bytes = 0

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - as torch has it
        """Count a step while shapes go through it."""
        result = super().call_module(target, args, kwargs)
        step = self.fetch_attr(target)
        operations = 0
        if isinstance(step, Convolution):
            operations = 2 * result.numel() * step.weight[0].numel()
        elif isinstance(step, Head):  # each map is mixed at its own size, and nothing between is stored
            mixed = len(step.mix.bias)
            operations = sum(2 * each.numel() * mixed for each in args) + 2 * result.numel() * mixed
        moved = sum(each.numel() for each in (*args, result)) + sum(each.numel() for each in step.buffers())
        self.operations += operations
        self.bytes += moved * self.bytes_each
        self.seconds += max(operations / self.flops, moved * self.bytes_each / self.bandwidth)
        return result


def roof(model: FCNHRNet, shape: tuple[int, ...], dtype: torch.dtype, rates: tuple[float, float]) -> Roof:
    """Count a network's plan for pictures (N, 3, H, W)."""
    plan = pad(regroup(make_plan(model))).to("meta")
    counted = Roof(plan, *rates, torch.finfo(dtype).bits // 8)
    counted.run(torch.empty(shape[0], padded(3), *shape[2:], device="meta"))
    return counted


def measured_rates(device: torch.device, dtype: torch.dtype, seconds: float) -> tuple[float, float]:
    """Return operations per second of a large matrix product, and bytes per second of a large copy."""
    side, length = (8192, 1 << 30) if device.type == "cuda" else (256, 1 << 22)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randint(255, (length,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    costs = measure({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, device, seconds, progress=False)
    return 2 * side**3 / costs["product"].median, 2 * length / costs["copy"].median


def network_rows(args: argparse.Namespace, rates: tuple[float, float], dtype: torch.dtype) -> Iterator[str]:
    """Time the networks: normalised pictures on the device to scores at a quarter of their size."""
    for arch in args.archs:
        model = create_model(f"fcn_{arch}_cityscapes_40k", pretrained=False, device=args.device, dtype=dtype)
        released = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        fast = optimize(model, engine=args.engine, dtype=dtype)
        compiled: Callable[[Tensor], Tensor] | None = None
        if args.compile:
            compiled = torch.compile(model.quarter_scores, mode="max-autotune")
        for batch in args.batches:
            shape = (batch, 3, *args.size)
            planar = torch.randn(shape, device=args.device).to(dtype)
            x = planar.contiguous(memory_format=torch.channels_last)
            runs: dict[str, Callable[[], object]] = {
                "eager, as released": functools.partial(released.quarter_scores, planar),
                "eager, channels_last": functools.partial(model.quarter_scores, x),
                **({"torch.compile, max-autotune": functools.partial(compiled, x)} if compiled else {}),
                f"optimize: {fast.engine}": functools.partial(fast.quarter_scores, x),
            }
            with evaluating(model), fast.evaluating():
                expected, found = model.quarter_scores(x).float(), fast.quarter_scores(x).float()
                off = float((found - expected).abs().max() / expected.abs().max())
                for run in runs.values():
                    for _ in range(3):  # a graph is captured at the second run
                        run()
                costs = measure(runs, model.device, args.seconds, progress=False)
            least = roof(model, shape, dtype, rates).seconds
            note = functools.partial(speed, batch=batch, least=least)
            yield from rows(f"{arch}, batch {batch}", costs, note, {f"optimize: {fast.engine}": f"; off by {off:.1e}"})


def mask_rows(args: argparse.Namespace, dtype: torch.dtype) -> Iterator[str]:
    """Time scores at a quarter of the size to the mask on the CPU."""
    for classes, inner, outer in MASKS if args.device.type == "cuda" else [(5, (32, 64), (48, 96))]:
        coarse = torch.randn(1, classes, -(-inner[0] // 16), -(-inner[1] // 16), device=args.device)
        scores = F.interpolate(coarse, (-(-inner[0] // 4), -(-inner[1] // 4)), mode="bicubic").to(dtype)
        view = ScoreMap(
            (Window(slice(0, inner[0]), slice(0, inner[1]), scores[0].permute(1, 2, 0).contiguous()),), *inner
        )

        def plain(
            scores: Tensor = scores, inner: tuple[int, int] = inner, outer: tuple[int, int] = outer
        ) -> np.ndarray[Any, Any]:
            large = F.interpolate(scores.float(), inner, mode="bilinear", align_corners=False)
            if inner != outer:
                large = F.interpolate(large, outer, mode="bilinear", align_corners=False)
            labels: np.ndarray[Any, Any] = large.argmax(dim=1)[0].to("cpu", torch.uint8).numpy()
            return labels

        ours = functools.partial(make_mask, [view], *outer)
        same = float(np.mean(plain() == ours()))
        costs = measure({"interpolate, argmax": plain, "make_mask": ours}, args.device, args.seconds, progress=False)
        name = f"scores to mask, {classes} classes, {inner[0]}x{inner[1]} to {outer[0]}x{outer[1]}"
        yield from rows(name, costs, memory, {"make_mask": f"; {same:.4%} of pixels alike"})


def prediction_rows(args: argparse.Namespace, dtype: torch.dtype) -> Iterator[str]:
    """Time `predict` of a picture in memory, also with scales and flips."""
    model = create_model(f"fcn_{args.archs[0]}_cityscapes_40k", pretrained=False, device=args.device, dtype=dtype)
    fast = optimize(model, engine=args.engine, dtype=dtype)
    model.dataset = fast.dataset = copy.copy(model.dataset)
    object.__setattr__(model.dataset, "box", (max(args.size), min(args.size)))  # not to be resized
    picture = np.random.default_rng(0).integers(0, 256, (*args.size, 3), np.uint8)
    for ms_flip in (False, True):
        runs = {
            name: functools.partial(each.predict, picture, ms_flip=ms_flip, progress=False)
            for name, each in (("network", model), (f"optimize: {fast.engine}", fast))
        }
        for run in runs.values():
            for _ in range(3):
                run()
        costs = measure(runs, args.device, args.seconds, progress=False)
        yield from rows(f"predict, {args.archs[0]}{', scales and flips' if ms_flip else ''}", costs, memory)


def rows(
    what: str, costs: dict[str, Cost], note: Callable[[Cost], str], more: dict[str, str] | None = None
) -> Iterator[str]:
    """Write rows of the table; the first variant is what the others are compared with."""
    first = next(iter(costs.values())).median
    for name, cost in costs.items():
        figures = f"{cost.median * 1e3:.3f} | {cost.p10 * 1e3:.3f} to {cost.p90 * 1e3:.3f} | {first / cost.median:.2f}x"
        yield f"| {what} | {name} | {figures} | {note(cost)}{(more or {}).get(name, '')} |"


def speed(cost: Cost, batch: int, least: float) -> str:
    """Say how many pictures a second that is, and what share of what the GPU could do."""
    return f"{batch / cost.median:.0f}/s, {least / cost.median:.1%} of the roof"


def memory(cost: Cost) -> str:
    """Say what a run took at its peak."""
    return "" if cost.peak_memory is None else f"peak {cost.peak_memory / 1e6:.0f} MB"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="cpu: to see whether it runs")
    parser.add_argument("--engine", help="of optimize; the best for the device if it is not given")
    parser.add_argument("--archs", nargs="+", default=["hr18s", "hr18", "hr48"], choices=["hr18s", "hr18", "hr48"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--size", nargs=2, type=int, default=[512, 1024], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each group of rows, at least")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes for each network and batch")
    parser.add_argument("--search", action="store_true", help="let cuDNN try its algorithms, for all variants")
    args = parser.parse_args()
    if args.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: --device cpu runs it to see whether it does")
    torch.backends.cudnn.benchmark = args.search
    dtype = torch.float16 if args.device.type == "cuda" else torch.float32
    with torch.inference_mode():
        rates = measured_rates(args.device, dtype, args.seconds)
        machine = machine_of(torch.empty(0, dtype=dtype, device=args.device))
        names = [name for name in ("triton", "hrnet-zoo") if any(importlib.metadata.distributions(name=name))]
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        print(
            f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC: {machine.device_name}, {machine.dtype}"
        )
        print(f"torch {machine.torch}, {versions}, Python {platform.python_version()}; cudnn.benchmark={args.search}")
        print(f"matrix product {rates[0] / 1e12:.3g} TFLOP/s, copy {rates[1] / 1e12:.3g} TB/s (read and written)\n")
        print(f"pictures of {args.size[0]}x{args.size[1]}\n")
        print("| what | variant | median ms | 10 to 90 % | gain | |\n|---|---|---|---|---|---|")
        for row in network_rows(args, rates, dtype):
            print(row, flush=True)
        for row in mask_rows(args, dtype):
            print(row, flush=True)
    for row in prediction_rows(args, dtype):
        print(row, flush=True)


if __name__ == "__main__":
    main()
