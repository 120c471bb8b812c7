"""A user's own files: loaded once, by content, wherever a config names them; errors in one line."""

from __future__ import annotations

import pickle

import pytest

from rtk.config import ConfigError, load_config, load_with_origins
from rtk.config.plugin_files import PluginFile, load_plugins, owner_of
from rtk.scores import SCORES

ROW = "from rtk import scores\nscores.register(scores.Score({name!r}, lambda logits: logits.amax(1)))\n"


@pytest.fixture
def write(tmp_path, monkeypatch, fresh_tables):
    """Write a plug-in that registers a score below a working folder of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def write(file, text=None, name="mine"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW.format(name=name) if text is None else text)
        return path

    return write


def test_a_recipe_names_files_beside_it_or_in_the_working_folder(write, tmp_path):
    beside, elsewhere = write("recipes/a.py", name="first"), write("work/b.py", name="second")
    recipe = tmp_path / "recipes" / "mine.yaml"
    recipe.write_text("base: digits_ce\nplugins: [a.py, b.py]\n")
    loaded = load_with_origins(recipe, ["model.width=8"])
    assert loaded.config.plugins == (str(beside), str(elsewhere))
    assert loaded.origins["plugins"] == "recipe mine"
    assert {"first", "second"} <= SCORES.keys()
    assert owner_of("score", "first") == PluginFile.read(beside)
    assert load_config("digits_ce").plugins == ()


def test_those_of_a_base_recipe_and_of_the_command_line_add_up(write, tmp_path):
    paths = [write(f"recipes/{file}.py", name=file) for file in ("one", "two")] + [
        write("work/three.py", name="three")
    ]
    (tmp_path / "recipes" / "below.yaml").write_text("base: digits_ce\nplugins: [one.py]\n")
    (tmp_path / "recipes" / "above.yaml").write_text("base: below\nplugins: [two.py]\n")
    config = load_config(tmp_path / "recipes" / "above.yaml", ["model.width=8", "plugins=[three.py]"])
    assert config.plugins == tuple(map(str, paths))


def test_a_file_is_run_once_and_again_when_it_has_changed(write):
    count = "\nimport sys\nsys.runs = getattr(sys, 'runs', 0) + 1\n"
    path = write("work/mine.py", ROW.format(name="mine") + count)
    copy = write("work/copy/mine.py", path.read_text())
    import sys

    try:
        load_plugins([path, path, copy])
        assert sys.runs == 1
        first = SCORES["mine"]
        write("work/mine.py", path.read_text() + "# changed\n")
        load_plugins([path])
        assert sys.runs == 2
        assert SCORES["mine"] is not first
    finally:
        del sys.runs


def test_a_config_that_is_sent_to_another_process_brings_its_plugins(write, fresh_tables):
    write("work/mine.py")
    config = load_config("digits_ce", ["plugins=[mine.py]"])
    sent = pickle.dumps(config)
    fresh_tables()
    assert "mine" not in SCORES
    assert pickle.loads(sent) == config
    assert "mine" in SCORES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import rtk.scores\nx = 1\n1 / 0\n", r"mine\.py, line 3: ZeroDivisionError: division by zero"),
        ("x = (\n", r"mine\.py, line 1: SyntaxError: '\(' was never closed"),
        ("x = 1\n", r"mine\.py registers nothing, wanted rtk\.scores\.register"),
        (
            ROW.format(name="msp"),
            r"line 2: ValueError: score 'msp': rtk has one of this name, wanted another",
        ),
        (ROW.format(name="label"), r"line 2: ValueError: score: got the name 'label', wanted letters"),
        (ROW.format(name="all"), "got the name 'all'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(write, text, message):
    write("work/mine.py", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("digits_ce", ["plugins=[mine.py]"])
    assert "\n" not in str(caught.value)


def test_a_name_taken_by_another_file_is_refused(write):
    first, other = write("work/first.py"), write("work/other.py", ROW.format(name="mine") + "# another\n")
    load_plugins([first])
    with pytest.raises(ConfigError, match=rf"other.py, line 2: ValueError: score 'mine': {first} has one"):
        load_plugins([other])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[nowhere.py]", "plugins: got 'nowhere.py', wanted a file in .*work$"),
        ("mine.py", "plugins: got 'mine.py', wanted a list of Python files"),
        ("[mine.py, below/mine.py]", r"plugins: .*work/mine.py and .*below/mine.py have one name"),
    ],
)
def test_files_that_cannot_be_meant_are_named(write, value, message):
    write("work/mine.py")
    write("work/below/mine.py", name="other")
    with pytest.raises(ConfigError, match=message):
        load_config("digits_ce", [f"plugins={value}"])
