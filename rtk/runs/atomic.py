"""Files that appear whole: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give a path to write to; the file takes the place of `path` once the body has ended well.

    It may be read by whom the umask says, whatever wrote it: safetensors would keep it from all others.

    Args:
        path: of the file.
        durable: sync it to disk, before and after it takes its place, so that it outlives a loss of power.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)
        if durable:
            sync_to_disk(partial)
        partial.replace(path)
        if durable:
            sync_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=1))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file of tensors by name."""
    from safetensors.torch import save_file  # torch: not where images are decoded

    with replacing(path) as partial:
        save_file(unshared(tensors), partial, metadata=metadata)


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors in memory of their own, as safetensors wants them; only shared ones are copied."""
    taken: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        own = tensor.contiguous()
        if own.untyped_storage().data_ptr() in taken:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found
