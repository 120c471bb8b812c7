"""A process that gives malformed inputs to rtk's commands and says of each what came of it.

    python benchmarks/faults_worker.py SAMPLES KIND COUNT SEED SKIP     KIND: of faults_inputs.py, or exploits

A line with an input's number is printed before it and its row after it, so that whoever reads them knows
which one a process has died or hung in. What an input must not do is seen by an audit hook of Python's
(processes, connections, pickles, code from the input, files written beside it) and by a file that payloads
would make.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import re
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from faults_given import PACKAGE, RUN, Input, call
from faults_inputs import KINDS, cases
from hypothesis import HealthCheck, Phase, given, seed, settings

from rtk import cli

CANARY = "CANARY"  # file that payloads make
SECRET = "WORD-OF-A-FILE-ELSEWHERE"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")  # what a terminal may obey
MARKUP = "<script>alert("
FORBIDDEN = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
FORBIDDEN |= {"socket.connect", "socket.getaddrinfo", "pickle.find_class", "os.spawn", "code.__new__"}
ASKED = (
    "fc-list",
    "git",
    "uname",
)  # matplotlib's look at the fonts; rtk's at its own version and the machine
MOVING = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
ADDRESS_SPACE = 8 * 2**30  # beyond what the process has: a safety, memory is measured


class Watch:
    """What Python tells an audit hook of while an input is given; nothing at other times."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.seen = str(folder), False, list[str]()
        self.cache = str(folder.with_name("cache"))
        sys.addaudithook(self)

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        """Note what must not happen."""
        if not self.active:
            return
        if event in FORBIDDEN and not (event == "subprocess.Popen" and details[0] in ASKED):
            self.seen.append(f"{event} {str(details)[:200]}")
        elif event == "exec" and self.folder in str(getattr(details[0], "co_filename", "")):
            self.seen.append(f"exec {details[0].co_filename}")
        elif event == "open":
            self.look_at_opened(*details)
        elif event in MOVING and not self.is_own(details[1 if event == "os.link" else 0]):
            self.seen.append(f"{event} {str(details)[:200]}")

    def look_at_opened(self, path: Any, mode: Any, flags: Any) -> None:
        """Note files that are written outside the input's folder."""
        writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
        if writes and not self.is_own(path):
            self.seen.append(f"writes {str(path)[:200]}")

    def is_own(self, path: Any) -> bool:
        """Whether a path lies in the input's folder; numbers are files that were opened before."""
        if not isinstance(path, str | bytes | os.PathLike):
            return True
        full = os.path.abspath(os.fsdecode(path))
        return full.startswith((self.folder, self.cache, "/dev/null", "/dev/shm")) or "__pycache__" in full


def memory(name: str) -> int:
    """`VmRSS` or `VmHWM` of this process in bytes."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def is_typed(error: BaseException) -> bool:
    """Whether an error was raised on purpose: of rtk's own types, by a `raise` in rtk, or a file's."""
    if isinstance(error, MemoryError | RecursionError | AssertionError):
        return False
    if type(error).__module__.startswith("rtk."):
        return True
    if isinstance(error, OSError) and error.filename is not None:
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return "/rtk/" in last.filename and line.startswith("raise") and isinstance(error, ValueError)


def one_command(words: list[str]) -> dict[str, Any]:
    """Run a command; its exit code, what it printed, and what is wrong with how it ended."""
    out, err = io.StringIO(), io.StringIO()
    code, wrong = 0, []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = call(words) if words[0].startswith("rtk.") else cli.main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException as error:
            code = 2 if isinstance(error, ValueError) else getattr(error, "exit_code", 1)
            said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            cli._say(f"error: {said}", code)
            wrong += [] if is_typed(error) else [untyped(error)]
    text = out.getvalue() + err.getvalue()
    wrong += [] if code in (0, 1, 2) else [f"exit code {code}"]
    wrong += [f"control characters {found[:9]}"] if (found := CONTROL.findall(text)) else []
    wrong += ["Traceback"] if "Traceback (most" in text else []
    wrong += ["the word of a file elsewhere"] if SECRET in text else []
    return {"code": code, "said": err.getvalue().strip()[-300:], "wrong": wrong}


def untyped(error: BaseException) -> str:
    """Type, message and place of an error that nobody raised on purpose."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/rtk/" in f.filename]
    return f"{type(error).__name__}: {str(error)[:150]!r} [{' '.join(own[-3:])}]"


def try_input(case: Input, samples: Path, watch: Watch) -> dict[str, Any]:
    """Write an input to its folder, run its commands there, and say what came of it."""
    folder = Path(watch.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case.write(samples, folder)
    os.chdir(folder)
    before, started, used = memory("VmRSS"), time.monotonic(), time.process_time()
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    watch.seen, watch.active = [], True
    done = [one_command(words) for words in case.commands]
    watch.active = False
    row = {"seconds": time.monotonic() - started, "cpu": time.process_time() - used}
    row = {name: round(value, 2) for name, value in row.items()}
    wrong = [fault for one in done for fault in one["wrong"]] + watch.seen
    wrong += ["the canary was made"] if (samples / CANARY).exists() else []
    wrong += [
        f"markup in {page.name}" for page in folder.rglob("*.html") if MARKUP in page.read_text("utf-8")
    ]
    (samples / CANARY).unlink(missing_ok=True)
    codes = [one["code"] for one in done]
    said = next((one["said"] for one in done if one["code"]), "")
    return {
        "label": case.label,
        "commands": [" ".join(words)[:120] for words in case.commands],
        "codes": codes,
        "said": said,
        **row,
        "mib": max(0, memory("VmHWM") - before) // 2**20,
        "wrong": wrong,
    }


def warm_up(samples: Path, watch: Watch) -> None:
    """Run every command on what is whole, so that no input pays for imports and caches."""
    words = [["predict", PACKAGE, f"{PACKAGE}", "--html", "p.html"], ["plan", "digits_demo"], ["report", RUN]]
    words += [["compare", RUN, "--html", "c.html"], ["leaderboard", RUN], ["export", RUN, "--no-mlflow"]]
    words += [
        ["data", "check", "builtin:digits/test.parquet"],
        ["data", "inspect", "builtin:digits/test.parquet"],
    ]
    try_input(Input("", words, base=RUN), samples, watch)


def tell(row: dict[str, Any]) -> None:
    """Print a row for the process above."""
    print(json.dumps(row), file=sys.__stdout__, flush=True)


def serve(samples: Path, kind: str, count: int, number: int, skip: int) -> None:
    """Draw the inputs of a kind, and try those after the first `skip`."""
    watch, seen = Watch(samples / "work"), 0
    warm_up(samples, watch)

    def one(case: Input) -> None:
        nonlocal seen
        seen += 1
        if seen > skip:
            tell({"number": seen - 1, "label": case.label})
            tell({"number": seen - 1, **try_input(case, samples, watch)})

    if kind == "exploits":
        from faults_exploits import exploits

        for case in exploits(samples):
            one(case)
        return
    without = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(f"{number} {kind}")(without(given(cases(KINDS[kind], samples))(one)))()


def main() -> None:
    """Set the process up as a user's: no Ray, no network, a cache of its own."""
    samples, kind, *numbers = sys.argv[1:]
    os.environ["HOME"] = str(Path(samples, "cache"))
    os.environ["TMPDIR"] = str(Path(samples, "work"))
    os.environ["RTK_DEBUG"] = "1"  # errors come out of `main` as they are, to be looked at
    limit = 16 * 2**30 + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    serve(Path(samples), kind, *map(int, numbers))


if __name__ == "__main__":
    main()
