"""Data: a simulated world with gold labels, texts that every machine has, and optional downloads."""

from __future__ import annotations
