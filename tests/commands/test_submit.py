"""What `rtk submit` sends and refuses, and how it ends; `tests/jobs` has a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rtk.cli import _parse, main
from rtk.commands import submit
from rtk.config import ConfigError
from rtk.runtime.jobs import JobLog, check_size, exit_code, runtime_environment

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:1"


def job_of(command: str) -> tuple[str, str]:
    name, words = submit._job(_parse(shlex.split(command)))
    return name, shlex.join(words)


def test_no_file_of_the_package_is_left_out_and_no_run_is_sent(tmp_path):
    from ray._private.runtime_env.packaging import _get_excludes

    is_excluded = _get_excludes(ROOT, runtime_environment(["/private"])["excludes"])
    assert not [path for path in (ROOT / "rtk").rglob("*.*") if path.suffix != ".pyc" and is_excluded(path)]
    never = [
        "tests/conftest.py",
        "runs/a/config.yaml",
        "data/a.png",
        ".venv/bin/rtk",
        ".git/HEAD",
        "mlruns/0/meta",
    ]
    for name in [*never, ".env", "deep/mlflow.db", "deep/a.parquet", "deep/tls.key", "private/a.yaml"]:
        assert is_excluded(ROOT / name), name


def test_rays_own_command_line_is_given_the_same():
    assert yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text()) == runtime_environment()


def test_a_new_run_is_called_as_its_job():
    name, command = job_of(
        "submit train digits_demo --address X seed=3 --output /shared --no-wait --exclude a"
    )
    assert name.startswith("digits_demo-")
    assert command == f"train digits_demo seed=3 --output /shared --name {name}"
    name, _ = job_of("submit sweep search_spaces/small.yaml digits_demo --output s3://bucket/runs")
    assert name.startswith("sweep-digits_demo-")


def test_what_has_a_name_keeps_it():
    assert job_of("submit train digits_demo output=/shared --name a --json") == (
        "a",
        "train digits_demo output=/shared --name a",
    )
    name, command = job_of("submit train digits_demo output=/shared --name a --seeds 0..2")
    assert name.startswith("train-")
    assert command == "train digits_demo output=/shared --name a --seeds 0..2"
    _, command = job_of("submit train --resume a --output /shared train.duration=2ep")
    assert command == "train --resume a --output /shared train.duration=2ep"
    _, command = job_of("submit evaluate s3://bucket/runs/a --ood near:cats=/shared/cats --address X")
    assert command == "evaluate s3://bucket/runs/a --ood near:cats=/shared/cats"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("submit train digits_demo optimzer.lr=1", "nearest valid key is 'optimizer.lr'"),
        ("submit train digits_demo", "output: got 'runs', wanted a place that outlasts the job"),
        ("submit train --output /shared", "recipe: got none"),
        ("submit train digits_demo --output /shared --name ../a", "--name: got '../a'"),
        ("submit evaluate a", "run: got 'a', wanted a place that outlasts the job"),
        ("submit evaluate /shared/a", "--address: got none, wanted http://HEAD:8265"),
        (f"submit export /shared/a --address {NOBODY}", f"--address: nobody listens at {NOBODY}"),
        (f"jobs ls --address {NOBODY}", f"--address: nobody listens at {NOBODY}"),
        ("jobs stop a --address http://u:secret@head:8265", "the URI holds a password"),
    ],
)
def test_what_cannot_work_is_refused_here(command, message, capsys, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(shlex.split(command)) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_outside_of_the_folder_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "mine.yaml").write_text("base: digits_demo\n")
    monkeypatch.chdir(tmp_path / "here")
    assert main(["submit", "train", "../mine.yaml", "--output", "/shared"]) == 2
    assert "../mine.yaml is not in" in capsys.readouterr().err
    assert job_of("submit train digits_demo data.train='${CLUSTERS_OWN}/a.parquet' --output /shared")


def test_a_folder_that_is_too_large_is_refused_before_it_is_packed(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: digits_demo\n")
    for name in ("weights.pth", "data.parquet", "ignored.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(600 * 2**20)  # takes no room on the disk
    (tmp_path / ".gitignore").write_text("*.bin\n")
    with pytest.raises(ConfigError, match=r"holds 600 MiB to be sent \(weights.pth alone 600\)"):
        check_size(tmp_path)
    check_size(tmp_path, ["*.pth"])


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 143), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", None, 1)],
)
def test_exit_code_is_the_jobs(status, code, wanted):
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=code)) == wanted


class Flaky:
    """A job server that loses the connection in the midst of a log; each connection starts it anew."""

    def __init__(self, *connections):
        self.connections = iter(connections)

    async def tail_job_logs(self, name):
        for text in next(self.connections):
            if isinstance(text, Exception):
                raise text
            yield text

    def get_job_info(self, name):
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True))


def test_a_log_goes_on_where_a_connection_was_lost(monkeypatch):
    monkeypatch.setattr("rtk.runtime.jobs.AGAIN_SECONDS", 0.0)
    lost, written = RuntimeError("closed"), []
    server = Flaky(["one\n", "tw", lost], [ConnectionError("none")], ["one\ntwo\n", "three\n"])
    JobLog(server, "a", written.append).follow()
    assert "".join(written) == "one\ntwo\nthree\n"
