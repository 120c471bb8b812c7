"""What a training loses while MLflow's server is away, slow, or its disk is full.

    python benchmarks/tracking.py [--epochs 150] [--rounds 2]

The same run of digits, one worker, against a server of this machine behind a proxy. "Away": ten seconds
after the first row has come, nobody listens for 30 seconds. "Slow": every reply comes two seconds late.
"Full": for 30 seconds every request is answered by an error 500, as by a server that cannot write. Seconds
are from the first to the last row of the run, and of the whole command. In the end every row of
`metrics.csv` has to be in MLflow, once. The last line is the longest training beside that with a server
that is there.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

FAULT_SECONDS, BEFORE_SECONDS, LATE_SECONDS = 30.0, 10.0, 2.0
KINDS = ("there", "away", "slow", "full")
BIN = Path(sys.executable).parent


class Proxy(ThreadingHTTPServer):
    """Stands before the server, and can be away, slow or full for a while.

    Args:
        port: of the server.
        kind: of `KINDS`.
    """

    daemon_threads = True

    def __init__(self, port: int, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.kind, self.begun = port, kind, float("inf")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def is_faulty(self) -> bool:
        """Whether the fault is now."""
        since = time.monotonic() - self.begun - BEFORE_SECONDS
        return self.kind == "slow" or 0 < since < FAULT_SECONDS

    def handle_error(self, *_: object) -> None:
        """Say nothing: whoever asked has gone."""


class Handler(BaseHTTPRequestHandler):
    """Passes requests on, or does not."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def forward(self) -> None:
        """Answer a request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy = self.server
        if "log-batch" in self.path:
            proxy.begun = min(proxy.begun, time.monotonic())
        if proxy.is_faulty and proxy.kind == "away":
            self.close_connection = True
            return
        status, content, kind = (
            500,
            b'{"error_code": "INTERNAL_ERROR", "message": "disk full"}',
            "application/json",
        )
        if not (proxy.is_faulty and proxy.kind == "full"):
            status, content, kind = self.ask(body)
        if proxy.is_faulty and proxy.kind == "slow":
            time.sleep(LATE_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def ask(self, body: bytes) -> tuple[int, bytes, str]:
        """Status, content and type of the server's reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, content, reply.getheader("Content-Type", "application/json")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Port of a server of MLflow."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = int(free.server_address[1])
    command = [str(BIN / "mlflow"), "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()


def train(folder: Path, port: int, kind: str, epochs: int, number: int) -> tuple[float, float]:
    """Seconds from a run's first row to its last, and of its whole command."""
    proxy = Proxy(port, kind)
    uri = f"http://127.0.0.1:{proxy.server_address[1]}"
    name = f"{kind}-{number}"
    command = [str(BIN / "rtk"), "train", "digits_ce", f"train.duration={epochs}ep", "train.workers=1"]
    command += ["train.threads=1", f"output={folder}", "--name", name]
    command.append(f"tracking.uri={uri}")
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.monotonic() - began
    rows = rows_of(folder / name)
    check_sent(rows, f"http://127.0.0.1:{port}", name)
    proxy.shutdown()
    times = [float(row["time"]) for row in rows]
    return max(times) - min(times), whole


def rows_of(run: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_sent(rows: list[dict[str, str]], uri: str, name: str) -> None:
    """Refuse a run of which MLflow does not have every row once."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (found,) = client.search_runs(
        [one.experiment_id for one in client.search_experiments()], f"attributes.run_name = '{name}'"
    )
    wanted = Counter((row["key"], int(row["step"])) for row in rows)
    for key in {key for key, _ in wanted}:
        has = Counter(one.step for one in client.get_metric_history(found.info.run_id, key))
        if has != Counter({step: count for (each, step), count in wanted.items() if each == key}):
            raise SystemExit(
                f"{name}: {key}: MLflow has {len(has)} steps, which are not those of metrics.csv"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=150, help="of a run (default: 150)")
    parser.add_argument("--rounds", type=int, default=2, help="of all kinds in turns (default: 2)")
    options = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as port:
        for number in range(options.rounds):
            for kind, taken in seconds.items():
                taken.append(train(Path(place), port, kind, options.epochs, number))
                print(
                    f"{kind:<6} {taken[-1][0]:6.1f} s of training, {taken[-1][1]:6.1f} s in all", flush=True
                )
    training = {kind: statistics.median(one for one, _ in taken) for kind, taken in seconds.items()}
    for kind, taken in training.items():
        print(f"{kind:<6} {taken:6.1f} s, {taken / training['there']:.3f} of the time with one that is there")
    print(f"ratio {max(training.values()) / training['there']:.3f}")


if __name__ == "__main__":
    main()
