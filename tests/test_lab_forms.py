"""The control room's forms: what applies, what is wrong, and the result. Without a server."""

import pytest

from mpmkit.config.directives import MPMS, SPECS, DirectiveError
from mpmkit.lab.forms import BROWSERS, MIX, NAMES, PAGES, ROWS, DirectiveForm, LoadForm
from mpmkit.load.profile import LoadProfile, ProfileError


def fields(form: LoadForm | DirectiveForm) -> dict:
    return {field.name: field for field in form.fields()}


def load_form(**values) -> LoadForm:
    form = LoadForm()
    for name, value in values.items():
        form.set(name, value)
    return form


def test_the_form_as_it_opens_is_a_load():
    form = LoadForm()
    profile = form.profile(60)
    assert (profile.users, profile.path, profile.duration) == (50, "/index.html", 60)
    assert not profile.keep_alive and form.summary() == "" and form.browsers() == (0, 60)
    assert not any(field.hints or field.value for field in form.fields())
    # What does not apply is not shown, and kept until it does.
    form = load_form(think_time="2")
    assert "rate" not in fields(form) and "think_time" in fields(form)
    form.set("arrival", "constant")
    assert "rate" in fields(form) and "think_time" not in fields(form)
    profile = form.profile(10)
    assert (profile.arrival, profile.rate, profile.think_time) == ("constant", 500, 0)
    form.set("arrival", "closed")
    assert form.profile(10).think_time == 2
    assert "requests_per_connection" not in fields(form)
    form.set("keep_alive", True)
    form.set("requests_per_connection", 7)
    profile = form.profile(10)
    assert (profile.keep_alive, profile.requests_per_connection) == (True, 7)


@pytest.mark.parametrize("name", ROWS)
def test_each_field_is_one_of_the_profile_with_bounds_that_it_takes(name):
    row = ROWS[name]
    ours = name.startswith("weight /") or row.group == BROWSERS
    assert ours or name in LoadProfile.__dataclass_fields__
    assert row.help and row.label
    if row.kind in ("switch", "choice"):
        return
    assert row.low <= row.reach <= row.high
    for value in (row.low, row.reach, row.high):
        needs = {"rate": {"arrival": "poisson"}, "requests_per_connection": {"keep_alive": True}}
        form = load_form(**needs.get(name, {"path": MIX} if name.startswith("weight") else {}))
        form.set(name, f"{value:g}" if value < 1000 else f"{value:.0f}")
        form.profile(10), form.browsers()
        assert not fields(form)[name].hints


@pytest.mark.parametrize(("name", "value", "said"), [
    ("users", "many", "a whole number from 1 to 500, not 'many'"),
    ("users", "501", "1 to 500"), ("keep_alive", "120", "True or False"),
    ("think_time", "-1", "0 to 600 s"),
    ("arrival", "sometimes", "one of closed, constant, poisson"),
    ("path", "index.html", "must be one of"), ("timeout", "nan", "0.05 to 600 s"),
    ("browsers", "2001", "0 to 2,000"),
])  # fmt: skip
def test_what_cannot_be_is_kept_shown_at_its_field_and_refused(name, value, said):
    form = load_form(**{name: value})
    field = fields(form)[name]
    assert field.value == value and field.refused and said in field.hints[0]
    assert not any(other.hints for other in form.fields() if other.name != name)
    with pytest.raises(ValueError, match=f"^{name}: "):
        form.browsers() if field.group == BROWSERS else form.profile(10)
    form.set(name, None)
    assert not fields(form)[name].hints


def test_a_mix_by_weight_and_background_clients():
    form = load_form(path=MIX)
    weights = {path: weight for path, _, weight in PAGES if weight}
    assert {spec.path: spec.weight for spec in form.profile(10).mix} == weights
    for path, _, _ in PAGES:
        form.set(f"weight {path}", 0)
    with pytest.raises(ValueError, match="no page of the mix has a weight"):
        form.profile(10)
    form = load_form(path="/slow.py", idle_holders="20")
    assert form.profile(10).idle_holders == 20 and form.summary() == "Idle holders 20"
    with pytest.raises(ProfileError, match="no such field, it has users"):
        form.set("speed", 9)


@pytest.mark.parametrize("mpm", MPMS)
def test_the_fields_are_those_of_the_mpm_with_the_tables_bounds(mpm):
    found = fields(DirectiveForm(mpm))
    assert set(found) == {name for name in NAMES if mpm in SPECS[name.lower()].mpms}
    for name, one in found.items():
        spec = SPECS[name.lower()]
        assert (one.high, one.unit, one.help) == (spec.high_for(mpm), spec.unit, spec.doc)
        assert not one.hints and one.value == "" and one.low < one.reach
    assert found["StartServers"].default == {"prefork": "5"}.get(mpm, "3")


@pytest.mark.parametrize(("name", "word", "hints"), [
    ("ThreadsPerChild", "100", ("AH00507: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used",)),
    ("Timeout", "1m", ('"1m" is not a whole number: httpd reads 1',)),
    ("MaxKeepAliveRequests", "lots", ('"lots" is not a whole number: httpd reads 0',)),
    ("MaxConnectionsPerChild", "1e4", ('"1e4" is not a whole number: httpd reads 1',)),
    ("ThreadsPerChild", "few", ('"few" is not a whole number: httpd reads 0', "AH00509: ")),
    *(("Timeout", good, ()) for good in ("60", " 7 ", "-0", "+3", None)),
])  # fmt: skip
def test_what_httpd_corrects_or_reads_otherwise_is_shown(name, word, hints):
    form = DirectiveForm("event", MaxRequestWorkers=64)
    form.set(name, word)
    one = fields(form)[name]
    assert one.value == (word or "").strip() and not one.refused
    assert len(one.hints) == len(hints) and all(map(str.startswith, one.hints, hints))


def test_a_word_that_cannot_be_read_is_refused():
    form = DirectiveForm("worker")
    form.set("KeepAliveTimeout", "soon")
    one = fields(form)["KeepAliveTimeout"]
    assert "takes a time" in one.hints[0] and one.refused
    form.set("ThreadsPerChild", 100)
    other = fields(form)["ThreadsPerChild"]
    assert "ThreadLimit" in other.hints[0] and not other.refused, "next to the refused one, too"
    with pytest.raises(DirectiveError, match="KeepAliveTimeout"):
        form.checked()
    with pytest.raises(DirectiveError, match="no directive 'Speed'"):
        form.set("Speed", 9)
    with pytest.raises(DirectiveError, match="no MPM 'threads'"):
        DirectiveForm("threads")
    form = DirectiveForm("event", ThreadsPerChild=8)  # it waits until an MPM is chosen that has it
    form.choose("prefork")
    assert form.words() == {} and not form.checked()[1]
    form.choose("worker")
    assert form.words() == {"ThreadsPerChild": "8"}
