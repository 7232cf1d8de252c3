"""Progress of a measurement as a bar: in a notebook a widget, in a terminal a line (tqdm decides).

qps_table(on_progress=Progress())
run_load(server, requests=20_000, on_progress=Progress(total=20_000))
"""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

FORMAT = "{percentage:3.0f}% |{bar:30}| {desc}"


class Progress:
    """A callable for `on_progress`, from whichever thread the measurement calls it.

    It takes either one value with a `.share` from 0 to 1 whose text says what is done (that is
    `qps_table`'s), or requests done and seconds passed (that is `run_load`'s; `total` is then how
    many requests there will be).
    """

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.share = 0.0
        self.text = ""
        self._bar = tqdm(total=1.0, bar_format=FORMAT)

    def __call__(self, done: Any, seconds: float | None = None) -> None:
        if seconds is None:
            self.share, self.text = float(done.share), str(done)
        else:
            self.share = min(1.0, done / self.total) if self.total else 0.0
            self.text = f"{done:,} requests in {seconds:.1f} s"
        self._bar.n = self.share
        self._bar.set_description_str(self.text)
        if self.share >= 1:
            self._bar.close()
