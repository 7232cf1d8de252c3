"""The notebooks in JupyterLab in a headless Chromium, clicked as a reader clicks. MPMKIT_SCREENSHOTS=DIR keeps
the pictures. JupyterLab listens on loopback, without a token, for the time of these tests only."""

import contextlib
import itertools
import json
import os
import re
import shutil
import uuid
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from support import waiting
from support.jupyter import THEIR_WARNINGS, chromium, jupyter
from support.waiting import MARK, poll_until

from mpmkit.measure import procfs, records

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), THEIR_WARNINGS]
IMPORT = "from mpmkit import lab\nfrom mpmkit.lab import panel\npanel.GONE = 12"
BOOKS = {"sweep": "lab.sweep_panel('worker', 'event', axis='users')", "tracer": "lab.tracer()"}
WIDGET = "window.jupyterapp?.shell.currentWidget"
PLACE = f"{WIDGET}.content.activeCellIndex"
SETTINGS = {
    "notebook-extension/tracker": {"autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false"},
}


@pytest.fixture(scope="module")
def browser():
    """One context of a Chromium: what its pages load is cached."""
    with chromium() as browser:
        yield browser.new_context()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(the address of a JupyterLab with the control room's notebook and some more, a mark of its processes)."""
    place = tmp_path_factory.mktemp("lab")
    books = place / "notebooks"
    books.mkdir()
    room = Path(shutil.copy(ROOT / "notebooks" / "control-room.ipynb", books))
    last = json.loads(room.read_text())["cells"][-1]["source"]
    (commented,) = [line for line in last if line.startswith("# lab.control_room(")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for name, code in {**BOOKS, "two-rooms": commented[2:]}.items():
        cells = [v4.new_code_cell(source) for source in (IMPORT, code)]
        nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), books / f"{name}.ipynb")
    for name, values in SETTINGS.items():
        file = place / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    word, path = uuid.uuid4().hex, f"{ROOT}:{ROOT / 'notebooks'}"
    environment = {MARK: word, "PYTHONPATH": path, "MPMKIT_SCALE": "smoke"}
    folders = ("JUPYTER_CONFIG", "JUPYTERLAB_SETTINGS", "JUPYTERLAB_WORKSPACES", "JUPYTER_RUNTIME")
    environment |= {f"{one}_DIR": str(place / one.partition("_")[2].lower()) for one in folders}
    no_news = "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    with jupyter("jupyterlab", books, "--expose-app-in-browser", no_news, **environment) as address:
        yield address, word


def marked(word: str, what: str = "mpmkit serve") -> bool:
    """Whether a process that carries the mark has `what` in its command line."""
    lines = (procfs.text_of(f"/proc/{pid}/cmdline") for pid in waiting.marked(word))
    return any(what in line.replace("\0", " ") for line in lines)


def wait_for(condition, what: str, seconds: float = 20):
    return poll_until(condition, what, seconds)


def nothing_serves(word: str, seconds: float = 20) -> None:
    wait_for(lambda: not marked(word), "no server is left", seconds)
    wait_for(lambda: not marked(word, "locust"), "no generator is left", seconds)


def shot(page, name: str, selector: str = "") -> None:
    """Keep a picture of the page, or of one element, where MPMKIT_SCREENSHOTS says."""
    if folder := os.environ.get("MPMKIT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        target = page.locator(selector).first if selector else page
        target.screenshot(path=os.path.join(folder, f"{name}.png"))


def command(page, name: str, arguments: str = "{}") -> None:
    page.evaluate(f"void window.jupyterapp.commands.execute('{name}', {arguments})")


def dark(page) -> None:
    command(page, "apputils:change-theme", "{theme: 'JupyterLab Dark'}")


def restart(page) -> None:
    page.evaluate(f"void {WIDGET}.sessionContext.session.kernel.restart()")


@contextlib.contextmanager
def opened(browser, lab, book: str, selector: str, **how):
    """(a page with a notebook of which all cells run, once this element is there; the mark of its processes). All
    pages share the browser's cache of Lab's scripts."""
    page, (address, word) = browser.new_page(), lab
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(**how)
    page.goto(f"{address}/lab/tree/{book}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=40_000)
    # The page's own indicator says idle before the kernel is connected; a run then comes to nothing.
    kernel = f"{WIDGET}?.sessionContext?.session?.kernel"
    ready = f"(k => k && k.connectionStatus === 'connected' && k.status === 'idle')({kernel})"
    page.wait_for_function(ready, timeout=40_000)
    command(page, "application:toggle-left-area")
    if how:
        dark(page)
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(selector, timeout=40_000)
    yield page, word
    if not page.is_closed():
        page.evaluate(f"{WIDGET}.sessionContext.shutdown().catch(() => null)")
        page.close()


def shown(page, figure: str) -> float:
    """A figure of the strips: points, qps, p99."""
    return float(page.locator(".mk-strips").first.get_attribute(f"data-{figure}") or 0)


def field(page, name: str):
    """The row of a directive, or of a field of the load."""
    return page.locator(f".mk-is-{name}").first


def letters(page) -> str:
    return page.locator(".mk-board").first.get_attribute("data-letters") or ""


def typed(page, name: str, text: str) -> None:
    box = field(page, name).locator('input[type="text"]')
    box.fill(text)
    box.press("Enter")


def one_step(handle, key: str) -> None:
    handle.focus()
    handle.press(key)


def slow_script(page) -> None:
    """The load of it begins."""
    field(page, "path").locator("select").select_option(label="slow script, 0.1 s")
    page.locator(".mk-go").first.click()


def start(page, word: str, number: int = 0) -> None:
    page.locator(".mk-start").nth(number).click(timeout=30_000)
    page.locator(".mk-runs").nth(number).wait_for(timeout=20_000)
    assert marked(word)


def stopped(page, word: str) -> None:
    page.wait_for_function("!document.querySelector('.mk-runs')", timeout=20_000)
    nothing_serves(word)


def test_the_control_room_by_clicking(browser, lab):
    with opened(browser, lab, "control-room", ".mk-room") as (page, word):
        page.locator(".mk-room").first.scroll_into_view_if_needed()
        keys_stay_in_the_control_that_has_the_focus(page)
        assert not marked(word), "nothing runs before a click"

        # A number that httpd corrects, and its message
        threads = field(page, "ThreadsPerChild")
        typed(page, "ThreadsPerChild", "100")
        wait_for(lambda: "AH00507" in threads.inner_text(), "httpd's correction message")
        typed(page, "ThreadsPerChild", "8")
        wait_for(lambda: "AH" not in threads.inner_text(), "the message goes with its reason")

        start(page, word)
        wait_for(lambda: "_" in letters(page), "idle workers on the scoreboard")
        # Browsers: connections that event keeps without a thread
        typed(page, "browsers", "40")
        wait_for(lambda: "40 parked" in page.locator(".mk-legend").inner_text(), "40 parked")

        slow_script(page)
        wait_for(lambda: shown(page, "qps") > 50, "the load shows in the QPS line", 30)
        wait_for(lambda: set("RWKC") & set(letters(page)), "busy workers on the scoreboard")
        before = shown(page, "points")
        wait_for(lambda: shown(page, "points") >= before + 6, "two to four frames a second", 6)
        wait_for(lambda: shown(page, "p99") > 0, "the load's p99, live", 40)
        shot(page, "control-room-event-lab")

        # A directive by its slider, and Graceful brings it in
        one_step(field(page, "StartServers").locator(".noUi-handle"), "ArrowRight")
        page.wait_for_selector(".mk-graceful.mk-due")
        page.locator(".mk-graceful").click()
        wait_for(lambda: "generation 1" in page.locator(".mk-log").inner_text(), "a generation")
        page.locator(".mk-stop").click()
        stopped(page, word)

        # The cells again: the server of the last run goes, and the new panel stands there stopped
        start(page, word)
        command(page, "notebook:run-all-cells")
        stopped(page, word)
        # The kernel is restarted under the running server, and the room says so
        start(page, word)
        restart(page)
        nothing_serves(word)
        page.get_by_text("The kernel of this control room has ended").wait_for(timeout=10_000)
        lamp = page.locator(".mk-lamp").first
        color = lamp.evaluate("lamp => getComputedStyle(lamp).backgroundColor")
        assert color == "rgba(0, 0, 0, 0)"
        assert page.locator(".mk-head").first.evaluate("head => head.inert")
        shot(page, "control-room-kernel-ended", ".mk-room")


CONTROLS = (
    ".mk-start", ".mk-choices button", ".mk-is-StartServers .noUi-handle", ".mk-is-StartServers input",
    ".mk-is-KeepAlive input", ".mk-is-path select",
)  # fmt: skip


def keys_stay_in_the_control_that_has_the_focus(page) -> None:
    """Lab's command mode would add cells (a, b), cut them (x) and delete them (d d)."""
    cells = page.locator(".jp-Notebook .jp-Cell")
    for control in CONTROLS:
        page.locator(control).first.focus()
        before = cells.count(), page.evaluate(PLACE)
        for key in ("a", "b", "x", "d", "d", "ArrowDown", "ArrowUp"):
            page.keyboard.press(key)
        # A command would have run by the time that this one has.
        page.evaluate("window.jupyterapp.commands.execute('notebook:deselect-all')")
        assert (cells.count(), page.evaluate(PLACE)) == before, control
        assert page.evaluate("!!document.activeElement.closest('.mk-room')"), control
    dirty = f"{WIDGET}.context.model.dirty"
    assert page.evaluate(dirty)
    page.locator(".mk-start").focus()
    page.keyboard.press("Control+s")
    wait_for(lambda: not page.evaluate(dirty), "a key with Ctrl passes: the notebook is saved")
    typed(page, "StartServers", "2")  # it has some of those letters


def test_the_tracer_plays_and_its_keys_are_its_own(browser, lab):
    with opened(browser, lab, "tracer", ".tr .tr-run") as (page, _):

        def step() -> int:
            return int(re.search(r"step (\d+) of", page.locator(".tr-bar output").inner_text())[1])

        page.locator(".tr-bar button").nth(1).focus()
        before, cell = step(), page.evaluate(PLACE)
        for key, moved in (("ArrowRight", 1), ("PageDown", 21), ("ArrowLeft", 20)):
            page.keyboard.press(key)
            wait_for(lambda moved=moved: step() == before + moved, f"{key} from {before}")
        assert page.evaluate(PLACE) == cell
        page.keyboard.press("Space")
        wait_for(lambda: step() > before + 20, "it plays")
        shot(page, "tracer", ".tr")
        assert page.locator(".tr-run").count() == 3


def test_two_rooms_get_the_same_load(browser, lab):
    with opened(browser, lab, "two-rooms", ".mk-room", color_scheme="dark") as (page, word):
        one, other = rooms = page.locator(".mk-room").all()
        boxes = [room.bounding_box() for room in rooms]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
        for number in (0, 1):
            start(page, word, number)
        typed(one, "browsers", "30")
        wait_for(lambda: "30 keep-alive" in one.inner_text(), "worker's threads keep")
        wait_for(lambda: "30 parked" in other.inner_text(), "event's listener keeps")
        # The load is one, and so are the axis of time and the scale of each strip
        slow_script(one)

        def seen(name: str) -> list[str]:
            return [room.locator(".mk-strips").get_attribute(name) or "" for room in rooms]

        def one_axis() -> bool:
            (begin, end), (starts, ends) = (map(float, text.split()) for text in seen("data-axis"))
            return begin == starts and abs(end - ends) < 1.5

        def loaded() -> bool:
            return all(float(value or 0) > 90 for value in seen("data-p99"))

        wait_for(loaded, "both servers get the slow script's load", 30)
        wait_for(one_axis, f"one axis of time: {seen('data-axis')}")
        one.locator(".mk-go").click()
        begins = other.locator(".mk-go")
        wait_for(lambda: begins.inner_text().startswith("Start"), "the load ends for both")
        wait_for(lambda: len(set(seen("data-highs"))) == 1, f"one scale: {seen('data-highs')}")
        shot(page, "two-rooms-dark")
        # A closed tab stops its servers though the kernel lives.
        page.close()
        nothing_serves(word, 30)
        assert marked(word, "ipykernel"), "the kernel goes on"


def test_the_sweep_panel_measures_and_scrubs(browser, lab):
    with opened(browser, lab, "sweep", ".mk-sweep") as (page, word):
        panel = page.locator(".mk-sweep").first
        state = panel.locator(".mk-state")

        def drawn() -> int:
            return panel.locator(".scatterlayer path.point").count()

        def measuring() -> int:
            return "left)" in state.inner_text() and drawn()

        for name, text in {"low": 2, "high": 8, "steps": 2, "seconds": 0.5, "warmup": 0.5}.items():
            typed(page, name, f"{text}")
        wait_for(lambda: "4 points" in panel.inner_text(), "points of two MPMs")
        panel.locator(".mk-go").click()
        wait_for(lambda: marked(word), "a server of the sweep")
        first = wait_for(measuring, "a point while it measures", 60)
        shot(page, "sweep-running")
        wait_for(lambda: "done: 4 points" in state.inner_text(), "all points", 90)
        wait_for(lambda: drawn() == 6 > first, "four points, and two rings at the operating point")
        nothing_serves(word)

        # The recorded grid: no server, the slider moves the operating point.
        panel.get_by_role("button", name="Recorded").click()
        panel.locator(".mk-file select").select_option(label="kept-connections")
        wait_for(lambda: "points, measured on" in panel.inner_text(), "the file is open")
        wait_for(lambda: panel.locator(".mk-boards svg").count() == 3, "three scoreboards")
        handle, figures = panel.locator(".mk-at .noUi-handle"), panel.locator(".mk-figures")
        for _ in range(3):
            before = figures.inner_text()
            one_step(handle, "ArrowLeft")
            wait_for(lambda was=before: figures.inner_text() != was, "another operating point")
        shot(page, "sweep-scrubbed", ".mk-sweep")
        dark(page)
        page.set_viewport_size({"width": 1000, "height": 900})
        svgs = "[...document.querySelectorAll('.mk-sweep .main-svg')]"
        is_dark = "one => one.style.background.includes('22, 24, 28')"
        page.wait_for_function(f"{svgs}.some({is_dark})", timeout=20_000)
        assert panel.evaluate("one => one.scrollWidth <= one.clientWidth + 1"), "nothing is cut off"
        shot(page, "sweep-dark-narrow", ".mk-sweep")
        restart(page)
        page.get_by_text("The kernel of this panel has ended").wait_for(timeout=20_000)
        assert page.locator(".mk-sweep > .mk-head").evaluate("head => head.inert")


def figures_of_notebooks() -> dict:
    """Figures of the notebooks and the README, drawn from the recordings: name -> figure."""
    from helpers import cliffs, figures, memory_plots, order, regimes, sweep_plots

    import mpmkit
    from mpmkit import lab as of
    from mpmkit.lab import replay
    from mpmkit.measure import published
    from mpmkit.measure.qps import QpsTable
    from mpmkit.measure.sweep import SweepTable

    memory = mpmkit.recorded("memory-demo")
    memory = memory[memory["server"].isin(["mpmkit", "httpd"])]
    users = SweepTable(records.read(replay.place_of("07-users.csv")), ("users",)).summary()
    made = {"breathes": of.timeline(of.recorded("01-prefork-breathes"), title="prefork"),
            "knee": sweep_plots.sweep_curve(users, "users")}  # fmt: skip
    for kind, draw in itertools.product(("busy", "idle"), ("memory_curve", "memory_parts")):
        made[f"{draw}, {kind}"] = getattr(memory_plots, draw)(memory, kind)
    drawn = {"03-cliffs": cliffs.cliffs_figure, "03-think": cliffs.think_figure, "05-gil": regimes.gil_map,
             "01-cold": regimes.cold_figure, "07-starved": regimes.starved_figure}  # fmt: skip
    made |= {name: draw(of.recorded(name)) for name, draw in drawn.items()}
    for name in ("qps-full", "qps-demo", "qps-scripts"):
        rows = records.read(replay.place_of(f"{name}.csv"))
        summary = QpsTable(rows, published.figures()).summary()
        ours = summary[summary["server"] == "mpmkit"]
        made |= {name: figures.qps_bars(ours), f"{name}, ratios": order.ratio_dots(ours)}
    return made


BOXES = """[...document.querySelectorAll('.annotation-text-g, .textpoint text, .gtitle')]
.filter(one => one.textContent.trim()).map(one => {
  const {left, right, top, bottom} = one.getBoundingClientRect(), frame =
    document.querySelector('.main-svg').getBoundingClientRect();
  return [one.textContent, left, right, top, bottom, left < frame.left - 1 || right > frame.right + 1];
})"""
CROSSED = """[...document.querySelectorAll('.annotation-text-g')].filter(label => {
  const {left, right, top, bottom} = label.getBoundingClientRect();
  return [...document.querySelectorAll('.scatterlayer path.js-line, .shapelayer path')].some(line => {
    const length = line.getTotalLength(), place = line.getScreenCTM();
    return Array.from({length: length / 2}, (_, n) => line.getPointAtLength(2 * n).matrixTransform(place))
      .some(({x, y}) => x > left + 1 && x < right - 1 && y > top + 2 && y < bottom - 2);
  });
}).map(label => label.textContent)"""


def test_no_label_of_a_figure_lies_on_another_or_on_a_line(browser, tmp_path):
    """On a page of 1,000 pixels; and in a cell of that page, next to Lab's side bar."""
    page, wrong, file = browser.new_page(), [], tmp_path / "figure.html"
    for (name, figure), width in itertools.product(figures_of_notebooks().items(), (1000, 584)):
        figure.write_html(file, include_plotlyjs="directory")
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector(".main-svg")
        shot(page, f"figure-{name}-{width}")
        frame = page.locator(".main-svg").first.bounding_box()
        assert frame["width"] == width - 16, f"{name}: as wide as the page"
        boxes = page.evaluate(BOXES)
        assert boxes, name
        wrong += [f"{name}: {text} is cut off" for text, *_, cut in boxes if cut]
        wrong += [f"{name}: a line crosses {text}" for text in page.evaluate(CROSSED)]
        for one, other in itertools.combinations(boxes, 2):
            (_, left, right, top, bottom, _), (_, west, east, north, south, _) = one, other
            if min(right, east) - max(left, west) > 1 and min(bottom, south) - max(top, north) > 2:
                wrong.append(f"{name}: {one[0]!r} and {other[0]!r}")
    page.close()
    assert not wrong, "\n".join(wrong)
