"""A run and a sweep keep copies of their plug-ins, and refuse copies that have changed."""

from __future__ import annotations

import pytest

from rtk.config import ConfigError, load_config
from rtk.config.plugin_files import plugin_hashes
from rtk.config.search_space import parse_space
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import Sweep
from rtk.runtime.environment import describe_environment

ROW = "from rtk import scores\nscores.register(scores.Score({name!r}, lambda logits: logits.amax(1)))\n"


@pytest.fixture
def plugin(tmp_path, monkeypatch, fresh_tables):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(ROW.format(name="mine"))
    return path


@pytest.fixture
def run(plugin, tmp_path):
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}/runs", "plugins=[mine.py]"]))
    run.write_json("environment.json", describe_environment(run.config().plugins))
    return run


def test_a_run_needs_its_own_copy_alone(run, plugin, fresh_tables, tmp_path):
    hashes = plugin_hashes([str(plugin)])
    assert run.read_json("environment.json")["plugins"] == hashes
    assert run.config_tree()["plugins"] == ["plugins/mine.py"]
    plugin.unlink()
    moved = RunFolder(run.path.rename(tmp_path / "elsewhere"))
    fresh_tables()
    config = moved.config()
    assert config.plugins == (str(moved.path / "plugins" / "mine.py"),)
    assert plugin_hashes(config.plugins) == hashes
    assert load_config(moved.path / "config.yaml") == config
    moved.change_config(config, 5)
    assert moved.config() == config


def test_a_copy_that_has_changed_is_refused_with_both_hashes(run):
    recorded = run.read_json("environment.json")["plugins"]["mine.py"]
    copy = run.path / "plugins" / "mine.py"
    copy.write_text(copy.read_text() + "# changed\n")
    now = plugin_hashes([str(copy)])["mine.py"]
    with pytest.raises(ConfigError, match=rf"mine.py has changed: SHA-256 {now}, recorded is {recorded}"):
        run.config()


def test_an_evaluation_may_bring_files_and_newer_ones_of_its_own(run, plugin, fresh_tables):
    extra = plugin.with_name("extra.py")
    extra.write_text(ROW.format(name="extra"))
    run.add_plugins(["extra.py", "mine.py"])
    extra.write_text(ROW.format(name="extra") + "# better\n")
    run.add_plugins(["extra.py"])
    assert run.read_json("environment.json")["plugins"] == plugin_hashes([str(plugin), str(extra)])
    assert run.config_tree()["plugins"] == ["plugins/mine.py"]
    fresh_tables()
    run.config()
    from rtk.scores import SCORES

    assert {"mine", "extra"} <= SCORES.keys()
    plugin.write_text(ROW.format(name="mine") + "# another\n")
    with pytest.raises(
        ConfigError, match=r"--plugin mine.py: got SHA-256 \w{64}, but the run was trained with"
    ):
        run.add_plugins(["mine.py"])


def test_a_run_without_plugins_says_nothing_of_them(tmp_path):
    assert "plugins" not in describe_environment()
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))
    assert not (run.path / "plugins").exists()
    run.add_plugins([])
    assert run.read_json("environment.json") is None


def test_a_sweep_keeps_copies_and_gives_them_to_its_trials(plugin, tmp_path, fresh_tables):
    space = parse_space(
        {"objectives": {"val/nll": "min"}, "space": {"optimizer.lr": {"uniform": [0.1, 0.2]}}}, "s"
    )
    sweep = Sweep.create(
        space, load_config("digits_ce", [f"output={tmp_path}", "plugins=[mine.py]"]), "sweep"
    )
    plugin.unlink()
    fresh_tables()
    config = sweep.config()
    assert config.plugins == (str(sweep.path / "plugins" / "mine.py"),)
    trial = RunFolder.create(config, "trial-0000")
    assert trial.config().plugins == (str(trial.path / "plugins" / "mine.py"),)
