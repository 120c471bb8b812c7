"""What is typed, word by word: which command and option each belongs to, and what help there is."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from rtk.cli import SECTIONS, _parse, build_parser, main
from rtk.config import load_config


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "train",
        "evaluate",
        "report",
        "data prepare",
        "data inspect",
        "data check",
        "data views",
        "doctor",
        "sweep",
        "compare",
        "leaderboard",
        "interpolate",
        "metrics",
        "sync",
        "runs ls",
        "runs show",
        "runs rm",
        "status",
        "submit train",
        "submit sweep",
        "submit evaluate",
        "submit export",
        "jobs ls",
        "jobs logs",
        "jobs stop",
    ],
)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"rtk {command}" in capsys.readouterr().out.split("examples:")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_static_script(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "evaluate" in script
    assert "--print-config" in script


def test_overrides_may_follow_options(capsys):
    assert main(["train", "digits_demo", "--print-config", "--json", "model.width=4"]) == 0
    assert json.loads(capsys.readouterr().out)["model.width"]["value"] == 4
    for wrong in (["train", "digits_demo", "--no-such-option"], ["doctor", "train.workers=2"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2


def test_words_are_taken_for_what_they_are_wherever_they_stand():
    options = _parse(["evaluate", "RUN", "--scores", "msp", "knn", "evaluate.actors=2"])
    assert (options.scores, options.overrides) == (["msp", "knn"], ["evaluate.actors=2"])
    options = _parse(["evaluate", "RUN", "--ood", "a=x", "data.far_ood.tiny-imagenet=y", "--corruptions"])
    assert (options.ood, options.overrides) == (["a=x"], ["data.far_ood.tiny-imagenet=y"])
    options = _parse(["sweep", "SPACE", "--trials", "3", "RECIPE", "seed=1"])
    assert (options.space, options.recipe, options.overrides) == ("SPACE", "RECIPE", ["seed=1"])
    sections = {key for key, value in load_config("digits_ce") if isinstance(value, BaseModel | dict)}
    assert set(SECTIONS.split()) == sections


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "RUN", "--ood", "data.a=path"], {"ood": ["data.a=path"], "overrides": []}),
        (
            ["evaluate", "RUN", "--ood", "seed=photos/", "--ood", "name=x", "evaluate.actors=2"],
            {"ood": ["seed=photos/", "name=x"], "overrides": ["evaluate.actors=2"]},
        ),
        (
            ["evaluate", "RUN", "--ood", "far:a=x", "name=y", "data.v2=z", "evaluate.actors=2", "seed=3"],
            {"ood": ["far:a=x", "name=y", "data.v2=z", "seed=3"], "overrides": ["evaluate.actors=2"]},
        ),
        (
            ["evaluate", "RUN", "--ood", "far:a=x", "--scores", "msp", "seed=3"],
            {"ood": ["far:a=x"], "scores": ["msp"], "overrides": ["seed=3"]},
        ),
        (["evaluate", "RUN", "--ood=seed=x", "--test", "data.b=c"], {"ood": ["seed=x"], "test": "data.b=c"}),
        (
            ["evaluate", "RUN", "--corruptions", "evaluate.actors=2"],
            {"corruptions": 0, "overrides": ["evaluate.actors=2"]},
        ),
        (["evaluate", "RUN", "--output", "name=x", "seed=1"], {"output": "name=x", "overrides": ["seed=1"]}),
        (
            ["sweep", "S", "R", "--name", "train.x=1", "seed=1"],
            {"name": "train.x=1", "overrides": ["seed=1"]},
        ),
        (["train", "R", "--json", "--output", "output=x"], {"output": "output=x", "overrides": []}),
        (
            ["compare", "--experiment", "E", "--where", "params.model.width=8"],
            {"where": "params.model.width=8"},
        ),
        (["compare", "--experiment", "seed=3"], {"experiment": "seed=3"}),
        (["data", "views", "R", "--out", "seed=1", "seed=2"], {"out": "seed=1", "overrides": ["seed=2"]}),
    ],
)
def test_what_an_option_takes_stays_its_own(words, expected):
    options = vars(_parse(words))
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "nearest"), [("trian digits_demo", "train"), ("data inspct", "inspect"), ("recipes lst", "ls")]
)
def test_a_misspelt_command_is_answered_with_the_nearest(words, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert f"nearest valid command is '{nearest}'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5"])
def test_counts_are_whole_numbers_above_0(text, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", text])
    assert f"--seeds: got '{text}', wanted a whole number above 0" in capsys.readouterr().err
