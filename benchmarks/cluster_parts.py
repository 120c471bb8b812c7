"""Parts of `cluster.py`: what is done on the cluster, and what was seen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_nodes import CACHE, Node, shares_a_folder
from cluster_storage import BUCKET, DIGITS

NODES, WORKERS = 5, 4  # a CPU of the cluster has to be free to decode what is streamed
SMALL = [
    *DIGITS,
    *("data.stream=true", "data.shuffle_rows=256", "train.threads=1", "train.precision=fp32"),
    "train.zero_stage=3",
]
# No batch statistics, so that a batch may be cut otherwise; no kinks, which would turn rounding into steps.
SMOOTH = ["model.name=timm/test_vit", "model.width=null", "model.batchnorm=sync"]
RTK = [sys.executable, "-m", "rtk.cli"]
LOST_AT = 18  # of 52 steps: between two checkpoints
SPACE = {
    "objectives": {"val/accuracy": "max"},
    "trials": 3,
    "concurrent": 2,
    "scheduler": {"name": "none"},
    "fixed": {"train.workers": 2, "train.duration": "2ep"},
    "space": {"optimizer.lr": {"loguniform": [0.01, 0.4]}},
}
DIFFERENCE = """
import torch
from rtk.models import build_model
from rtk.runs.folder import RunFolder
from rtk.train.shard_reader import load_saved_weights

def weights(place):
    run = RunFolder.open(place)
    model = build_model(run.config().model, 8, run.config().data.image_size)
    load_saved_weights(run.checkpoints / "last", model, False)
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])

one, other = map(weights, {places})
print((one - other).abs().max().item())
"""
SECONDS = 600.0


@dataclass(frozen=True)
class Cluster:
    """Nodes on which Ray runs.

    Attributes:
        nodes: the first is the head, where commands are typed.
        output: folder for what they say.
    """

    nodes: Sequence[Node]
    output: Path

    def rtk(self, name: str, *command: str) -> subprocess.Popen[str]:
        """Start a command of rtk on the head; what it says goes to `OUTPUT/NAME.log`."""
        with (self.output / f"{name}.log").open("w", encoding="utf-8") as log:
            return self.nodes[0].popen([*RTK, *command], log)

    def said(self, name: str) -> str:
        """What a command has said so far."""
        return (self.output / f"{name}.log").read_text(encoding="utf-8")

    def finish(self, name: str, *command: str) -> float:
        """Run a command of rtk on the head, and return the seconds that it took."""
        started = time.monotonic()
        wait(self.rtk(name, *command), lambda: self.said(name))
        return round(time.monotonic() - started, 1)

    def read(self, run: str, file: str) -> Any:
        """A JSON file of a run as the head has it now; None where there is none yet."""
        path = self.nodes[0].folder(CACHE)
        found = next(path.glob(f"s3/*/runs/{run}/{file}"), None)
        return json.loads(found.read_text(encoding="utf-8")) if found else None


def wait(program: subprocess.Popen[str], said: Callable[[], str]) -> None:
    """Wait for a program to end well."""
    try:
        code = program.wait(SECONDS)
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        raise SystemExit(f"exit code {code}: {said()[-3000:]}")


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> float:
    """Wait for something to come about; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise SystemExit(f"{what}: not in {seconds:g} s")
        time.sleep(0.2)
    return round(time.monotonic() - started, 1)


# ---------------------------------------------------------------- parts


def start(cluster: Cluster) -> dict[str, Any]:
    """Let all nodes join Ray's cluster."""
    started = time.monotonic()
    head, *others = cluster.nodes
    head.join(cpus=1)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda node: node.join(cpus=1), others))
    ask = "import ray; ray.init(logging_level='error', log_to_driver=False); print(len(ray.nodes()))"
    known = int(head.run(sys.executable, "-c", ask).split()[-1])
    common = shares_a_folder(cluster.nodes)
    return {"nodes": known, "common_folders": common, "seconds": round(time.monotonic() - started, 1)}


def train(cluster: Cluster) -> dict[str, Any]:
    """Train on four nodes."""
    seconds = cluster.finish("train", *training("plain"))
    return {"seconds": seconds, "hosts": hosts(cluster, "plain"), "steps": step_of(cluster, "plain")}


def training(name: str, *overrides: str, recipe: str = "digits_ce") -> list[str]:
    """The command that trains a small run."""
    workers = (
        () if any(text.startswith("train.workers") for text in overrides) else (f"train.workers={WORKERS}",)
    )
    common = [*SMALL, "model.width=4", "train.duration=4ep", *workers, f"output={BUCKET}/runs"]
    return ["train", recipe, *common, *overrides, "--name", name]


def hosts(cluster: Cluster, run: str) -> list[str]:
    """Names of the nodes that the ranks of a run are on, as far as they have told."""
    return [rank["host"] for rank in (cluster.read(run, "vitals.json") or {"ranks": []})["ranks"]]


def evaluate(cluster: Cluster) -> dict[str, Any]:
    """Evaluate the run that was trained."""
    seconds = cluster.finish(
        "evaluate", "evaluate", f"{BUCKET}/runs/plain", "--risk", "0.05", "evaluate.actors=2"
    )
    return {"seconds": seconds}


def sweep(cluster: Cluster) -> dict[str, Any]:
    """Three trials of two workers and two seeds in all, two trials at a time; where each was trained."""
    cluster.nodes[0].folder("/tmp/space.yaml").write_text(json.dumps(SPACE), encoding="utf-8")
    given = [*SMALL, "model.width=4", f"output={BUCKET}/runs", "--name", "sweep"]
    seconds = cluster.finish("sweep", "sweep", "/tmp/space.yaml", "digits_ce", *given)
    trials = sorted(re.findall(r"trial \d+: (\w+)", cluster.said("sweep")))
    where = {
        node.name: sorted(
            path.name for path in node.folder(CACHE).glob("s3/*/runs/sweep/trial-*/checkpoints/*/")
        )
        for node in cluster.nodes
    }
    return {"seconds": seconds, "trials": trials, "nodes": [name for name, found in where.items() if found]}


def restart(cluster: Cluster) -> dict[str, Any]:
    """Lose a node that trains, get it back."""
    found = lose_a_node(cluster, "restart", [], "a node is lost")
    return {**found, "bit_equal": files(cluster, "restart") == files(cluster, "plain")}


def elastic(cluster: Cluster) -> dict[str, Any]:
    """Lose a node that trains, go on with fewer workers, get it back."""
    cluster.finish("smooth", *training("smooth", *SMOOTH))
    changing = [*SMOOTH, "train.workers={min: 2, max: 4}", "train.wait_for_workers=1min"]
    found = lose_a_node(cluster, "elastic", changing, "training on 2 of 4")
    workers = re.findall(r"training on (\d) of 4", cluster.said("elastic"))
    return {**found, "workers": workers, "difference": difference(cluster, "elastic", "smooth")}


def lose_a_node(cluster: Cluster, name: str, changes: Sequence[str], noticed: str) -> dict[str, Any]:
    """Train, take the power of a node with a worker, give it back when the run has noticed."""
    started, program = time.monotonic(), cluster.rtk(name, *training(name, *changes))
    until(lambda: is_over(program) or trains(cluster, name), f"step {LOST_AT}")
    trained, step = hosts(cluster, name), step_of(cluster, name)
    lost = next(node for node in cluster.nodes if node.name in trained and not node.is_head)
    lost.kill()
    seconds = until(lambda: is_over(program) or noticed in cluster.said(name), noticed)
    lost.start()
    lost.join(cpus=1)
    wait(program, lambda: cluster.said(name))
    total = round(time.monotonic() - started, 1)
    about = {"seconds": total, "lost": lost.name, "at_step": step, "noticed_after": seconds}
    return {**about, "steps": step_of(cluster, name)}


def is_over(program: subprocess.Popen[str]) -> bool:
    """Whether a program has ended."""
    return program.poll() is not None


def trains(cluster: Cluster, run: str) -> bool:
    """Whether all workers train, and have for some steps."""
    return step_of(cluster, run) >= LOST_AT and len(hosts(cluster, run)) == WORKERS


def step_of(cluster: Cluster, run: str) -> int:
    """The last step that a run has told of."""
    return int((cluster.read(run, "progress.json") or {}).get("step", 0))


def files(cluster: Cluster, run: str) -> dict[str, str]:
    """SHA-256 of the tensors of a run's last checkpoint, by file."""
    last = cluster.read(run, "checkpoints/last.json")["checkpoint"]
    manifest = cluster.read(run, f"checkpoints/{last}/manifest.json")
    return {name: file["sha256"] for name, file in manifest["files"].items() if name.endswith(".safetensors")}


def difference(cluster: Cluster, *runs: str) -> float:
    """Largest difference between the last weights of two runs."""
    program = DIFFERENCE.format(places=[f"{BUCKET}/runs/{run}" for run in runs])
    return float(cluster.nodes[0].run(sys.executable, "-c", program).split()[-1])


PARTS: dict[str, Callable[[Cluster], dict[str, Any]]] = {
    "train": train,
    "evaluate": evaluate,
    "sweep": sweep,
    "restart": restart,
    "elastic": elastic,
}
