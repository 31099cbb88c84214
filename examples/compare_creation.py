"""Compare three ways to make a network: time, and memory that it adds to the process (on Linux).

python examples/compare_creation.py fcn_hr48_cityscapes_160k

hrnet-zoo: create_model with its file in the cache. plain: the same network, torch.load and load_state_dict of a .pth of
the same weights. timm (if it is installed): its network of the same name, with random weights, so without reading any.
The ways take turns, each in a process of its own, in which everything is imported before.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TIMM = {"hr18s": "hrnet_w18_small_v2", "hr18": "hrnet_w18", "hr48": "hrnet_w48"}


def way(kind: str, name: str, checkpoint: str) -> Callable[[], object]:
    """Import what a way needs, and return it."""
    import hrnet_zoo

    if kind == "hrnet-zoo":
        create = hrnet_zoo.create_model
        return lambda: create(name, device="cpu")
    info = hrnet_zoo.model_info(name)
    if kind == "timm":
        timm = importlib.import_module("timm")
        return lambda: timm.create_model(TIMM[info.arch], pretrained=False)
    import torch

    network = hrnet_zoo.FCNHRNet

    def plain() -> object:
        model = network(info.arch, info.dataset)
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
        return model.eval()

    return plain


def resident_mb() -> float:
    """Return the memory that this process occupies; nan where the system does not tell."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 / 1e6 if status.exists() else float("nan")


def measure(kind: str, name: str, checkpoint: str) -> dict[str, float]:
    """Make one network, and return what it took."""
    make = way(kind, name, checkpoint)
    before, start = resident_mb(), time.perf_counter()
    model = make()
    taken = {"ms": 1000 * (time.perf_counter() - start), "MB": resident_mb() - before}
    del model
    return taken


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="fcn_hr48_cityscapes_160k")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], args.name, args.one[1])))
        return

    import torch

    import hrnet_zoo

    kinds = ["hrnet-zoo", "plain", *(["timm"] if importlib.util.find_spec("timm") else [])]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f"{folder}/weights.pth"
        torch.save(hrnet_zoo.create_model(args.name, device="cpu").state_dict(), checkpoint)
        for _ in range(args.times):
            for kind in kinds:
                command = [sys.executable, __file__, args.name, "--one", kind, checkpoint]
                found[kind].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))  # noqa: S603
    median = {kind: {key: statistics.median(run[key] for run in found[kind]) for key in ("ms", "MB")} for kind in kinds}
    for kind, taken in median.items():
        times = taken["ms"] / median["hrnet-zoo"]["ms"]
        print(f"{kind:<10} {taken['ms']:8.1f} ms {taken['MB']:8.1f} MB {times:6.1f}x")


if __name__ == "__main__":
    main()
