"""Measured here, or recorded elsewhere: what a notebook shows when it can't or shouldn't measure.

    run = measured_or_recorded("prefork-breathes", breathe)

calls `breathe()` and gives what it returned. With MPMKIT_REPLAY=1, or on a machine that is too small for it, it
gives what the same function returned when it was recorded, and prints when and where that was. MPMKIT_REPLAY=0
measures whatever the machine. MPMKIT_RECORD=1 keeps what was measured as the new recording
(data/recorded/NAME.json), unless other work took more than 5% of the machine meanwhile.

What can be recorded: plain values (numbers, texts, lists, dicts with text keys) and a
`mpmkit.measure.recording.Recording`, anywhere among them.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

from mpmkit.measure.cpus import OtherWork
from mpmkit.measure.recording import Recording
from mpmkit.measure.records import Machine, RecordError, machine, recorded_folder

T = TypeVar("T")

MEMORY_MB = 400  # a small pool, a load generator and a kernel side by side
HEADLINE_CORES, HEADLINE_MB = 2.0, 2000


def _share(here: Machine) -> tuple[float, float]:
    """(cores, MB of memory) that a process gets on a machine, the container's limits counted."""
    cores = min(here.cores, here.cpu_limit or here.cores)
    memory = min((mb for mb in (here.memory_mb, here.memory_limit_mb) if mb), default=math.inf)
    return cores, memory


def not_headline(here: Machine | None = None) -> str:
    """What not to quote from a machine (this one by default) with fewer than 2 cores or 2 GB, and
    what holds all the same; "" for a larger one."""
    cores, memory = _share(here or machine())
    said = ""
    if cores < HEADLINE_CORES:
        said += (
            f" {cores:g} core{'s' if cores != 1 else ''} for server, load and notebook together: don't "
            "quote requests per second, latencies or their ratios, the generator takes its share of "
            "them. Trust what happens and in which order: letters, forks, who waits, who is refused."
        )
    if memory < HEADLINE_MB:
        said += (
            f" {memory:,.0f} MB of memory: large pools are cut short, so don't quote how far one gets. "
            "Trust the memory of a process and of a connection (PSS)."
        )
    return said and "Not headline figures." + said


def why_recorded(*, cores: float = 0.5, memory_mb: float = MEMORY_MB) -> str:
    """Why the notebook should not measure here, where it needs so much to mean something; "" if it should."""
    if wish := os.environ.get("MPMKIT_REPLAY", ""):
        return "" if wish == "0" else f"MPMKIT_REPLAY={wish}"
    given, memory = _share(machine())
    if given < cores:
        return f"this machine gives {given:g} cores, and {cores:g} are needed"
    if memory < memory_mb:
        return f"this machine gives {memory:,.0f} MB of memory, and {memory_mb:,} are needed"
    return ""


def measured_or_recorded(
    name: str, measure: Callable[[], T], *, read: Callable[[Path], T] | None = None, **needs: float
) -> T:
    """What `measure()` returns, or what it returned when it was recorded under `name`.

    name    the recording: data/recorded/NAME.json, or the file of that name if it has an ending
    read    how to read a recording that is not JSON (a CSV of `mpmkit.measure.records`)
    needs   cores and memory_mb, as of `why_recorded`

    Raises RecordError when there is no such recording, or it can't be read.
    """
    if not (why := why_recorded(**needs)):
        if caveat := not_headline():
            print(caveat)
        if os.environ.get("MPMKIT_RECORD", "") in ("", "0") or read is not None:
            return measure()
        return record(name, measure)
    if not (path := place_of(name)).is_file():
        remedy = "set MPMKIT_REPLAY=0 to measure all the same"
        raise RecordError(f"{why}, but there is no recording {path.name}; {remedy}")
    if read is not None:
        print(f"RECORDED, not measured here ({why}): {path.name}")
        return read(path)
    value, when, where = load(path)
    say(f"RECORDED on {when} on {where} and not measured here ({why})")
    return value


def say(*parts: Any) -> None:
    """Print a sentence in lines that fit a narrow cell: JupyterLab breaks longer ones within words."""
    print(fill(" ".join(map(str, parts)), 96, subsequent_indent="  ", break_on_hyphens=False))


def recorded(name: str) -> Any:
    """What was recorded under `name`. Raises RecordError if there is no such recording."""
    return load(place_of(name))[0]


def place_of(name: str) -> Path:
    """Where the recording of that name lies, or would."""
    return recorded_folder() / (name if Path(name).suffix else f"{name}.json")


def record(name: str, measure: Callable[[], T]) -> T:
    """What `measure()` returns; it becomes the recording of that name, unless other work took more than
    OtherWork.MOST of the machine meanwhile, which is said. Raises TypeError for what can't be recorded."""
    path, others = place_of(name), OtherWork()
    value = measure()
    share = others.share()
    if share > others.MOST:
        why = f"other work took {share:.0%} of this machine meanwhile. {path.name} stays as it was"
        print(f"NOT recorded: {why}; record on a machine that does nothing else")
        return value
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    here = {key: value for key, value in vars(machine()).items() if value is not None}
    kept = {"name": name, "made_at": when, "machine": here, "other_work": round(share, 3)}
    kept["value"] = _plain(value)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kept, separators=(",", ":"), allow_nan=False) + "\n")
    part.replace(path)
    return value


def load(path: Path) -> tuple[Any, str, str]:
    """(the value, when it was made, on what) of a recording. Raises RecordError for another file."""
    try:
        record = json.loads(path.read_text())
        where = record["machine"]
        said = f"{where.get('cpu_model', 'an unknown CPU')}, {where.get('cores')} cores"
        if "other_work" in record:
            said += f", {record['other_work']:.1%} of them busy with other work"
        return _value(record["value"]), record["made_at"], said
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a recording: {error!r}") from None


def _plain(value: Any) -> Any:
    """The value as JSON has it: what JSON has no name for is an object with one key, its kind."""
    if isinstance(value, Recording):
        return {"recording": value.to_json()}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(part) for key, part in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        odd = isinstance(value, float) and not math.isfinite(value)
        return {"float": str(value)} if odd else value
    can = "numbers, texts, lists, dicts with text keys and what a watch recorded"
    raise TypeError(f"{type(value).__name__} can't be recorded; give {can}")


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, inner),) = plain.items()
    if kind == "recording":
        return Recording.from_json(inner)
    return float(inner) if kind == "float" else {key: _value(part) for key, part in inner.items()}
