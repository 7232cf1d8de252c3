"""The load's form: what applies, what is wrong, and the profile that comes of it. Without a server."""

from __future__ import annotations

import pytest

from mpmkit.lab.forms import KNOBS, MIX, PAGES, LoadForm
from mpmkit.load.profile import LoadProfile, ProfileError


def fields(form: LoadForm) -> dict:
    return {field.name: field for field in form.fields()}


def test_the_form_as_it_opens_is_a_load():
    form = LoadForm()
    profile = form.profile(60)
    assert (profile.users, profile.path, profile.duration) == (50, "/index.html", 60)
    assert profile.plain and not profile.keep_alive and form.told() == ""
    assert not any(field.advice or field.value for field in form.fields())


def test_each_field_is_one_of_the_profile_with_bounds_that_it_takes():
    names = LoadProfile.__dataclass_fields__
    for knob in KNOBS:
        assert knob.name in names or knob.name.startswith("weight /"), knob.name
        assert knob.doc and knob.label
        if knob.kind in ("number", "time"):
            for value in (knob.low, knob.reach, knob.high):
                form = LoadForm()
                if knob.name == "rate":
                    form.set("arrival", "poisson")
                if knob.name.startswith("weight"):
                    form.set("path", MIX)
                if knob.name == "requests_per_connection":
                    form.set("keep_alive", 1.0)
                form.set(knob.name, f"{value:g}" if value < 1000 else f"{value:.0f}")
                form.profile(10)
                assert knob.low <= knob.reach <= knob.high


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("users", "many", "a whole number from 1 to 500, not 'many'"),
        ("users", "501", "1 to 500"),
        ("users", "2.5", "whole number"),
        ("keep_alive", "120", "0 to 100"),
        ("think_time", "-1", "0 to 600 s"),
        ("arrival", "sometimes", "one of closed, constant, poisson"),
        ("path", "index.html", "must be one of"),
        ("idle_holders", "5000", "0 to 1,000"),
        ("timeout", "nan", "0.05 to 600 s"),
        ("read_rate", "inf", "bytes/s"),
        ("idle_request", "maybe", "On or Off"),
        ("path", "/a b", "without blanks"),
    ],
)
def test_what_cannot_be_is_kept_told_at_its_field_and_refused(name, value, said):
    form = LoadForm()
    form.set(name, value)
    field = fields(form)[name]
    assert field.value == value and field.refused and said in field.advice[0]
    assert not any(other.advice for other in form.fields() if other.name != name)
    with pytest.raises(ProfileError, match=f"^{name}: "):
        form.profile(10)
    form.set(name, None)
    assert not fields(form)[name].advice


def test_what_does_not_apply_is_not_shown_and_kept_until_it_does():
    form = LoadForm()
    form.set("think_time", "2")
    assert "rate" not in fields(form) and "think_time" in fields(form)
    form.set("arrival", "constant")
    assert "rate" in fields(form) and "think_time" not in fields(form)
    profile = form.profile(10)
    assert (profile.arrival, profile.rate, profile.think_time) == ("constant", 500, 0)
    form.set("arrival", "closed")
    assert form.profile(10).think_time == 2
    assert "requests_per_connection" not in fields(form)
    form.set("keep_alive", 0.25)
    form.set("requests_per_connection", 7)
    profile = form.profile(10)
    assert (profile.keep_alive, profile.requests_per_connection) == (0.25, 7)


def test_a_mix_by_weight_and_who_is_beside():
    form = LoadForm()
    form.set("path", MIX)
    assert {ask.path: ask.weight for ask in form.profile(10).mix} == {
        path: weight for path, _, weight in PAGES if weight
    }
    for path, _, _ in PAGES:
        form.set(f"weight {path}", 0)
    assert fields(form)[f"weight {PAGES[0][0]}"].advice[0].startswith("mix: no page has a weight")
    form.set("path", "/slow.py")
    form.set("slow_readers", 5)
    form.set("idle_holders", "20")
    form.set("idle_request", False)
    profile = form.profile(10)
    assert (profile.slow_readers, profile.idle_holders, profile.idle_request) == (5, 20, False)
    assert form.told() == "Slow readers 5, Idle holders 20, they ask once Off"


def test_a_copy_is_its_own_and_unknown_names_are_refused():
    form = LoadForm()
    other = form.copy()
    other.set("users", 3)
    assert form.word("users") == "50" and other.word("users") == "3"
    with pytest.raises(ProfileError, match="no such field, it has users"):
        form.set("speed", 9)
