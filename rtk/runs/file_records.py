"""What a checkpoint's manifest says of a file, and whether the file still is what was written.

The SHA-256 of all bytes says it for certain. A huge file takes minutes to read, so a run may also ask for
checksums of its blocks (`train.verify: sampled`): then some of these are read before the file is loaded, the
first and the last and others drawn anew each time. A lost block, a cut or exchanged file, or one of another
step is found so; a single flipped bit only if it lies in a block that was drawn.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from pathlib import Path
from typing import Any, TypeAlias

FileRecord: TypeAlias = dict[str, Any]  # `bytes` and `sha256` of a file, `blocks` where they were wanted

BLOCK = 64 * 2**20  # bytes
SAMPLED = 4  # blocks that are read of a file that is longer


def record_of(path: Path, in_blocks: bool = False) -> FileRecord:
    """The record of a file.

    Args:
        path: of the file.
        in_blocks: let readers go by some of its blocks, where it has more than `SAMPLED`.
    """
    size = path.stat().st_size
    record: FileRecord = {"bytes": size, "sha256": hash_of_file(path)}
    count = -(-size // BLOCK)
    if in_blocks and count > SAMPLED:
        record["blocks"] = [_checksum(path, number) for number in range(count)]
    return record


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault_of_content(path: Path, record: FileRecord, every_byte: bool = True) -> str | None:
    """What is wrong with the content of a file of the right length; None where nothing was found.

    Args:
        path: of the file.
        record: of `record_of`, as a manifest has it.
        every_byte: also where the record has checksums of blocks.
    """
    checksums = None if every_byte else record.get("blocks")
    if not checksums:
        return None if hash_of_file(path) == record["sha256"] else "not what was written, by its SHA-256"
    within = random.sample(range(1, len(checksums) - 1), SAMPLED - 2)  # nosec B311  # no secret
    for number in (0, *within, len(checksums) - 1):
        if _checksum(path, number) != checksums[number]:
            return f"not what was written, by the CRC-32 of block {number + 1} of {len(checksums)}"
    return None


def _checksum(path: Path, number: int) -> int:
    """CRC-32 of a block: as fast as memory, and it is no attacker that this is about."""
    with path.open("rb") as file:
        file.seek(number * BLOCK)
        return zlib.crc32(file.read(BLOCK))
