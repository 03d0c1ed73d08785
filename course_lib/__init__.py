"""The shared library of the Transformer course.

Importing it costs milliseconds: torch is loaded by the first sub-module that needs it.
"""

from __future__ import annotations

__version__ = "0.1.0"
