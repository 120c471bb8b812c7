"""Images a second and times of answers: `rtk serve` beside MLflow's server and one of ten lines.

    python benchmarks/serving.py [--network efficientnet_lite0] [--side 224] [--clients 1 16]

All serve the same packaged model, with random weights, to clients that each send one JPEG of 640 x 480
after the other. MLflow's is `mlflow models serve` with one worker, which takes tables of base64; the
third is FastAPI with `PackagedModel.predict` of one image in a thread of its pool. The last line is rtk's
images a second over those of the third, with the most clients.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rtk.config.model import ModelConfig
from rtk.deploy.packaged_model import MLflowModel, PackagedModel, Preprocessing
from rtk.models import build_model
from rtk.scores import FitData, Predictions, fit_score
from rtk.scores.decision import DecisionRule

CLASSES, PICTURES, START_SECONDS = 100, 16, 120
BY_HAND = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from rtk.deploy.packaged_model import PackagedModel
app, model = FastAPI(), PackagedModel.load(Path(sys.argv[1]))
@app.post("/predict")
async def predict(request: Request):
    return (await run_in_threadpool(model.predict, [await request.body()]))[0]
uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
"""


def package(folder: Path, network: str, side: int) -> None:
    """A packaged model of random weights that decides by MSP and kNN."""
    torch.manual_seed(0)
    config = ModelConfig(name=network)
    model = build_model(config, CLASSES, side).eval()
    with torch.no_grad():
        logits, features = model.forward_features(torch.rand(64, 3, side, side))
    data = Predictions(logits, features, torch.arange(64) % CLASSES)
    fit = FitData(data, data, *model.head.used_weights())
    scores = {"msp": fit_score("msp"), "knn": fit_score("knn", fit, k=3)}
    hyperparameters = {name: dict(state.hyperparameters) for name, state in scores.items()}
    rule = DecisionRule("msp", "knn", 0.01, -1.0, 0.1, "random images", hyperparameters, 0)
    names = [f"class {index}" for index in range(CLASSES)]
    origin = {"run": network, "step": 0}
    PackagedModel(model, config, names, Preprocessing(side), True, rule, scores, origin).save(folder)


def pictures() -> list[bytes]:
    """JPEG files of noise that is as smooth as photographs."""
    generator, files = np.random.default_rng(0), []
    for _ in range(PICTURES):
        small = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def commands(folder: Path) -> dict[str, list[str]]:
    """What starts each server; PORT stands for its port."""
    import mlflow

    from rtk.deploy.export import signature

    mlflow.pyfunc.save_model(
        folder / "mlflow",
        loader_module=MLflowModel.__module__,
        data_path=str(folder / "model"),
        signature=signature(),
    )
    bin_folder = Path(sys.executable).parent
    rtk = [str(bin_folder / "rtk"), "serve", str(folder / "model"), "--port", "PORT"]
    peer = [str(bin_folder / "mlflow"), "models", "serve", "--model-uri", str(folder / "mlflow")]
    peer += ["--env-manager", "local", "--workers", "1", "--port", "PORT"]
    return {
        "rtk serve": rtk,
        "mlflow": peer,
        "by hand": [sys.executable, "-c", BY_HAND, str(folder / "model"), "PORT"],
    }


@contextmanager
def started(command: list[str]) -> Iterator[int]:
    """Port of a server, once it listens."""
    port = free_port()
    words = [str(port) if word == "PORT" else word for word in command]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(10 * START_SECONDS):
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()


def request_of(name: str, jpeg: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers by which a server is sent a picture."""
    if name != "mlflow":
        return "/predict", jpeg, {"Content-Type": "image/jpeg"}
    table = {"columns": ["image"], "data": [[base64.b64encode(jpeg).decode()]]}
    return (
        "/invocations",
        json.dumps({"dataframe_split": table}).encode(),
        {"Content-Type": "application/json"},
    )


def ask(name: str, port: int, files: list[bytes], until: float, times: list[float]) -> None:
    """One client: a picture after the other until time is up; seconds of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    requests = [request_of(name, jpeg) for jpeg in files]
    count = 0
    while time.perf_counter() < until:
        path, body, headers = requests[count % len(requests)]
        begin = time.perf_counter()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200 or b"class " not in said:
            raise RuntimeError(f"{name}: {answer.status} {said[:200]!r}")
        times.append(time.perf_counter() - begin)
        count += 1
    connection.close()


def measure(name: str, port: int, files: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds of all answers to so many clients."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    threads = [threading.Thread(target=ask, args=(name, port, files, until, times)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="efficientnet_lite0", help="a backbone or timm/NAME")
    parser.add_argument("--side", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16], help="default: 1 16")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (default: 10)")
    options = parser.parse_args()
    files, rates = pictures(), {}
    with tempfile.TemporaryDirectory() as place:
        package(Path(place) / "model", options.network, options.side)
        for name, command in commands(Path(place)).items():
            with started(command) as port:
                measure(name, port, files, 4, 3)  # to warm up
                for clients in options.clients:
                    times = measure(name, port, files, clients, options.seconds)
                    rates[name, clients] = len(times) / options.seconds
                    median, late = (1000 * float(np.quantile(times, share)) for share in (0.5, 0.99))
                    print(
                        f"{name:<10} {clients:3} clients {rates[name, clients]:7.1f} images/s, answers after "
                        f"{median:6.0f} ms, 99 % within {late:6.0f}",
                        flush=True,
                    )
    most = max(options.clients)
    print(f"ratio {rates['rtk serve', most] / rates['by hand', most]:.2f}")


if __name__ == "__main__":
    main()
