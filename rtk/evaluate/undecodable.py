"""Leaving out images that cannot be decoded, before anything is predicted: `data.on_error=skip`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rtk.config.data import DataConfig
from rtk.data.decode.blocks import find_faults
from rtk.data.decode.faults import Fault, FaultLog
from rtk.data.decode.pipeline import Selection
from rtk.data.sets.dataset import content_hash
from rtk.runs.atomic import write_json
from rtk.runtime.console import progress_bar

SKIPPED_FILE = "skipped.json"


def leave_out_undecodable(
    selections: Mapping[str, Selection], data: DataConfig, folder: Path
) -> dict[str, Selection]:
    """The selections without the images that cannot be decoded.

    Training leaves the same images out, so that both hold out the same ones for validation.

    Args:
        selections: data sets by name.
        data: `on_error`, `max_errors`; with `fail` nothing is looked for: prediction stops at such an image.
        folder: where the images are listed, in `skipped.json`, and not looked for again.

    Raises:
        BadImageError: more images of a set than `max_errors` cannot be decoded.
    """
    if data.on_error == "fail":
        return dict(selections)
    folder.mkdir(parents=True, exist_ok=True)
    found = _read(folder / SKIPPED_FILE)
    known = {name: {"data": content_hash(s.dataset), "rows": len(s)} for name, s in selections.items()}
    new = {
        name: selection
        for name, selection in selections.items()
        if found.get(name, {}).get("of") != known[name]
    }
    if new:
        found |= {name: {"of": known[name], "images": images} for name, images in _find(new).items()}
        write_json(folder / SKIPPED_FILE, found)
    log = FaultLog("skip", data.max_errors)
    for name, selection in selections.items():
        for image in found[name]["images"]:
            log.add(Fault(**image), selection.dataset.rows)
    return {
        name: replace(selection, left_out=tuple(image["row"] for image in found[name]["images"]))
        for name, selection in selections.items()
    }


def _find(selections: Mapping[str, Selection]) -> dict[str, list[dict[str, Any]]]:
    faults: dict[str, list[dict[str, Any]]] = {name: [] for name in selections}
    with progress_bar("looking for images that cannot be decoded") as progress:
        for fault in find_faults(selections, progress):
            faults[fault.set].append(asdict(fault))
    return {name: sorted(found, key=lambda fault: fault["row"]) for name, found in faults.items()}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
