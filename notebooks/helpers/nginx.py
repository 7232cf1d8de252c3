"""nginx as the project's benchmarks start it; `qps_table(also=["nginx"])` knows it once this is imported."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # of the checkout, where benchmarks/ is

from benchmarks.nginx import Nginx as Nginx
