"""The pages' tables are read from rtk: nothing that exists is missing from them."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from rtk.cli import COMMANDS
from rtk.config.keys import config_keys
from rtk.config.load import shipped_recipes
from rtk.scores import SCORES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(hooks, name):
    return hooks.on_page_markdown((DOCS / "reference" / f"{name}.md").read_text())


def test_every_key_score_recipe_and_command_has_its_place(hooks):
    keys = page(hooks, "keys")
    assert all(f'<span id="{key.key}"></span>`{key.key}`' in keys for key in config_keys())
    assert all(f"| `{name}`" in page(hooks, "scores") for name in SCORES)
    assert all(f"## {name}\n" in page(hooks, "recipes") for name in shipped_recipes())
    commands = page(hooks, "cli")
    assert all(
        f"## rtk {command.__name__.rpartition('.')[2].rstrip('_')}" in commands for command in COMMANDS
    )
    assert "## rtk recipes keys" in commands


def test_a_row_of_a_table_has_its_columns(hooks):
    for name in ("keys", "scores", "search_space"):
        rows = [
            line.replace("\\|", "")
            for line in page(hooks, name).splitlines()
            if line.startswith(("| `", "| <span"))
        ]
        assert rows
        assert {row.count("|") for row in rows} <= {4, 5, 6}, name
        assert all(row.split("|")[1].strip() for row in rows)


def test_markers_name_tables_and_every_page_is_reachable(hooks):
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    named = {mark for name in pages for mark in hooks.MARKER.findall((DOCS / name).read_text())}
    assert named == set(hooks.TABLES)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    assert set(_leaves(site["nav"])) == pages


def test_every_example_is_shown():
    shown = set(
        re.findall(r'^--8<-- "(docs/examples/.*)"$', (DOCS / "extending.md").read_text(), re.MULTILINE)
    )
    assert shown == {f"docs/examples/{path.name}" for path in (DOCS / "examples").glob("my_*.py")}


def _leaves(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else _leaves(value)
