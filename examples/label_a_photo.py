"""Label every pixel of a photo: print the shares, write overlay and label map beside it.

python examples/label_a_photo.py demo-out/street.jpg --model fcn_hr48_cityscapes_160k
"""

import argparse
from pathlib import Path

import hrnet_zoo


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()

    model = hrnet_zoo.create_model(args.model)
    result = model.predict(args.photo)
    for name, share in result.fractions().items():
        print(f"{name:20s} {share:6.1%}")
    result.overlay().save(args.photo.with_name(f"{args.photo.stem}_overlay.png"))
    result.save(args.photo.with_name(f"{args.photo.stem}_labels.png"))


if __name__ == "__main__":
    main()
