"""Compare two files of rows: B's cost over A's with a 95% interval, and cheaper, dearer, the same or undecided.
Ends with 1 if something is dearer, with 2 if the input is bad.

A cost is CPU time or memory, or if the rows have neither, the time between two answers. If the generator was
the limit, that time is not the server's, and the row is left out. Rounds that both files have
are compared in pairs, others by Welch's interval; the four words are those of `stats.decide`.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from mpmkit.config.arguments import Parser
from mpmkit.load.fields import read_share
from mpmkit.measure import command, demand, records
from mpmkit.measure.records import RecordError, Row
from mpmkit.measure.stats import DEARER, MARGIN, UNDECIDED, Decision, decide

# table -> the columns that name what was measured, and the column of the cost.
COSTS: dict[str, tuple[tuple[str, ...], str]] = {
    "qps": (("server", "mpm", "kind", "script"), "server_cpu_us"),
    "bench": (("server", "mpm", "work"), "server_cpu_us"),
    "memory": (("server", "mpm", "against", "level"), "pss_kb"),
    "sweep": (("server", "mpm", "point"), "qps"),
}
SHOWN = 4  # names of what only one file has
MACHINE = ("cpu_model", "cores", "kernel", "python")

Costs = dict[str, dict[float, float]]
"""What was measured -> round -> its cost."""


def costs(rows: Sequence[Row]) -> Costs:
    """Of the rows of one table. Raises RecordError for a table without costs."""
    table = rows[0]["table"]
    if table == "demand":
        return {
            f"{who} {work}": demand.costs(points)
            for work in dict.fromkeys(row["work"] for row in rows)
            for who, points in demand.loads(rows, work).items()
        }
    if table not in COSTS:
        raise RecordError(f"rows of {table} have no cost; compare demand, {', '.join(COSTS)}")
    columns, column = COSTS[table]
    found: Costs = {}
    for row in rows:
        cost = row[column]
        if column == "qps":
            cost = 1 / cost if cost and not row["generator_bound"] else None
        if cost and row.get("scope", "server") == "server":
            name = " ".join(str(row[name]) for name in columns if row[name] is not None)
            rounds = found.setdefault(name, {})
            rounds[row["round"] + 1000 * (row["round"] in rounds)] = cost  # of a second run
    return found


def compare_files(
    a: str | Path, b: str | Path, margin: float = MARGIN
) -> tuple[dict[str, Decision], list[str]]:
    """What both files have -> the decision on B's cost over A's ("dearer" is dearer in B); and what a reader
    should know. Raises RecordError, naming the file."""
    one, other = records.read(a), records.read(b)
    if not (one and other):
        raise RecordError(f"{b if one else a}: is empty; it has no row to compare")
    if (first := one[0]["table"]) != (second := other[0]["table"]):
        raise RecordError(f"{a} holds {first}, {b} holds {second}; both must be of one table")
    mine, theirs = costs(one), costs(other)
    notes = []
    for name, own, others in ((a, mine, theirs), (b, theirs, mine)):
        alone = [one for one in own if one not in others]
        more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
        notes += [f"only in {name}: {', '.join(alone[:SHOWN])}{more}"] * bool(alone)
    for column in MACHINE:
        x, y = (", ".join(sorted({str(row[column]) for row in rows})) for rows in (one, other))
        notes += [f"two machines: {column} is {x}, then {y}"] * (x != y)
    found = {name: decide(theirs[name], mine[name], margin) for name in mine if name in theirs}
    if not found:
        raise RecordError("; ".join([f"{a} and {b}: have nothing in common to compare", *notes]))
    return found, notes


def junit(found: dict[str, Decision]) -> str:
    """The decisions as JUnit's XML: "dearer" is a failure, "undecided" is skipped."""
    words = [decision.word for decision in found.values()]
    counts = {"tests": len(words), "failures": words.count(DEARER)}
    counts |= {"skipped": words.count(UNDECIDED)}
    suite = ElementTree.Element("testsuite", name="mpmkit compare", errors="0")
    suite.attrib |= {name: str(count) for name, count in counts.items()}
    for name, decision in found.items():
        case = ElementTree.SubElement(suite, "testcase", classname="mpmkit.compare", name=name)
        if kind := {DEARER: "failure", UNDECIDED: "skipped"}.get(decision.word):
            ElementTree.SubElement(case, kind, message=str(decision))
        else:
            ElementTree.SubElement(case, "system-out").text = str(decision)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit compare``. The exit status: 0, 1 if something is dearer in B, 2 for bad input."""
    parser = Parser(prog="mpmkit compare", description=(__doc__ or "").partition("\n\n")[0])
    add = parser.add_argument
    add("a", metavar="A.csv", help="before")
    add("b", metavar="B.csv", help="after, of the same table")
    add("--margin", type=read_share, default=MARGIN, metavar="P", help="the same within (3%%)")
    add("--junit", metavar="FILE", help="write the result as JUnit's XML, too")
    options = parser.parse_args(argv)
    try:
        problems = command.Problems()
        problems.numbers("margin", options.margin, 0.001, 0.5)
        problems.raise_any()
        found, notes = compare_files(options.a, options.b, options.margin)
        for note in notes:
            command.say(note)
        head = ["B / A", f"ratio (95%)  word, margin {options.margin:.3g}", ""]
        lines = [[n, str(one), "" if one.paired else "unpaired"] for n, one in found.items()]
        print("\n".join(command.aligned([head, *lines], (0, 1, 2))), flush=True)
        if options.junit:
            Path(options.junit).write_text(junit(found), encoding="utf-8")
    except (ValueError, OSError) as error:
        command.say(str(error))
        return 2
    return int(any(decision.word == DEARER for decision in found.values()))
