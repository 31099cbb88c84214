"""The API reference, from the docstrings: `python -W error -m tests.support.api_reference` writes it into build/api."""

from pathlib import Path

import pdoc

import hrnet_zoo
from tests.support.tables import ROOT

# Beyond the public names: errors, and what the guides import from further below.
MODULES = ("hrnet_zoo", "hrnet_zoo.errors", "hrnet_zoo.inference.tables", "hrnet_zoo.demo.scenes")


def write(folder: Path) -> None:
    """Write a page for each module."""
    for name in hrnet_zoo.__all__:  # which resolve on first use, for which pdoc does not wait
        setattr(hrnet_zoo, name, getattr(hrnet_zoo, name))
    pdoc.render.configure(docformat="google", footer_text=f"hrnet-zoo {hrnet_zoo.__version__}")
    pdoc.pdoc(MODULES[0], r"!hrnet_zoo\..*", *MODULES[1:], output_directory=folder)


if __name__ == "__main__":
    write(ROOT / "build" / "api")
