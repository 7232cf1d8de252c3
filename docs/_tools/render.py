"""Executed copies of the notebooks, to read without running them.

    python -m docs._tools.render notebooks notebooks/rendered [--only 04]

The sources carry no outputs. A copy is executed top to bottom in a fresh kernel, with every plotly
figure as a PNG, since GitHub and nbviewer show neither widgets nor plotly's own format. That needs
a Chromium; without one the copies are made without figures, with a message.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What a reader of a static page can't see and what would make the file large.
LIVE = ("application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json")


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """A Chromium for kaleido, or None. BROWSER_PATH wins, as it does in kaleido itself."""
    named = os.environ.get("BROWSER_PATH")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


class RenderError(RuntimeError):
    """A notebook that did not run through; the message names it and the failing cell's words."""


def execute(source: Path, *, timeout: int = 900, static_figures: bool = False) -> Any:
    """The notebook after a run in a fresh kernel, as an nbformat node; the file is not changed.

    `timeout` is seconds a cell. The kernel's working directory is the notebook's own, as in Lab.
    Raises RenderError if a cell fails or takes longer.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    book = nbformat.read(source, as_version=4)
    environment = {
        **os.environ,
        "MPMKIT_THEME": "light",  # whatever its maker's JupyterLab looks like
        "PLOTLY_RENDERER": "png+plotly_mimetype" if static_figures else "json",
    }
    try:
        with tempfile.TemporaryDirectory(prefix="mpmkit-kernel-") as sockets:
            # Kernel and client talk by Unix sockets: TCP ports are chosen before the kernel takes them, and
            # a load that opens ports by the thousand may be there first.
            place = {"transport": "ipc", "ip": os.path.join(sockets, "kernel")}
            # store_widget_state: the state of every widget would be megabytes that no reader can see.
            NotebookClient(
                book,
                timeout=timeout,
                kernel_name="python3",
                store_widget_state=False,
                resources={"metadata": {"path": str(source.parent)}},
                config=Config({"KernelManager": place}),
            ).execute(env=environment)
    except CellTimeoutError as error:
        raise RenderError(f"{source.name}: a cell took longer than {timeout} s: {error}") from None
    except DeadKernelError as error:
        raise RenderError(f"{source.name}: {error} (was it out of memory?)") from None
    except CellExecutionError as error:
        raise RenderError(f"{source.name}: {error}") from None
    return book


def strip_live_outputs(book: Any) -> Any:
    """Drop from each output the parts that only a running kernel can show; in place."""
    for cell in book.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)  # clock times, new on every run
        for output in cell.outputs:
            data = output.get("data", {})
            if data.pop(LIVE[0], None) is not None:
                data.pop("text/plain", None)  # a widget's text stand-in is of no use, either
            described(output, data.pop(LIVE[1], None))
        cell.outputs = [one for one in cell.outputs if one.get("data", True)]
    book.metadata.pop("widgets", None)
    return book


def described(output: Any, figure: Any) -> None:
    """Give the picture of a plotly figure the figure's own description: as its text, as `alt` of the page
    that nbconvert makes, and within the PNG."""
    data = output.get("data", {})
    said = ((figure or {}).get("layout", {}).get("meta") or {}).get("alt", "")
    if said and "image/png" in data:
        data["text/plain"] = said
        output.metadata["image/png"] = {**output.metadata.get("image/png", {}), "alt": said}
        png = base64.b64decode(data["image/png"])
        chunk = b"iTXtDescription" + bytes(5) + said.encode()
        sum_ = struct.pack(">I", zlib.crc32(chunk))
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + sum_
        data["image/png"] = base64.b64encode(png[:33] + chunk + png[33:]).decode()  # after IHDR


def provenance() -> str:
    """When, where and how busy: what a reader has to know of a copy's figures."""
    from mpmkit.measure import records

    here, day = records.machine(), time.strftime("%Y-%m-%d", time.gmtime())
    replay = os.environ.get("MPMKIT_REPLAY", "")
    scale = os.environ.get("MPMKIT_SCALE", "demo")
    what = "experiments replayed from data/recorded" if replay else f"measured at scale {scale}"
    load = os.getloadavg()[0]
    return f"*Executed on {day} on {here.cpu_model}, {here.cores} cores, load average {load:.1f}; {what}.*"


def deepen_links(book: Any) -> Any:
    """Make relative links of the text that lead out of the folder, or to the exercises, right for a copy that
    lies one folder deeper; in place. Links to neighbours stay: their copies are neighbours, too."""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            deeper = cell.source.replace("](../", "](../../")
            cell.source = deeper.replace("](exercises/", "](../exercises/")
    return book


def notebooks_and_target(
    tool: Any, argv: Sequence[str] | None, *, sources: str = "", target: str = ""
) -> tuple[argparse.Namespace, list[Path]]:
    """The command line of this and of other tools: two folders, and the notebooks that are wanted. Where
    there are none, that is said."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {tool.__spec__.name}",
        description=tool.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in (("sources", sources), ("target", target)):
        parser.add_argument(name, type=Path, nargs="?" if default else None, default=default)
    parser.add_argument("--only", default="", help="notebooks whose name begins with this")
    chosen = parser.parse_args(argv)
    books = sorted(chosen.sources.glob(f"{chosen.only}*.ipynb"))
    if not books:
        print(f"mpmkit: no notebook {chosen.only}*.ipynb in {chosen.sources}", file=sys.stderr)
    return chosen, books


def main(argv: Sequence[str] | None = None) -> int:
    """Render every notebook of a folder into another; 1 if one of them failed."""
    import nbformat

    chosen, books = notebooks_and_target(sys.modules[__name__], argv)
    if not books:
        return 1
    browser = find_browser()
    if browser is None:
        print(
            "no Chromium here: copies are made without figures; apt install chromium, "
            "or set BROWSER_PATH",
            file=sys.stderr,
        )
    else:
        os.environ.setdefault("BROWSER_PATH", browser)
    chosen.target.mkdir(parents=True, exist_ok=True)
    failed = False
    for source in books:
        began = time.monotonic()
        try:
            said = provenance()  # before: the load average afterwards is the notebook's own
            book = strip_live_outputs(execute(source, static_figures=browser is not None))
            book.cells.append(nbformat.v4.new_markdown_cell(said, id="executed"))
        except RenderError as error:
            print(f"mpmkit: {error}", file=sys.stderr)
            failed = True
            continue
        if chosen.target.resolve().parent == chosen.sources.resolve():
            deepen_links(book)
        nbformat.write(book, chosen.target / source.name)
        print(f"{chosen.target / source.name}  {time.monotonic() - began:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
