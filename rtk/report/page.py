"""Self-contained HTML pages from the templates beside this file, all of which extend `page.html`."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **content: Any) -> str:
    """A page as text: a template such as `run_page.html`, filled with what it shows and the date."""
    folder = jinja2.FileSystemLoader(str(resources.files("rtk.report")))
    environment = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(date=time.strftime("%Y-%m-%d %H:%M"), **content)


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Render a page and write it, folders included; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(template, **content), encoding="utf-8")
    return path
