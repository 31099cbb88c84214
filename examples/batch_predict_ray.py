"""Label a collection of images with many workers, on one machine or on a Ray cluster.

pip install '.[ray]'  # in the checkout of hrnet-zoo
python examples/batch_predict_ray.py photos/ labels/ --model fcn_hr48_cityscapes_160k --workers 8 --gpus 1

Each worker holds one network. `photos/a/b.jpg` becomes the label map `labels/a/b.jpg.png`, and `labels/shares.csv` gets
the row that `hrnet-zoo predict --table` would write: size, time, place and share of each class, or why there are none.
Every machine has to see both folders under the same path. Without `--address` a Ray of its own is started on this
machine, and ended. `--resume` goes on with the table of a run that was ended.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported: without it, Ray reports home

import numpy as np
import numpy.typing as npt
import ray
import torch

import hrnet_zoo
from hrnet_zoo.inference.tables import TableWriter, error_row, table_columns, table_row

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


class Labeller:
    """A network in a worker of its own; Ray makes as many as there are workers, and keeps them."""

    def __init__(self, model: str, folder: Path, out: Path) -> None:
        # Ray shows a worker those GPUs alone that it may use: none, if it was not promised any.
        self.model = hrnet_zoo.create_model(model, device="cuda" if torch.cuda.is_available() else "cpu")
        self.folder, self.out = folder, out

    def __call__(self, batch: dict[str, npt.NDArray[np.str_]]) -> dict[str, list[str]]:
        """Label the images in the column "image", paths below the folder; return their rows as JSON, of any types."""
        return {"row": [json.dumps(self.label(str(name))) for name in batch["image"]]}

    def label(self, name: str) -> dict[str, Any]:
        """Write the label map of one image; return its row."""
        place = self.out / f"{name}.png"
        try:
            result = self.model.predict(self.folder / name, progress=False)
            row = table_row(self.folder / name, result)
        except hrnet_zoo.errors.ImageError as error:  # one bad file among a million stops nothing, and is told
            return error_row(self.folder / name, error.found)
        place.parent.mkdir(parents=True, exist_ok=True)
        result.save(place)
        return row


def main() -> int:
    """Read the command line and do it; return the exit code: 1 if an image could not be labeled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, at any depth")
    parser.add_argument("out", type=Path, help="for the label maps")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--workers", type=int, default=2, help="networks at work (default: 2)")
    parser.add_argument("--gpus", type=float, default=0, help="of each worker; 0.5: two share one (default: 0)")
    parser.add_argument("--cpus", type=int, default=1, help="of each worker, and threads it computes in (default: 1)")
    parser.add_argument("--batch", type=int, default=8, help="images handed to a worker at once (default: 8)")
    parser.add_argument("--resume", action="store_true", help="skip the images that the table has")
    parser.add_argument("--address", help="of a Ray cluster, such as auto or ray://head:10001")
    args = parser.parse_args()
    folder, out = args.folder.resolve(), args.out.resolve()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        parser.error(f"no images in {folder}")
    model = hrnet_zoo.create_model(args.model, device="cpu")  # a wrong name is told here, and weights are fetched once
    out.mkdir(parents=True, exist_ok=True)
    table = TableWriter(out / "shares.csv", table_columns(model.classes), resume=args.resume)
    names = [name for name in names if not table.has(folder / name)]
    if not names:
        print(f"{table.path} has all images")
        return 0

    logging.disable(logging.INFO)  # Ray Data tells its plans
    own = {} if args.address else {"num_cpus": args.workers * args.cpus, "include_dashboard": False}
    ray.init(address=args.address or "local", log_to_driver=False, logging_level=logging.WARNING, **own)
    labeled = ray.data.from_items([{"image": name} for name in names]).map_batches(
        Labeller,
        fn_constructor_args=(args.model, folder, out),
        batch_size=args.batch,
        compute=ray.data.ActorPoolStrategy(size=args.workers),
        num_cpus=args.cpus,
        num_gpus=args.gpus,
    )
    failed = 0
    with table:
        for each in labeled.iter_rows():  # as they become ready
            row = json.loads(each["row"])
            table.append(row)
            failed += bool(row["error"])
    ray.shutdown()
    print(f"{len(names) - failed} of {len(names)} images labeled; {table.path}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
