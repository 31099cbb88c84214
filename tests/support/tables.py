"""The tables of README.md, MODEL_CARD.md and a guide, from the catalog.

`python -m tests.support.tables` writes them; `tests/test_docs.py` fails when they are stale.
"""

import re
from pathlib import Path

from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.zoo.catalog import DEMO, TABLE_ROWS, ModelInfo, list_models, model_info

ROOT = Path(__file__).parents[2]

NETWORKS = {
    "HRNetV2p-W18-Small": "W18-Small: the smallest, for CPUs and many images",
    "HRNetV2p-W18": "W18: deeper, still narrow",
    "HRNetV2p-W48": "W48: the most accurate, for a GPU",
}
SUBJECT = {
    "cityscapes": "streets seen from a car, 19 classes",
    "ade20k": "anything indoors and outdoors, 150 classes",
    "voc12aug": "20 kinds of objects against background",
    "pascal_context": "59 kinds of things and surroundings",
}


def rows(names: list[str]) -> list[ModelInfo]:
    """List the rows of these names."""
    return [model_info(name) for name in names]


def models_table() -> str:
    """Return README's table: of each dataset and network of the FCN table, the row with the highest mIoU."""
    best: dict[str, dict[str, ModelInfo]] = {}
    for row in rows(list_models()[:TABLE_ROWS]):
        of_dataset, network = best.setdefault(row.dataset.key, {}), row.to_dict()["backbone"]
        of_dataset[network] = max(row, of_dataset.get(network, row), key=lambda each: each.miou)
    lines = [f"| | {' | '.join(NETWORKS.values())} |", "|---" * (1 + len(NETWORKS)) + "|"]
    for key, found in best.items():
        cells = (found.get(network) for network in NETWORKS)
        texts = (f"`{row.name}` {row.miou:.2f}, {row.miou_ms_flip:.2f}" if row else "" for row in cells)
        lines.append(f"| **{DATASETS[key].title}**: {SUBJECT[key]} | {' | '.join(texts)} |")
    return "\n".join(lines)


def rows_table(part: slice = slice(TABLE_ROWS)) -> str:
    """Return the model card's table of a part of the rows."""
    lines = [
        "| name | backbone | dataset | crop | iterations | memory (GB) | fps | mIoU | ms+flip | parameters | file |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| `{row.name}` | {row.to_dict()['backbone']} | {row.dataset.title} | {row.crop_size} "
        f"| {row.lr_schedule_iterations:,} | {row.train_memory_gb or '-'} | {row.inference_fps or '-'} "
        f"| {row.miou:.2f} | {row.miou_ms_flip:.2f} "
        f"| {row.parameters:,} | [{row.sha256_prefix}]({row.checkpoint_url}), [log]({row.log_url}) |"
        for row in rows(list_models()[part])
    ]
    return "\n".join(lines)


def further_table() -> str:
    """Return the model card's table of the further rows."""
    return rows_table(slice(TABLE_ROWS, None))


def data_table() -> str:
    """Return the model card's table of datasets."""
    lines = ["| dataset | classes | batch | test size | inference | terms |", "|---|---:|---:|---|---|---|"]
    for data in DATASETS.values():
        long, short = data.resize_to
        inference = "windows of {} px every {} px".format(*data.window) if data.sliding_window else "whole image"
        lines.append(
            f"| {data.title} | {len(data.classes)} | 4 x {data.batch_per_gpu} | within {long} x {short} "
            f"| {inference} | {data.data_license} |"
        )
    return "\n".join(lines)


def demo_table() -> str:
    """Return the facts of the bundled network."""
    return "\n".join(
        (
            "| | |",
            "|---|---|",
            f"| name | `{DEMO.name}` |",
            f"| network | {DEMO.to_dict()['backbone']}, {DEMO.num_classes} classes of Cityscapes, "
            f"{DEMO.parameters:,} parameters |",
            f"| mIoU | {DEMO.miou:.2f} % on 50 generated scenes; "
            f"{DEMO.miou_ms_flip:.2f} % with six scales and mirroring |",
            f"| file | `{DEMO.file_name}`, SHA-256 `{DEMO.sha256}` |",
            f"| made | {DEMO.published}, about {DEMO.lr_schedule_iterations:,} iterations of 8 crops |",
        )
    )


def demo_figures() -> str:
    """Return the sentence about what the demo network scores."""
    return (
        "On 50 scenes (`--scenes 50`), none of them seen in training, the demo network scores\n"
        f"**{DEMO.miou:.2f} %** mIoU at one scale and **{DEMO.miou_ms_flip:.2f} %** with six scales and mirroring."
    )


TABLES = {
    "README.md": {"models": models_table},
    "examples/guide_evaluation.md": {"demo": demo_figures},
    "MODEL_CARD.md": {"rows": rows_table, "further": further_table, "data": data_table, "demo": demo_table},
}


def with_tables(name: str) -> str:
    """Return a document with its tables as they ought to be."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for key, table in TABLES[name].items():
        pattern = rf"(<!-- {key}: begin [^\n]*-->\n).*?(<!-- {key}: end -->)"
        fresh = table().replace("\\", r"\\")
        text, found = re.subn(pattern, rf"\g<1>{fresh}\n\g<2>", text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{name} has {found} places for the table {key}")
    return text


if __name__ == "__main__":
    for document in TABLES:
        updated = with_tables(document)
        (ROOT / document).write_text(updated, encoding="utf-8")
