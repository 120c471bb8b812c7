"""Shared fixtures: golden files, real data, one Ray session a run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


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
def ray_session():
    """One Ray session for all tests that need one."""
    from rtk.runtime.ray_session import start_ray

    ray = start_ray()
    yield ray
    ray.shutdown()


@pytest.fixture
def two_nodes():
    """A Ray cluster of two nodes of one CPU each, all on this machine; drivers join it by RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 2**28}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory}
    )
    cluster.add_node(num_cpus=1, **memory)
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
