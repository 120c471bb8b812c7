"""What a machine, or a container on it, allows."""

from __future__ import annotations

import math
import os
import subprocess

import pytest

from rtk.runtime.environment import available_cpus, cpu_quota, source_commit


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_containers_quota_is_read(tmp_path, files, cpus):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_that_is_bound_to_one_cpu_counts_one():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


def git(folder, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    return subprocess.check_output(["git", *who, *words], cwd=folder, text=True).strip()


def test_commit_is_that_of_the_checkout_that_the_code_runs_from(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_DIR", raising=False)
    source, copy = tmp_path / "rtk" / "code.py", tmp_path / "venv" / "code.py"
    for file in (source, copy):
        file.parent.mkdir()
        file.write_text("1")
    assert source_commit(source) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "rtk")
    git(tmp_path, "commit", "-qm", "first")
    commit = {"hash": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    assert source_commit(source) == commit
    (tmp_path / "link").symlink_to(source.parent)
    source.write_text("2")
    assert source_commit(tmp_path / "link" / "code.py") == commit | {"dirty": True}
    assert source_commit(copy) is None
