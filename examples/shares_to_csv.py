"""Write shares of chosen classes in every image of a folder as CSV, to see how green each street view is.

python examples/shares_to_csv.py photos/ vegetation terrain sky > shares.csv
"""

import argparse
import csv
import sys
from pathlib import Path

import hrnet_zoo


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("classes", nargs="+")
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()

    model = hrnet_zoo.create_model(args.model)
    if unknown := set(args.classes) - set(model.classes):
        parser.error(f"{args.model} does not know {', '.join(sorted(unknown))}; it knows {', '.join(model.classes)}")
    table = csv.writer(sys.stdout)
    table.writerow(["image", *args.classes])
    for image in sorted(args.folder.iterdir()):
        try:
            shares = model.predict(image).fractions()
        except hrnet_zoo.errors.ImageError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            table.writerow([image.name, *(f"{shares.get(name, 0):.4f}" for name in args.classes)])


if __name__ == "__main__":
    main()
