"""Pictures and explorers: this package draws arrays and knows no model."""

from __future__ import annotations
