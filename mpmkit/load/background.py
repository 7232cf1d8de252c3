"""The background clients of a load: its idle holders and its slow readers, each kind in one process."""

from __future__ import annotations

import contextlib
from collections import Counter

from mpmkit.load.holder import HoldingProcess
from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import target_of

AGAIN = 0.5
"""Seconds after which a background client whose connection ended comes back."""


class Background:
    """The background clients of `profile`, for the length of a `with` block; none costs nothing.

    Their processes are started before the users, and what they do costs the generator no time.
    """

    def __init__(self, url: str, profile: LoadProfile) -> None:
        spec, place = profile.specs[0], target_of(url).place
        idle = "idle" if profile.idle_request else "silent"
        self._kinds: dict[str, tuple[HoldingProcess, int]] = {}
        for name, mode, count, keep in (
            ("idle", idle, profile.idle_holders, True),
            ("slow", "slow", profile.slow_readers, False),
        ):
            if count:
                process = HoldingProcess(
                    url,
                    mode,
                    request=profile.request_bytes(place, keep=keep).decode("latin-1"),
                    rate=profile.read_rate,
                    expect_status=spec.expect_status,
                    timeout=profile.timeout,
                    again=AGAIN,
                    ca_file=profile.ca_file,
                )
                self._kinds[name] = process, count
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Background:
        for process, count in self._kinds.values():
            self._stack.enter_context(process)
            process.resize(count)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def totals(self) -> Counter[str]:
        """What they did until now, like {"idle opened": 5}; of a kind that died, nothing."""
        made: Counter[str] = Counter()
        for name, (process, _) in self._kinds.items():
            with contextlib.suppress(RuntimeError):
                for what, count in process.report()["totals"].items():
                    made[f"{name} {what}"] += count
        return made
