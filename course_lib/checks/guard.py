"""Forbidden names, enforced where the call happens, so that an alias does not help.

Python functions have their code replaced while the answer runs; torch's built-in functions and
operators are seen by torch's own function and dispatch modes. This guards against a shortcut, not
against an attacker: a graded run adds a process boundary (see `course_lib.grading`).
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any


class ForbiddenCall(RuntimeError):
    """The answer called something that does the exercise's work. `name` is what it called."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is forbidden in this exercise")
        self.name = name


@contextmanager
def forbid(names: Sequence[str]) -> Iterator[None]:
    """While this is entered, calling any of the named functions, classes or operators raises ForbiddenCall.

    names: dotted ("torch.nn.functional.softmax") or operators ("aten::_softmax").
    """
    operators = tuple(name for name in names if name.startswith("aten::"))
    objects = {name: resolve(name) for name in names if not name.startswith("aten::")}
    with ExitStack() as stack:
        built_in: dict[int, str] = {}
        for name, thing in objects.items():
            function = vars(thing).get("__init__") if isinstance(thing, type) else thing
            if isinstance(function, types.FunctionType):
                stack.enter_context(_replaced_code(function, name))
            else:
                built_in[id(thing)] = name
        if operators or built_in:
            for mode in _torch_modes(built_in, operators):
                stack.enter_context(mode)
        yield


def resolve(dotted: str) -> Any:
    """The object that a dotted name names, importing as much of it as is a module."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for attribute in parts[length:]:
            thing = getattr(thing, attribute)
        return thing
    raise LookupError(f"forbidden name {dotted!r} names nothing that can be imported")


@contextmanager
def _replaced_code(function: types.FunctionType, name: str) -> Iterator[None]:
    original = function.__code__
    function.__code__ = _refusal(name, original).replace(co_name=original.co_name)
    try:
        yield
    finally:
        function.__code__ = original


def _refusal(name: str, original: types.CodeType) -> types.CodeType:
    """Code that raises ForbiddenCall(name), with as many free variables as the code it stands in for."""
    free = ", ".join(original.co_freevars)
    # A nested function closes over names only if it uses them, so it mentions each one.
    source = (
        f"def outer({free}):\n"
        f"    def inner(*args, **kwargs):\n"
        f"        import course_lib.checks.guard as guard\n"
        f"        raise guard.ForbiddenCall({name!r})\n"
        f"        ({free}{',' if free else ''})\n"
        f"    return inner\n"
    )
    scope: dict[str, Callable[..., Any]] = {}
    exec(compile(source, "<guard>", "exec"), scope)
    inner: types.FunctionType = scope["outer"](*([None] * len(original.co_freevars)))
    return inner.__code__


def _torch_modes(built_in: dict[int, str], operators: tuple[str, ...]) -> list[Any]:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if id(func) in built_in:
                raise ForbiddenCall(built_in[id(func)])
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called = func.name() if hasattr(func, "name") else ""
            for name in operators:
                if called.startswith(name):
                    raise ForbiddenCall(name)
            return func(*args, **(kwargs or {}))

    modes: list[Any] = [Functions()] if built_in else []
    return modes + ([Operators()] if operators else [])
