"""The layers of the Transformer, one idea a file."""

from __future__ import annotations
