"""Fine-tune a network to your own classes, and report what was gained.

python examples/finetune_own_classes.py my_data --out runs/a --model fcn_hr18_cityscapes_160k
python examples/finetune_own_classes.py --out runs/a --compare-with-random

`my_data` holds images/, masks/ and classes.txt (one name a line, in the order of the mask values; 255 is ignored).
Without it, street scenes are drawn first, into `runs/a_data`, with five classes that the bundled demo network does not
have. `--compare-with-random` trains a network with random weights for as many steps, and draws both curves.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import hrnet_zoo
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.splits import find_training_data
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.evaluation.evaluate import read_pair
from hrnet_zoo.inference.metrics import class_iou, count_matrix

# Every class of the scenes that is in no group stays unlabeled.
GROUPS = {
    "ground": ("road", "sidewalk", "terrain"),
    "built": ("building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    "plants": ("vegetation",),
    "sky": ("sky",),
    "traffic": ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
FIRST_SEED = 500_000  # below hrnet_zoo.demo.scenes.TRAINING_SEEDS_START: the demo network has not seen these scenes


def main() -> None:
    """Fine-tune and compare, as the command line says."""
    args = arguments()
    data = args.data
    if data is None:
        data = args.out.with_name(f"{args.out.name}_data")
        draw_scenes(data, args.scenes)
    _, held_out, names = find_training_data(data, val=args.val)  # the parts that `finetune` will find
    torch.manual_seed(0)
    model = hrnet_zoo.create_model(args.model, classes=names, dtype=torch.float32)
    start = hrnet_zoo.create_model(args.model, pretrained=False, classes=names, dtype=torch.float32)
    for each in (model, start):
        each.dataset = replace(each.dataset, resize_to=tuple(args.resize_to or each.dataset.resize_to))

    def train(network: hrnet_zoo.FCNHRNet, folder: Path) -> hrnet_zoo.FineTuning:
        return hrnet_zoo.finetune(
            *(network, data, folder),
            val=args.val,
            steps=args.steps,
            batch=args.batch,
            crop=tuple(args.crop) if args.crop else None,
            lr=args.lr,
            class_weights=args.class_weights,
            validate_every=max(1, args.steps // 8),
            workers=args.workers,
        )

    assert held_out is not None
    before = score(model, held_out)
    run = train(model, args.out)
    after = score(hrnet_zoo.create_model(f"local-dir:{run.folder}", dtype=torch.float32), held_out)
    print(f"{len(held_out.samples)} validation images: IoU in percent before and after {run.steps} updates")
    for name, old, new in zip((*names, "mean"), before, after, strict=True):
        print(f"{name:20s} {old:6.2f} {new:6.2f}")
    if args.compare_with_random:
        other = train(start, args.out.with_name(f"{args.out.name}_random"))
        image = draw_curves({args.model: run.folder, "random weights": other.folder}, args.out / "comparison.png")
        print(f"best mIoU: {run.miou:.2f} from {args.model}, {other.miou:.2f} from random weights; {image}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of labeled images; default: scenes are drawn")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, a model folder in the end")
    parser.add_argument("--model", default="demo", help="where to start (default: demo)")
    parser.add_argument("--val", type=float, help="share to validate on (default: val/, else a tenth; of scenes 0.25)")
    parser.add_argument("--steps", type=int, default=60, help="updates of the weights (default: 60)")
    parser.add_argument("--batch", type=int, default=8, help="images of one update (default: 8)")
    parser.add_argument("--lr", type=float, default=0.01, help="peak learning rate (default: 0.01)")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="size of the training crops")
    parser.add_argument("--resize-to", type=int, nargs=2, metavar=("LONG", "SHORT"), help="images are resized to fit")
    parser.add_argument("--class-weights", choices=["auto"], help="weight rare classes more")
    parser.add_argument("--workers", type=int, help="processes that prefetch images (default: half the processors)")
    parser.add_argument("--scenes", type=int, default=40, help="to draw, if no folder is given (default: 40)")
    parser.add_argument("--compare-with-random", action="store_true", help="train from random weights too")
    args = parser.parse_args()
    if args.val == 0:
        parser.error("without validation images there is nothing to score")
    if args.data is None:
        args.resize_to = args.resize_to or (512, 256)  # the scenes' own size
        args.val = args.val or 0.25  # so few images need more than a tenth for a figure that means something
    return args


def draw_scenes(folder: Path, count: int, height: int = 256, width: int = 512) -> None:
    """Write generated scenes with the classes of GROUPS as images/, masks/ and classes.txt."""
    index = np.full(256, 255, np.uint8)
    known = hrnet_zoo.model_info("demo").classes
    for number, members in enumerate(GROUPS.values()):
        index[[known.index(name) for name in members]] = number
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        drawn = scene(seed, height, width)
        Image.fromarray(drawn.image).save(folder / "images" / f"{seed}.png")
        Image.fromarray(index[drawn.mask]).save(folder / "masks" / f"{seed}.png")
    (folder / "classes.txt").write_text("\n".join(GROUPS) + "\n", encoding="utf-8")


def score(model: hrnet_zoo.FCNHRNet, folder: LabeledFolder) -> list[float]:
    """Return IoU in percent by class (nan: neither there nor seen), and their mean."""
    counts = np.zeros((len(model.classes),) * 2, dtype=np.int64)
    for sample in folder.samples:
        image, truth = read_pair(sample, folder.rule)
        counts += count_matrix(truth, model.predict(image, progress=False).mask, len(model.classes))
    iou = 100 * class_iou(counts)
    return [*iou.tolist(), float(np.nanmean(iou))]


def draw_curves(runs: dict[str, Path], image: Path) -> Path:
    """Draw loss and validation mIoU of several runs over their updates; return the image's path."""
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for title, folder in runs.items():
        log = hrnet_zoo.training_log(f"local-dir:{folder}")
        losses.plot(log.train["iter"], log.train["loss"], linewidth=0.8, label=title)
        scores.plot(log.val["iter"], log.val["mIoU"], marker="o", label=title)
    losses.set(xlabel="update", ylabel="loss", ylim=(0, None))
    scores.set(xlabel="update", ylabel="validation mIoU, percent", ylim=(0, 100))
    scores.legend(loc="lower right")
    figure.savefig(image)
    return image


if __name__ == "__main__":
    main()
