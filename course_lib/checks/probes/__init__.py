"""What runs in the learner's process: probes call an answer on a case and return values."""

from __future__ import annotations
