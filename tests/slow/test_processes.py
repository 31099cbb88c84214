"""A daemonic process evaluates and trains as any other does."""

import json
from pathlib import Path

from tests.support.training_data import write_own_folder
from tests.test_processes import LINUX, script

DAEMONIC = """
import json, logging, multiprocessing, sys
import hrnet_zoo

logging.basicConfig(format="%(message)s")

def work(root, out):
    arguments = dict(workers=2, progress=False)
    run = hrnet_zoo.finetune(
        "demo", root, out, steps=1, batch=2, crop=(64, 64), resize_to=(96, 64), val=0.5, device="cpu", **arguments)
    model = hrnet_zoo.create_model(f"local-dir:{out}", device="cpu")
    print(json.dumps([run.steps, hrnet_zoo.evaluate(model, root, **arguments).miou]))

if __name__ == "__main__":
    if len(sys.argv) > 3:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            pool.starmap(work, [sys.argv[1:3]])
    else:
        work(*sys.argv[1:3])
"""


@LINUX
def test_daemonic_processes_read_with_threads_and_find_the_same(tmp_path: Path) -> None:
    """As in Celery, or in a pool: no process may be started there."""
    root = write_own_folder(tmp_path / "data", 4, height=64, width=96)
    plain = script(DAEMONIC, root, tmp_path / "plain")
    pooled = script(DAEMONIC, root, tmp_path / "pooled", "pool")
    assert json.loads(plain.stdout) == json.loads(pooled.stdout), (plain.stderr, pooled.stderr)
    assert "daemonic" not in plain.stderr
    assert pooled.stderr.count("this process is daemonic and cannot start others: threads prefetch") == 1
