"""Forbidden names, enforced where the call happens, so that an alias does not help.

Python functions and the methods of classes have their code replaced while the answer runs; a module is
refused by the import system, and where it is loaded, whatever is asked of it; torch's built-in functions
and operators are seen by torch's own function and dispatch modes. This guards against a shortcut, not
against an attacker: a graded run adds a process boundary and `course_lib.grading.forbidding`.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

OPERATOR = "aten::"
_called: list[str] = []


class ForbiddenCall(RuntimeError):
    """The answer called something that does the exercise's work. `name` is what it called."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is forbidden in this exercise")
        self.name = name


def refuse(name: str) -> NoReturn:
    """Note that a forbidden name was called, and raise ForbiddenCall."""
    _called.append(name)
    raise ForbiddenCall(name)


@contextmanager
def noticing() -> Iterator[None]:
    """Raise ForbiddenCall at the end, too, where something was refused in here and the answer caught it."""
    before = len(_called)
    try:
        yield
    except ForbiddenCall:
        raise
    except Exception as error:
        if len(_called) > before:
            raise ForbiddenCall(_called[before]) from error
        raise
    if len(_called) > before:
        raise ForbiddenCall(_called[before])


@contextmanager
def forbid(names: Sequence[str]) -> Iterator[None]:
    """While this is entered, calling any of the named functions, classes or operators raises ForbiddenCall.

    names: dotted ("torch.nn.functional.softmax"), a module ("tokenizers"), or an operator
    ("aten::_softmax", with all of its overloads). Nothing is imported for a name: what is not loaded is
    refused when it is imported.
    """
    dotted = [name for name in names if not name.startswith(OPERATOR)]
    with ExitStack() as stack:
        stack.enter_context(noticing())

        def lock_until_the_end(name: str) -> None:
            for undo in lock(name):
                stack.callback(undo)

        for name in dotted:
            lock_until_the_end(name)
        if dotted:
            finder = Importing(dotted, lock_until_the_end)
            sys.meta_path.insert(0, finder)
            stack.callback(sys.meta_path.remove, finder)
        for mode in _torch_modes(names):
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


def loaded(dotted: str) -> Any:
    """The object that a dotted name names, or None where it is not loaded. Imports nothing."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        thing: Any = sys.modules.get(".".join(parts[:length]))
        if thing is None:
            continue
        for attribute in parts[length:]:
            # A module's own __getattr__ may import.
            thing = (vars(thing) if isinstance(thing, types.ModuleType) else _attributes(thing)).get(
                attribute
            )
        return thing
    return None


def _attributes(thing: Any) -> dict[str, Any]:
    return {
        name: value
        for owner in reversed(getattr(thing, "__mro__", ()))
        for name, value in vars(owner).items()
    }


# --- Python functions, classes, modules -----------------------------------------------------------------


def lock(name: str) -> list[Callable[[], None]]:
    """Make every call of what `name` names raise ForbiddenCall, as far as it is loaded; what undoes that."""
    thing = loaded(name)
    undo: list[Callable[[], None]] = []
    if isinstance(thing, types.ModuleType):
        for module in modules_of(name):
            undo.append(functools.partial(setattr, module, "__class__", type(module)))
            module.__class__ = _locked_module(name)
    for function in _functions(thing):
        undo.append(functools.partial(setattr, function, "__code__", function.__code__))
        function.__code__ = _refusal(name, function.__code__.co_freevars)
    return undo


def modules_of(name: str) -> list[types.ModuleType]:
    """The module of this name and those below it, as far as they are loaded."""
    found = [module for key, module in list(sys.modules.items()) if is_within(key, name)]
    return [module for module in found if isinstance(module, types.ModuleType)]


def is_within(module: str, name: str) -> bool:
    """Whether `module` is the module called `name`, or one below it."""
    return module == name or module.startswith(f"{name}.")


def _functions(thing: Any) -> Iterator[types.FunctionType]:
    """A function and what it wraps, or all that a class defines or another callable holds."""
    holds = isinstance(thing, type) or (callable(thing) and not isinstance(thing, types.FunctionType))
    for value in list(getattr(thing, "__dict__", {}).values()) if holds else [thing]:
        parts = (value.fget, value.fset) if isinstance(value, property) else (value,)
        for part in parts:
            function = getattr(part, "__func__", part)
            while isinstance(function, types.FunctionType):
                yield function
                function = getattr(function, "__wrapped__", None)


@functools.cache
def _refusal(name: str, free: tuple[str, ...]) -> types.CodeType:
    """Code that refuses `name`, with as many free variables as the code it stands in for."""
    # A nested function closes over names only if it uses them, so it mentions each one.
    source = (
        f"def outer({', '.join(free)}):\n"
        f"    def refused(*args, **kwargs):\n"
        f"        import course_lib.checks.guard as guard\n"
        f"        guard.refuse({name!r})\n"
        f"        ({', '.join(free)}{',' if free else ''})\n"
        f"    return refused\n"
    )
    scope: dict[str, Callable[..., Any]] = {}
    exec(compile(source, "<guard>", "exec"), scope)
    function: types.FunctionType = scope["outer"](*([None] * len(free)))
    return function.__code__


@functools.cache
def _locked_module(name: str) -> type[types.ModuleType]:
    class Locked(types.ModuleType):
        def __getattribute__(self, attribute: str) -> Any:
            # The import system reads these of every module that it meets.
            if attribute.startswith("__") and attribute != "__dict__":
                return super().__getattribute__(attribute)
            refuse(name)

    return Locked


class Importing(MetaPathFinder):
    """Stands first in `sys.meta_path`: refuses forbidden modules, and locks names as they are loaded."""

    def __init__(self, names: Sequence[str], lock_name: Callable[[str], object]) -> None:
        self.names = tuple(names)
        self.lock_name = lock_name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec if it holds a forbidden name, which is then locked as soon as it is there."""
        for name in self.names:
            if is_within(fullname, name):
                refuse(name)
        inside = [name for name in self.names if name.rpartition(".")[0] == fullname]
        others = [finder for finder in sys.meta_path if finder is not self] if inside else []
        for finder in others:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return self._locking(spec, inside)
        return None

    def _locking(self, spec: ModuleSpec, inside: Sequence[str]) -> ModuleSpec:
        loader = spec.loader
        if isinstance(loader, Loader):
            execute = loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                execute(module)
                for name in inside:
                    self.lock_name(name)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


# --- torch's built-in functions and operators -----------------------------------------------------------


def _torch_modes(names: Sequence[str]) -> list[Any]:
    operators = {base_name(name): name for name in names if name.startswith(OPERATOR)}
    things = {name: loaded(name) for name in names if name.startswith("torch.")}
    built_in = {
        id(thing): name for name, thing in things.items() if isinstance(thing, types.BuiltinFunctionType)
    }
    if not operators and not built_in:
        return []
    from torch.overrides import TorchFunctionMode

    from .modes import DispatchMode

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if id(func) in built_in:
                refuse(built_in[id(func)])
            return func(*args, **(kwargs or {}))

    class Operators(DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called = base_name(func.name()) if hasattr(func, "name") else ""
            if called in operators:
                refuse(operators[called])
            return func(*args, **(kwargs or {}))

    modes: list[Any] = [Functions()] if built_in else []
    return modes + ([Operators()] if operators else [])


def base_name(operator: str) -> str:
    """An operator's name without namespace, overload and the underscore of its in-place form.

    >>> base_name("aten::add_.Tensor"), base_name("aten::_softmax")
    ('add', '_softmax')
    """
    return operator.rpartition("::")[2].partition(".")[0].removesuffix("_")
