"""Any administrator's httpd.conf starts: what mpmkit does not have is ignored, closed or refused, by name."""

from __future__ import annotations

import pytest

from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError, Directives, Note
from mpmkit.config.httpd_conf import Source, read
from mpmkit.config.unsupported import CLOSED, FATES, IGNORED, Foreign, _table, foreign

FOREIGN = sorted(_table().values())


def checked(*lines: str, strict: bool = False) -> tuple[Directives, tuple[Note, ...]]:
    conf = read(Source("f", "\n".join(lines), mpm="event"), {})
    return check("event", conf.settings, conf.sections, problems=conf.problems, strict=strict)


def test_the_table_names_each_directive_once_and_none_that_mpmkit_has():
    assert len({row.name.lower() for row in FOREIGN}) == len(FOREIGN) > 500
    assert {row.fate for row in FOREIGN} == set(FATES)
    assert not [row.name for row in FOREIGN if row.name.lower() in SPECS]
    assert foreign("rewriterule") == Foreign("RewriteRule", "mod_rewrite", IGNORED, "any")


@pytest.mark.parametrize("row", FOREIGN, ids=lambda row: row.name)
def test_every_directive_that_is_lacking_is_ignored_closed_or_refused(row):
    """In a section where it may be in one, else at server level: never accepted without a word."""
    name = row.name.strip("<>")
    lines = [f"{name} some words"]
    if row.name.startswith("<"):
        lines = [f"<{name} some>", "Require all denied", f"</{name}>"]
    where = "server" if row.where == "server" else "section"
    if where == "section":
        lines = ["<Directory /x>", "Require all granted", *lines, "</Directory>"]
    with pytest.raises(DirectiveError, match="mpmkit does not have"):
        checked(*lines, strict=True)
    if row.fate not in (IGNORED, CLOSED):
        with pytest.raises(DirectiveError, match="mpmkit does not have"):
            checked(*lines)
        return
    (note,) = [note for note in checked(*lines)[1] if row.name.rstrip(">") in note.text]
    assert note.level == "warn" and "(f:" in note.text


def test_one_warning_a_module():
    lines = [f"AddIcon /i{n}.gif .x{n}" for n in range(50)] + [
        "IndexOptions +FancyIndexing",
        "SetEnv A b",
    ]
    texts = [note.text for note in checked(*lines)[1]]
    assert len(texts) == 2
    assert texts[0] == (
        "mod_autoindex is not here: no effect have AddIcon, IndexOptions (51 lines, the first f:1)"
    )


@pytest.mark.parametrize(("line", "named"), [
    ("RewriteRule .* - [F,L]", True), ("RewriteRule ^/old - [NC,gone]", True), ("RewriteRule a b [R]", False),
    ("RewriteRule a b", False),
])  # fmt: skip
def test_a_rewriterule_that_forbids_is_named(line, named):
    texts = [note.text for note in checked(line)[1]]
    assert any(line in text and "protects nothing" in text for text in texts) is named
