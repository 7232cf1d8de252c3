"""Why we differ from httpd where we do: the reasons behind the table in docs/FIDELITY.md.

Keys are `area/case`, with shell wildcards; the first that fits is the reason. An entry that no
longer explains anything is reported, so that the list stays as short as the truth.
"""

from __future__ import annotations

ON_PURPOSE: dict[str, str] = {}

MISSING: dict[str, str] = {}
