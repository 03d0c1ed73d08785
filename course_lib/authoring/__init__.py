"""From Markdown to executed notebooks, exercises and chapter skeletons."""

from __future__ import annotations
