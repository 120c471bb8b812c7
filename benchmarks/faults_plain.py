"""Plain Ray Train where a worker is killed: the loop of its documentation, with a checkpoint an epoch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

STEPS, STEPS_PER_EPOCH, BATCH = 2000, 8, 32


def train_plainly(config: dict[str, Any]) -> None:
    """A ResNet-18 on noise; rank 0 tells of each step in a file."""
    import ray.train
    import ray.train.torch
    import torch
    from torchvision.models import resnet18

    torch.set_num_threads(1)
    model = ray.train.torch.prepare_model(resnet18(num_classes=8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step = 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            kept = torch.load(Path(folder, "state.pt"), weights_only=True)
            model.load_state_dict(kept["model"])
            optimizer.load_state_dict(kept["optimizer"])
            step = kept["step"]
    while step < STEPS:
        images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 8, (BATCH,))
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if ray.train.get_context().get_world_rank() == 0:
            Path(config["told"]).write_text(json.dumps({"step": step, "time": time.time()}))
        if step % STEPS_PER_EPOCH == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            with tempfile.TemporaryDirectory() as folder:
                torch.save(state, Path(folder, "state.pt"))
                ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def main(folder: str) -> None:
    """The driver."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    run = RunConfig(
        storage_path=folder,
        failure_config=FailureConfig(max_failures=1000),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
    )
    told = {"told": str(Path(folder, "told.json"))}
    scaling = ScalingConfig(num_workers=2)
    TorchTrainer(train_plainly, train_loop_config=told, scaling_config=scaling, run_config=run).fit()


def plain_kills(output: Path, count: int) -> list[dict[str, Any]]:
    """Kill a worker so many times; seconds to the next step of each."""
    with tempfile.TemporaryDirectory(dir=output) as folder:
        driver = subprocess.Popen(
            [sys.executable, __file__, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            return [_one_kill(Path(folder, "told.json"), psutil.Process(driver.pid)) for _ in range(count)]
        finally:
            driver.kill()
            driver.wait()


def _one_kill(told: Path, driver: psutil.Process) -> dict[str, Any]:
    _wait_for_step(told, driver, time.time())
    time.sleep(3.0)
    worker = next(p for p in driver.children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline()))
    worker.kill()
    killed = time.time()
    worker.wait()
    # The other worker may end the step that it is in.
    _wait_for_step(told, driver, killed + 1.0)
    return {"victim": "worker", "seconds": round(time.time() - killed, 1)}


def _wait_for_step(told: Path, driver: psutil.Process, after: float) -> None:
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        try:
            if json.loads(told.read_text("utf-8"))["time"] > after:
                return
        except (OSError, ValueError):  # not there yet, or being written
            pass
        time.sleep(0.02)
    raise SystemExit("the plain run has ended")


if __name__ == "__main__":
    main(sys.argv[1])
