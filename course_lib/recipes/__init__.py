"""Trainings that take longer than a lesson may: each is a script, and what it measured lies under `data/`."""

from __future__ import annotations
