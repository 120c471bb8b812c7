"""Shared fixtures: golden files, real data, one Ray session; and which tests share a process."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

# Read by torch and Ray when they are imported. Tests run in three processes on two cores, so each computes in
# one thread; and no node of a test is ever drained, which Ray would start a process a run to watch for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's actors set their number of threads themselves; threads that wait must not spin, for others have work:
# a batch of a small network took 20 times the processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else other processes starve Ray's workers
# Processes of tests find this very rtk, however it is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
)
# Of servers of object storage on this machine, which take any; without, the cloud would be asked for some.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "tests")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "tests")
# Idle workers wait for the next test; by default those beyond one a core end after a second.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")

import numpy as np
import pytest
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"
multiprocessing.set_forkserver_preload(["tests.forked"])
gc.disable()  # until all tests are collected


def pytest_configure() -> None:
    """Have Ray's processes of all tests, and of the commands that they run, forked by one server."""
    from rtk.runtime.fork_server import SHARED, client, fork_with

    if SHARED not in os.environ:
        fork_with("rtk.train.forked", "timm")
        os.environ[SHARED] = client() or ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need Ray, and keep together what shares a session or a module's fixtures.

    Under `pytest -n 3 --dist loadgroup --no-loadscope-reorder` one process runs all tests of the shared Ray
    session, from the start, and the others one module after another, those with slow tests first.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"ray_session", "two_nodes"}:
            item.add_marker(pytest.mark.ray)
        group = "ray" if "ray_session" in fixtures else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_turn)


def pytest_collection_finish() -> None:
    """Leave modules and tests, which stay, out of every search for garbage."""
    gc.freeze()
    gc.enable()


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("xdist_group").args == ("ray",):
        return 0
    return 1 if item.get_closest_marker("slow") else 2


@pytest.fixture(scope="session")
def golden():
    """Load a recorded file of `tests/golden` by its stem."""
    return lambda name: np.load(GOLDEN / f"{name}.npz")


@pytest.fixture(scope="session")
def rtk_data() -> Path:
    """Folder of the real data sets, from RTK_DATA."""
    if "RTK_DATA" not in os.environ:
        pytest.skip("RTK_DATA is not set: no real data sets here")
    return Path(os.environ["RTK_DATA"]).resolve()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """An image of noise as a JPEG file."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def ray_session():
    """One Ray session for all tests that need one."""
    from rtk.runtime.ray_session import start_ray

    ray = start_ray()
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def storage_port() -> Iterator[int]:
    """Port of a server of object storage."""
    from tests.object_storage import storage_server

    with storage_server() as port:
        yield port


@pytest.fixture
def bucket(storage_port, monkeypatch, tmp_path) -> Iterator[str]:
    """URI of an empty bucket, whose working copies are in a folder of the test's own."""
    from rtk.runs.working_copy import local_folder
    from tests.object_storage import make_bucket, uri_of

    name = f"b{os.getpid()}-{uuid4().hex[:8]}"
    make_bucket(storage_port, name)
    of_workers = local_folder(uri_of(storage_port, name))
    monkeypatch.setenv("RTK_CACHE", str(tmp_path / "cache"))
    yield uri_of(storage_port, name)
    shutil.rmtree(of_workers, ignore_errors=True)


@pytest.fixture
def two_nodes(monkeypatch):
    """A Ray cluster of two nodes of one CPU each, all on this machine; drivers join it by RAY_ADDRESS."""
    import ray
    from ray._common.network_utils import node_ip_address_from_perspective
    from ray.cluster_utils import Cluster

    from rtk.runtime.ray_daemons import daemons_in_own_session

    # By itself it would take the address of this process's own session: the loopback one.
    monkeypatch.setattr(ray.util, "get_node_ip_address", node_ip_address_from_perspective)

    options = {"num_cpus": 1, "object_store_memory": 2**28, "include_log_monitor": False}
    with daemons_in_own_session():
        cluster = Cluster(
            initialize_head=True, head_node_args={"include_dashboard": False, "no_monitor": True, **options}
        )
        cluster.add_node(**options)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def fresh_tables():
    """Forget what plug-ins have registered, when called and at the end: as in a new process."""
    from rtk.config import plugin_files
    from rtk.data.prepare.sources import SOURCES
    from rtk.models.backbones import BACKBONES
    from rtk.scores import SCORES

    tables = (SCORES, SOURCES, BACKBONES, plugin_files._owners, plugin_files._loaded)
    kept = [table.copy() for table in tables]

    def forget():
        for table, before in zip(tables, kept, strict=True):
            table.clear()
            table.update(before)

    yield forget
    forget()
