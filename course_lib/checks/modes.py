"""The base class of modes that watch torch's operators. Imported where one is needed: it imports torch."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A mode that torch does not wrap for its compiler: wrapping imports the compiler, which takes seconds.

    Nothing is compiled under these modes.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
