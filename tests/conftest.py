"""For every test: one thread for each process, because the suite runs several on two cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
