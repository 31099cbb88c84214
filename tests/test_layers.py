"""Imports run one way: a module imports only what stands above it in the listing."""

import ast
import re
from pathlib import Path

import hrnet_zoo

PACKAGE = Path(hrnet_zoo.__file__).parent

# The house, top to bottom. Data sets stand above the catalog, whose rows refer to them; pictures and results above the
# network, which knows of them by name only.
LISTING = [
    "errors",
    "bars",
    "forks",
    "outputs",
    "datasets",
    "datasets.rules",
    "datasets.pairing",
    "datasets.class_list",
    "datasets.layouts",
    "catalog",
    "strict_json",
    "model_config",
    "model_card",
    "tiff",
    "image_files",
    "images",
    "label_pictures",
    "metrics",
    "results",
    "models.empty",
    "models.hrnet",
    "models.fcn",
    "scores",
    "blocks",
    "agreement",
    "masks",
    "engines",
    "engines.heap",
    "costs",
    "weights.addresses",
    "weights.part",
    "weights.request",
    "weights.transfer",
    "weights.owner",
    "weights.cache",
    "weights.opcodes",
    "weights.gate",
    "weights.state_dict",
    "weights.convert",
    "weights.mapping",
    "weights.build",
    "weights.first_seen",
    "weights.published",
    "weights.own",
    "weights.model_folder",
    "weights.hub_errors",
    "weights.hub",
    "weights.origin",
    "logs",
    "upkeep",
    "creation",
    "saving",
    "publishing",
    "checking",
    "reading",
    "prediction",
    "engines.plan",
    "engines.pytorch",
    "engines.onednn",
    "engines.cuda",
    "engines.openvino",
    "engines.quantization",
    "acceleration",
    "ranks",
    "scorecard",
    "evaluation",
    "training.options",
    "training.recipe",
    "training.losses",
    "training.augmentation",
    "training.stream",
    "training.splits",
    "training.balance",
    "training.pictures",
    "training.state",
    "training.network",
    "training.team",
    "training.trainer",
    "training.history",
    "training.interruption",
    "training.run",
    "finetuning",
    "folders",
    "demo.labels",
    "demo.dice",
    "demo.weather",
    "demo.canvas",
    "demo.ground",
    "demo.roadside",
    "demo.people",
    "demo.bodies",
    "demo.vehicles",
    "demo.photograph",
    "demo.scenes",
    "demo.tour",
    "demo.dataset",
    "benchmarking",
    "comparison",
    "fingerprints",
    "reachability",
    "diagnosis",
    "cli.options",
    "cli.listing",
    "cli.locking",
    "cli.logs",
    "cli.files",
    "cli.labelling",
    "cli.evaluating",
    "cli.data",
    "cli.finetuning",
    "cli.sharing",
    "cli.health",
    "cli",
    "__main__",
]
# model.predict(...), which is fast if asked, and model.save_pretrained(...): the doorways from a noun to a verb, which
# open when called.
DOORWAYS = {("models.fcn", "prediction"), ("models.fcn", "acceleration"), ("models.fcn", "saving")}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    del found["__init__"]
    return {name: path for name, path in found.items() if name not in ("models", "weights", "demo", "training")}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hrnet_zoo."):
            module = node.module.removeprefix("hrnet_zoo.")
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in LISTING else module for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module == "hrnet_zoo":
            found |= {alias.name for alias in node.names if alias.name in LISTING}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("hrnet_zoo.") for a in node.names if a.name.startswith("hrnet_zoo.")}
    return found


def test_every_module_is_listed() -> None:
    assert sorted(modules()) == sorted(LISTING)


def test_no_arrow_runs_upwards() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(path)
        if LISTING.index(other) >= LISTING.index(name) and (name, other) not in DOORWAYS
    ]
    assert not wrong


def test_absolute_imports_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_nothing_is_traced() -> None:
    """Tracing patches torch for all threads of the process."""
    words = re.compile(r"\bfx\b|symbolic_trace|make_fx|jit\.trace")
    assert not [path for path in PACKAGE.rglob("*.py") if words.search(path.read_text(encoding="utf-8"))]
