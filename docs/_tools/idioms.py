"""Idioms that plain technical English does without: counted in every text of the project.

    python -m docs._tools.idioms            the count by file; exit status 1 above the limit (make lint)
    python -m docs._tools.idioms --show     each line, with what to write instead

The words are signs of sentences that read as translated. A few uses are right (the user *nobody*), so
there is a limit rather than a ban. It only goes down. Names of files, options and quoted words do not count.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LIMIT = 3
INSTEAD = {
    "told": "reported, shown, named",
    "beside": "next to, compared with, in the same rounds as",
    "nobody": "no one, no client, no process",
    "somebody": "a client, a reader, someone",
    "whoever": "anyone who",
    "is none": "is not one, there is no",
    "mend": "fix, repair, remedy",
    "mended": "fixed",
    "for ever": "forever, without limit",
    "stands under": "is below",
    "stands below": "is below",
    "what it is that": "what",
    "anew": "again, a new",
    "in vain": "without success, forever",
    "without a word": "silently",
    "dear end": "upper end, pessimistic",
    "is taken for": "is treated as, counts as",
    "said of": "verdict on",
    "comes of": "results from",
    "makes of": "the result, the reading",
    "midst": "middle, during",
    "processor time": "CPU time",
    "what is not there": "what is missing",
    "of which it": "whose, for which",
    "the least that": "the minimum, the least work",
}
# A capital only at the front: "is None" is Python.
WORDS = re.compile(
    r"""(?<![-\w"'/\\])("""
    + "|".join(f"[{w[0].upper()}{w[0]}]{w[1:]}" for w in INSTEAD)
    + r""")(?![-\w"'/\\]|\.\w)"""
)
# Executed copies repeat their sources; records are data; the list itself is here.
SKIPPED = ("notebooks/rendered/", "data/recorded/", "docs/_tools/idioms.py", "tests/data/")
KINDS = (".md", ".py", ".ipynb", ".js", ".toml", ".yml")


def found(root: Path) -> Iterator[tuple[str, int, str, str]]:
    """(file, line number, word, the line) of every use in the files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True
    )
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        if not name.endswith(KINDS) or name.startswith(SKIPPED) or not (root / name).is_file():
            continue
        text = (root / name).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            for match in WORDS.finditer(line):
                yield name, number, match[1].lower(), line.strip()


def main(argv: list[str]) -> int:
    """Print the counts, or with --show each line; 1 above LIMIT."""
    uses = list(found(Path(__file__).resolve().parents[2]))
    if "--show" in argv:
        for name, number, word, line in uses:
            print(f"{name}:{number}: {word!r} ({INSTEAD[word]}): {line[:160]}")
    elif len(uses) > LIMIT:
        for name, count in Counter(use[0] for use in uses).most_common(20):
            print(f"{count:5}  {name}")
    print(f"idioms: {len(uses)} of at most {LIMIT}")
    return int(len(uses) > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
