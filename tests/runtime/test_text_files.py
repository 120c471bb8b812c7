"""Text is UTF-8 in every locale: in files, in file names, and where the terminal cannot show it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import rtk
from rtk.data.sets.dataset import open_dataset, read_rows

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
FOLDERS = [Path(rtk.__file__).parent, *(Path(rtk.__file__).parents[1] / name for name in ("jobs", "docs"))]


def opens_text_by_locale(call: ast.Call) -> bool:
    """Whether a call opens a text file, or reads a process, in the encoding of the locale."""
    given = {keyword.arg for keyword in call.keywords}
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if "encoding" in given or None in given:
        return False
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)  # the function of rtk.runs.atomic writes UTF-8
    if name in ("open", "fdopen", "NamedTemporaryFile"):
        values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        modes = [value.value for value in values if isinstance(value, ast.Constant)]
        built_in = isinstance(call.func, ast.Name) and not any("b" in str(mode) for mode in modes)
        return built_in or bool(given & {"newline", "errors"}) or bool({"r", "w", "a", "x"} & {*modes})
    return bool(given & {"text", "universal_newlines"}) and name in ("run", "Popen", "check_output")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("path.read_text()", True), ("path.read_text(encoding=e)", False), ("write_text(path, x)", False),
        ("open(path)", True), ("open(path, 'rb')", False), ("p.open('w')", True), ("p.open('wb')", False),
        ("path.open(newline='')", True), ("run(['git'], text=True)", True), ("Image.open(path)", False),
    ],
)  # fmt: skip
def test_what_opens_text_by_the_locale(line, expected):
    assert opens_text_by_locale(ast.parse(line).body[0].value) == expected


def test_every_text_file_is_opened_as_utf8():
    found = [
        f"{path}:{node.lineno}"
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and opens_text_by_locale(node)
    ]
    assert found == []


def test_names_beyond_the_locale(tmp_path):
    """What is typed, listed, written and printed is the same where the locale knows ASCII only."""
    for number, name in enumerate(("café", "Ωmega")):
        folder = tmp_path / "bücher" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "été.png")
    environment = {**os.environ, **ASCII, "PYTHONIOENCODING": "ascii:strict"}
    printed = ""
    for words in (["prepare", "bücher", "--out", "fertig/ö"], ["inspect", "fertig/ö"]):
        command = [sys.executable, "-m", "rtk.cli", "data", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, b"")
        printed += done.stdout.decode("ascii")
    assert "2 classes" in printed
    assert r"\u03a9mega" in printed
    dataset = open_dataset(tmp_path / "fertig" / "ö")
    assert dataset.classes == ("café", "Ωmega")
    assert {row.path for row in read_rows(dataset)} == {"café/été.png", "Ωmega/été.png"}
    manifest = json.loads((tmp_path / "fertig/ö/manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"] == "bücher"


def test_a_path_that_is_not_utf8_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"caf\\xe9/x: the path is not UTF-8"):
        open_dataset(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/x"))
