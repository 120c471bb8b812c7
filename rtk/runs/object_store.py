"""Folders on object storage (`s3://`, `gs://`): every operation is tried again, for a limited time.

Credentials are found by the cloud's own chain (environment, profile, role of the machine); the address of
another server than the cloud's is `AWS_ENDPOINT_URL`. `RTK_STORAGE_TIMEOUT` says for how many seconds an
operation is tried.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from rtk.config.errors import ConfigError
from rtk.runs.atomic import replacing

if TYPE_CHECKING:
    from pyarrow import fs
    from tenacity import RetryCallState

SCHEMES = ("s3", "gs")
TIMEOUT = "RTK_STORAGE_TIMEOUT"
DEFAULT_SECONDS = 300.0
CHUNK_BYTES = 8 << 20
# What the storage says for good: trying again would only hide it.
FINAL = (
    *("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH"),
    *("Access Denied", "AccessDenied", "NoSuchBucket", "Bucket not found", "PERMISSION_DENIED"),
)
PROBE = ".written-to-see-whether-it-can-be"
WARN_AT = 2  # attempts, each of which has tried a few times itself
Result = TypeVar("Result")
logger = logging.getLogger(__name__)
Action: TypeAlias = "Callable[[fs.FileSystem, str], Result]"  # of a file system and a place in it


class StorageError(OSError):
    """Object storage did not do what was asked, within the time that it was tried for."""


class Entry(NamedTuple):
    """An object: its size in bytes and when it was written, nanoseconds since 1970."""

    size: int
    written: int


def is_uri(place: str | Path) -> bool:
    """Whether a place is on object storage.

    Raises:
        ConfigError: it is a URI of another kind.
    """
    scheme, found, _ = str(place).partition("://")
    if found and scheme not in SCHEMES:
        raise ConfigError(f"{place}: got {scheme}://, wanted a folder, s3:// or gs://")
    return bool(found)


class Uri(NamedTuple):
    """Parts of `s3://bucket/folder?options`; the options are pyarrow's, such as `region=eu-central-1`."""

    scheme: str
    bucket: str
    folder: str
    options: str

    def __str__(self) -> str:
        address = f"{self.scheme}://{self.bucket}/{self.folder}".rstrip("/")
        return address + (f"?{self.options}" if self.options else "")


def parse_uri(text: str) -> Uri:
    """The parts of a URI; its folder is taken as it is typed.

    Raises:
        ConfigError: it is of another kind, names no bucket, or leads out of itself.
    """
    is_uri(text)
    address, _, options = text.partition("?")
    scheme, _, rest = address.partition("://")
    bucket, _, folder = rest.partition("/")
    folder = folder.strip("/")
    if not bucket or (folder and {"", ".", ".."} & set(folder.split("/"))):
        raise ConfigError(f"{text}: wanted a bucket and a folder in it, {scheme}://BUCKET/FOLDER")
    return Uri(scheme, bucket, folder, options)


def seconds_to_try() -> float:
    """How long an operation is tried for.

    Raises:
        ConfigError: the environment says no number of seconds.
    """
    text = os.environ.get(TIMEOUT, str(DEFAULT_SECONDS))
    try:
        if (seconds := float(text)) > 0:
            return seconds
    except ValueError:
        pass
    raise ConfigError(f"{TIMEOUT}: got {text!r}, wanted a number of seconds above 0")


@dataclass(frozen=True)
class ObjectStore:
    """A folder on object storage.

    Attributes:
        uri: of the folder.
    """

    uri: Uri

    def entries(self) -> dict[str, Entry]:
        """All objects below the folder, by their names in it; none where there is no such folder.

        Raises:
            StorageError: it cannot be reached.
        """
        from pyarrow import fs

        found = self._try("", lambda files, place: files.get_file_info(_below(place, recursive=True)))
        start = len(f"{self.uri.bucket}/{self.uri.folder}".rstrip("/")) + 1
        return {info.path[start:]: _entry(info) for info in found if info.type == fs.FileType.File}

    def folders(self) -> list[str]:
        """Names of the folders in it, sorted; raises as `entries`."""
        from pyarrow import fs

        found = self._try("", lambda files, place: files.get_file_info(_below(place, recursive=False)))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def entry(self, name: str) -> Entry | None:
        """An object; None where there is none. Raises as `entries`."""
        from pyarrow import fs

        info = self._try(name, lambda files, place: files.get_file_info(place))
        return _entry(info) if info.type == fs.FileType.File else None

    def upload(self, file: Path, name: str) -> Entry:
        """Let an object be what a file holds now; a reader sees the old object or the new one.

        Raises:
            StorageError: it cannot be written.
        """

        def copy(files: fs.FileSystem, place: str) -> Entry:
            with file.open("rb") as source, files.open_output_stream(place) as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
                copied = source.tell()
            info = files.get_file_info(place)
            if info.size != copied:  # a stream that breaks may be closed as if it had ended
                raise OSError(f"{info.size} bytes arrived of {copied}")
            return _entry(info)

        return self._try(name, copy)

    def download(self, name: str, file: Path) -> Entry:
        """Let a file hold what an object does, whole or not at all, and be as old.

        Raises:
            StorageError: it cannot be read.
            FileNotFoundError: there is no such object.
        """

        def copy(files: fs.FileSystem, place: str) -> Entry:
            entry = _entry(files.get_file_info(place))
            with replacing(file) as partial:
                with files.open_input_stream(place) as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                if partial.stat().st_size != entry.size:
                    raise OSError(f"{partial.stat().st_size} bytes came of {entry.size}")
                os.utime(partial, ns=(entry.written, entry.written))
            return entry

        file.parent.mkdir(parents=True, exist_ok=True)
        return self._try(name, copy)

    def check(self) -> None:
        """Write an object and delete it again.

        Raises:
            StorageError: nothing can be written there.
        """
        with tempfile.NamedTemporaryFile() as empty:
            self.upload(Path(empty.name), PROBE)
        self.delete(PROBE)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there; raises as `entries`."""

        def remove(files: fs.FileSystem, place: str) -> None:
            with suppress(FileNotFoundError):
                files.delete_file(place)

        self._try(name, remove)

    def _try(self, name: str, action: Action[Result]) -> Result:
        """What an action on an object returns, tried until it succeeds, is refused or the time is over.

        Raises:
            StorageError: naming the object and what the storage said last.
        """
        from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay
        from tenacity import wait_exponential_jitter as wait

        uri, seconds = self.uri._replace(folder=f"{self.uri.folder}/{name}".strip("/")), seconds_to_try()
        place = f"{uri.bucket}/{uri.folder}".rstrip("/")
        attempts = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(seconds),
            wait=wait(0.2, 10, jitter=0.5),
            before_sleep=lambda state: _warn(uri, state, seconds),
        )
        try:
            return attempts(lambda: action(_file_system(str(uri._replace(folder=""))), place))
        except FileNotFoundError:
            raise
        except RetryError as error:
            last = error.last_attempt.exception()
            raise StorageError(f"{uri}: {_last_line(last)} (tried for {seconds:g} s, {TIMEOUT})") from None
        except OSError as error:
            raise StorageError(f"{uri}: {_last_line(error)}") from None


def _warn(uri: Uri, state: RetryCallState, seconds: float) -> None:
    """Say that something is waited for."""
    if state.attempt_number == WARN_AT and state.outcome is not None:
        reason = _last_line(state.outcome.exception())
        logger.warning("%s: %s; it is tried again for up to %g s (%s)", uri, reason, seconds, TIMEOUT)


def _last_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1]


def _may_pass(error: BaseException) -> bool:
    """Whether an error may be gone at the next attempt."""
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError | PermissionError):
        return False
    # What this machine's disk says is no fault of the storage's.
    is_local = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return not is_local and not any(word in str(error) for word in FINAL)


@cache
def _file_system(bucket: str) -> fs.FileSystem:
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(bucket)[0]
    except ValueError as error:
        raise ConfigError(f"{bucket}: cannot open this URI: {error}") from None


def _below(place: str, recursive: bool) -> fs.FileSelector:
    from pyarrow import fs

    return fs.FileSelector(place, recursive=recursive, allow_not_found=True)


def _entry(info: fs.FileInfo) -> Entry:
    return Entry(info.size or 0, info.mtime_ns or 0)
