"""What rtk offers to Prometheus, and that the dashboard shows it; `tests/jobs` collects it from a cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rtk.train.gauges import OF_RANK, OF_RUN, OF_TERM, description, samples

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
NAMES = {*OF_RUN, *OF_TERM, *OF_RANK}


def test_the_dashboard_shows_what_is_exported_and_nothing_else():
    dashboard = json.loads(DASHBOARD.read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    runs = dashboard["templating"]["list"][1]["query"]["query"]
    assert {name for text in [*shown, runs] for name in re.findall(r"ray_(\w+)", text)} == NAMES
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_samples_are_what_is_known():
    progress = {"step": 7, "seconds_left": None, "train/lr": 0.5, "train/loss/rat": 2.0, "phase": "training"}
    even = {"samples": 30, "data_wait": 0.0, "collective": 0.5, "memory_gib": 2.0, "silent": 0.0}
    slow = {**even, "rank": 2, "collective": 0.1, "gpu_memory_gib": 0.5}
    found = list(samples("a", progress, [{**even, "rank": 0}, {**even, "rank": 1}, slow]))
    assert ("rtk_step", 7.0, {"run": "a"}) in found
    assert ("rtk_loss", 2.0, {"run": "a", "term": "rat"}) in found
    assert ("rtk_rank_memory_bytes", 2.0**31, {"run": "a", "rank": "1"}) in found
    assert ("rtk_rank_gpu_memory_bytes", 2.0**29, {"run": "a", "rank": "2"}) in found
    late = {tags["rank"]: value for name, value, tags in found if name == "rtk_rank_straggler"}
    assert late == {"0": 0.0, "1": 0.0, "2": 1.0}
    assert {name for name, _, _ in found} <= NAMES
    assert "rtk_seconds_left" not in {name for name, _, _ in found}
    assert all(description(name) for name in NAMES)
