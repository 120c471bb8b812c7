"""What a run asks of the cluster before it starts."""

from __future__ import annotations

import pytest

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.train import launch


@pytest.mark.parametrize(("stream", "gpus", "wanted"), [(True, False, 3), (True, True, 2), (False, False, 2)])
def test_a_streamed_run_waits_for_the_cpu_that_decodes_too(monkeypatch, tmp_path, stream, gpus, wanted):
    """Else it would be refused where that comes last."""
    asked = []
    monkeypatch.setattr(launch, "start_ray", lambda: None)
    monkeypatch.setattr(launch, "use_gpus", lambda: gpus)
    monkeypatch.setattr(launch, "wait_for_units", lambda *given: asked.append(given))
    for check in ("check_resources", "check_reachable", "check_decoding_cpus"):
        monkeypatch.setattr(launch, check, lambda *_: None)
    config = load_config("digits_ce", [f"data.stream={stream}".lower(), "train.wait_for_workers=2min"])
    assert launch.settle_on_cluster(config, 8, tmp_path) is config
    assert asked == [(wanted, gpus, 120.0)]


def test_a_run_that_was_killed_before_it_wrote_down_what_it_starts_with_does_so_later(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "settle_on_cluster", lambda config, *_: config)
    monkeypatch.setattr(launch, "_run_training", lambda run, *_, **__: run)
    config = load_config("digits_ce", [f"output={tmp_path}"])
    wanted = launch.launch_training(config, "whole").read_json("environment.json")
    run = RunFolder.create(config, "killed")
    launch.resume_training(run, [])
    assert run.read_json("environment.json") == wanted
    assert {"data", "versions"} & wanted.keys()
    run.write_json("environment.json", {"of": "the start"})
    launch.resume_training(run, [])
    assert run.read_json("environment.json") == {"of": "the start"}
