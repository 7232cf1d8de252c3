"""When requests are due in the open loop. Pure: seconds in, seconds out.

The n-th request is due when the area under the rate has grown to n:

    rate     |        ____________          constant: n = 1, 2, 3, ...
             |      /|            |         poisson:  n grows by exponential steps of mean 1
             |____/  |            |
             +-------------------------     area(t): how many are due until t
             warm-up  ramp   step

This holds for steps and ramps alike: a Poisson process of a changing rate is one of rate 1 with
rescaled time. Several generators share one schedule by taking turns (constant: every
k-th request) or by thinning (poisson: the k-th part of the rate each, whose sum is Poisson again).
"""

import math
import random
import re
from collections.abc import Iterator

from mpmkit.load.profile import LoadProfile

# A line of a plan: SECONDS,LINE or SECONDS,LINE,SECONDS of each request, then "close" perhaps.
_NUMBER = r"\d+(?:\.\d*)?"
_REQUEST = rf"{_NUMBER},\d+(?:,{_NUMBER})?"
_CONNECTION = re.compile(rf"{_REQUEST}(?: {_REQUEST})*(?: close)?\n", re.ASCII)


def plan_problem(path: str, lines: int) -> str:
    """The first bad line of a plan in a file, for a mix with that many lines; "": none."""
    first = 0.0
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for number, text in enumerate(file, 1):
                where = f"plan: {path}, line {number}: "
                if not _CONNECTION.fullmatch(text):
                    form = "must be SECONDS,LINE or SECONDS,LINE,SECONDS for each request, then close or not"
                    return f"{where}{form}: {text[:60]!r}"
                before, first = first, float(text.partition(",")[0])
                if first < before:
                    wrong = f"begins at {first:g} s, the one above it at {before:g}"
                    return f"{where}{wrong}; sort them"
                for line in re.findall(r"(?:^| )[^,]+,(\d+)", text):
                    if not 1 <= int(line) <= lines:
                        return f"{where}there is no line {line[:20]} of the mix, which has {lines}"
    except OSError as error:
        return f"plan: {path}: {error.strerror}"
    return ""


def arrivals(profile: LoadProfile, index: int = 0, of: int = 1) -> Iterator[float]:
    """Seconds at which generator `index` of `of` has a request due, from the warm-up's begin on; 0 is the begin
    of what is measured. Never ends. The same for the same seed; without one every call draws others."""
    source = random.Random(None if profile.seed is None else f"{profile.seed} {index} {of}")
    constant, warm, now = profile.arrival == "constant", profile.warmup_seconds, profile.level_at(0)
    due = float(index + 1) if constant else source.expovariate(1.0) * of  # the area then
    area = 0.0
    for begin, end, first, last in [(-warm, 0.0, now, now)] * (warm > 0) + profile.course():
        before, area = area, area + (first + last) / 2 * (end - begin)
        slope = (last - first) / (end - begin)  # 0 at last, in what never ends
        while due <= area:
            # first * x + slope / 2 * x^2 = more, solved in the form that does not cancel.
            more = due - before
            root = math.sqrt(max(0.0, first * first + 2 * slope * more))
            yield min(end, begin + 2 * more / (first + root or 1.0))
            due += of if constant else source.expovariate(1.0) * of
