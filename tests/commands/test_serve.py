"""`rtk serve` as a process: where it listens, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest
import torch

from rtk.cli import _parse, main
from rtk.commands import submit
from rtk.config import ConfigError
from tests.deploy.random_package import encoded, random_package

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-of-some-length"


@pytest.fixture(autouse=True)
def threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "package"
    random_package().save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_listens_on_this_machine_alone_and_ends_by_a_signal(package, number, code):
    command = [sys.executable, "-m", "rtk.cli", "serve", str(package), "--port", "0", "--json"]
    # A shell that runs the tests in the background has all that they start ignore Ctrl-C.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command[1:3] = ["-c", f"{heed}; import sys; from rtk.cli import run; sys.argv[0] = 'rtk'; run()"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True, encoding="utf-8"
    ) as server:
        said = json.loads(server.stdout.readline())
        with urlopen(Request(f"{said['url']}/predict", encoded(0)), timeout=60) as answer:
            row = json.loads(answer.read())
        connections = psutil.Process(server.pid).net_connections()
        addresses = [one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN]
        server.send_signal(number)
        output, errors = server.communicate(timeout=60)
    assert (said["origin"], said["needs_token"]) == ({"run": "random", "step": 7}, False)
    assert row["label"] in ("cat", "dog", "eel")
    assert addresses == ["127.0.0.1"]
    assert (server.returncode, output, errors) == (code, "", "rtk: interrupted\n")


def refused(capsys, *words: str) -> str:
    assert main(["serve", *words]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_served_is_said_before_anything_is_loaded(package, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RTK_SERVE_TOKEN", raising=False)
    assert "set RTK_SERVE_TOKEN to a secret" in refused(capsys, "nowhere", "--host", "0.0.0.0")
    assert "got one of them, wanted both" in refused(capsys, "nowhere", "--tls-key", "a")
    nowhere = ["--tls-key", str(tmp_path / "a"), "--tls-certificate", str(tmp_path / "b")]
    missing = refused(capsys, "nowhere", *nowhere)
    assert f"--tls-certificate {tmp_path}/b --tls-key {tmp_path}/a: wanted PEM files" in missing
    assert "wanted a run, what rtk export wrote" in refused(capsys, str(tmp_path), "--port", "0")
    assert "device: got 'cuda:77'" in refused(capsys, str(package), "--port", "0", "--device", "cuda:77")
    assert "device: got 'tpu'" in refused(capsys, str(package), "--port", "0", "--device", "tpu")


def job_of(command: str) -> list[str]:
    return submit._job(_parse(shlex.split(command)))[1]


def test_a_submitted_server_gets_the_hash_of_the_token_alone(monkeypatch):
    monkeypatch.setenv("RTK_SERVE_TOKEN", SECRET)
    words = job_of("submit serve s3://bucket/runs/a --port 9000 --gpus 0.5 --address X")
    assert words[:4] == ["serve", "s3://bucket/runs/a", "--port", "9000"]
    assert words[4:7] == ["--host", "0.0.0.0", "--token-sha256"]
    assert len(words[7]) == 64
    assert SECRET not in " ".join(words)
    assert job_of("submit serve models:/flowers/1 --host 10.0.0.7")[2:6] == [
        "--host",
        "10.0.0.7",
        "--host",
        "10.0.0.7",
    ]


def test_a_submitted_server_needs_a_token_and_a_model_that_lasts(monkeypatch):
    monkeypatch.delenv("RTK_SERVE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="set RTK_SERVE_TOKEN"):
        job_of("submit serve s3://bucket/runs/a")
    monkeypatch.setenv("RTK_SERVE_TOKEN", SECRET)
    with pytest.raises(ConfigError, match="model: got 'a', wanted a place that outlasts the job"):
        job_of("submit serve a")
    with pytest.raises(ConfigError, match="--keep: got 'kept', wanted a place that outlasts the job"):
        job_of("submit serve s3://bucket/runs/a --keep kept")
    assert os.environ["RTK_SERVE_TOKEN"] not in " ".join(job_of("submit serve /shared/runs/a"))
