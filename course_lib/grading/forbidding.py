"""Forbidden names in a learner's process: refused from before its first cell until it ends.

What self-study does around one call (`checks.guard.forbid`) is undone by whoever looks at it. Here nothing
of what was there is kept, so nothing can be put back:

- an operator has every kernel that computes replaced at torch's dispatcher, for the whole process: threads,
  `torch.ops`, TorchScript, `torch.compile`, `torch.func` and calls from inside other operators meet it;
- a Python function and the methods of a class lose their code;
- a module is taken out of memory, and can be neither imported nor opened as a file;
- of the library, what a whole chapter forbids is not there at all (`grading.cut`); what only some of its
  exercises forbid loses its code, and the file that it stands in cannot be opened;
- no other program is started, where nothing of this would hold, and no function of C looked up by its name.

A refused call that the answer catches counts all the same (`guard.noticing`).

What remains possible. The process is the learner's, and Python keeps no secrets from code that means to
find them. It can clear the note of a call that it caught, which gains nothing, for the call was refused.
It can reach memory and the system's own calls by routes that the interpreter does not report (the `cffi`
package), and so read a file that is only watched, or call libtorch's C++ functions by their addresses; where
the kernel takes no filter (`grading.seccomp`), it can start a second Python in that way. And the Python
source that torch ships can be read and run again, as it could be pasted into a cell: of
`multi_head_attention_forward` only what it calls is refused then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import importlib
import json
import os
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ..checks.guard import OPERATOR, Importing, base_name, is_within, loaded, lock, refuse

FUSED_ATTENTION = (
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
    "_triton_multi_head_attention",
    "_triton_scaled_dot_attention",
)
# The operators behind a name of torch's, besides those of that name themselves.
BEHIND: dict[str, tuple[str, ...]] = {
    "scaled_dot_product_attention": (
        "_scaled_dot_product_attention_math",
        "_scaled_dot_product_attention_math_for_mps",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
        "_cudnn_attention_forward",
        "_efficient_attention_forward",
        "_flash_attention_forward",
        "_flash_attention_forward_no_dropout_inplace",
        *FUSED_ATTENTION,
    ),
    "multi_head_attention_forward": FUSED_ATTENTION,
    "MultiheadAttention": FUSED_ATTENTION,
    "softmax": ("_softmax", "_safe_softmax"),
    "log_softmax": ("_log_softmax",),
    "layer_norm": ("native_layer_norm",),
    "cdist": ("_cdist_forward", "_euclidean_dist"),
    "pdist": ("_pdist_forward",),
}
# Kernels at these keys compute nothing: they look at the call and hand it on.
HANDED_ON = ("ADInplaceOrView", "Autocast", "BackendSelect", "Tracer")
# An interpreter of its own, which calls kernels without torch's dispatcher.
LIBRARY = "course_lib."
STATIC_RUNTIME = ("_jit_to_static_module", "_fuse_to_static_module")


# What `cut` has cut out of the library that this file is in.
RECORD = Path(__file__).with_name("cut.json")
STARTING_PROGRAMS = ("os.exec", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen")
CALLING_C = ("ctypes.dlopen", "ctypes.dlsym")


def prepare() -> None:
    """Look up what `enforce` needs once, in the process that forks, so that it takes milliseconds."""
    _kernels()
    _cut_names()


def enforce(names: Sequence[str]) -> None:
    """Refuse the named functions, classes, modules and operators in this process for good.

    names: as for `checks.guard.forbid`. Modules of the library are imported for what is whole in them.
    """
    names = [name for name in names if name not in _cut_names()]
    operators = {operator: name for name in names for operator in _operators(name)}
    dotted = [name for name in names if not name.startswith(OPERATOR)]
    if operators:
        _lock_operators(operators)
    places: dict[str, str] = {}
    for name in dotted:
        if name.startswith(LIBRARY):
            importlib.import_module(name.rpartition(".")[0])
        elif not _operators(name):
            _swap_built_in(name)
        if place := _place(name):
            places[name] = place
        _unload(name)
        lock(name)
    sys.meta_path.insert(0, Importing(dotted, lock))
    if names:
        _watch(places)


@functools.cache
def _cut_names() -> frozenset[str]:
    return frozenset(json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else ())


# --- operators ------------------------------------------------------------------------------------------


def _operators(name: str) -> tuple[str, ...]:
    """The operators, by name without namespace and overload, that a forbidden name stands for."""
    if name.startswith(OPERATOR):
        return (base_name(name),)
    last = name.rpartition(".")[2]
    if not name.startswith("torch.") or not {last, *BEHIND.get(last, ())} & _kernels().keys():
        return ()
    return (last, *BEHIND.get(last, ()))


@functools.cache
def _kernels() -> dict[str, list[tuple[str, str]]]:
    """By an operator's name all kernels that compute: (full name with overload, dispatch key)."""
    import torch

    known = set(torch._C._dispatch_get_all_op_names())
    found: dict[str, list[tuple[str, str]]] = {}
    for key in torch._C.DispatchKey.__members__:
        if key == "Autograd" or key.startswith(HANDED_ON):
            continue
        with contextlib.suppress(RuntimeError):  # The marks between groups of keys are no keys.
            for operator in torch._C._dispatch_get_registrations_for_dispatch_key(key):
                if operator in known:
                    found.setdefault(base_name(operator), []).append((operator, key))
    return found


def _lock_operators(operators: dict[str, str]) -> None:
    """Put a refusal in the place of every kernel. operators: the forbidden name by operator."""
    import torch

    libraries: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells of a kernel that is replaced.
        for operator, name in operators.items():
            for full, key in _kernels().get(operator, ()):
                namespace, _, rest = full.partition("::")
                if namespace not in libraries:
                    libraries[namespace] = torch._C._dispatch_library("IMPL", namespace, "", __file__, 0)
                libraries[namespace].impl(rest, key, _refusing(name), False)
    for library in libraries.values():
        # Never freed: a library that is freed takes its kernels along.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
    for attribute in STATIC_RUNTIME:
        if hasattr(torch._C, attribute):
            delattr(torch._C, attribute)


def _refusing(name: str) -> Callable[..., Any]:
    def refused(*args: Any, **kwargs: Any) -> Any:
        refuse(name)

    return refused


# --- functions and modules ------------------------------------------------------------------------------


def _swap_built_in(name: str) -> None:
    """A function written in C has no code to replace: the module that it is in gets another."""
    module, _, attribute = name.rpartition(".")
    if isinstance(loaded(name), types.BuiltinFunctionType):
        setattr(loaded(module), attribute, _refusing(name))


def _unload(name: str) -> None:
    """Take a forbidden module out of memory, with those below it, as far as it is there."""
    if not isinstance(loaded(name), types.ModuleType):
        return
    for key in [key for key in sys.modules if is_within(key, name)]:
        vars(sys.modules.pop(key)).clear()


def _place(name: str) -> str | None:
    """What must not be opened: the folder or file of a module, or that which holds a name of the library."""
    if name.startswith(LIBRARY):
        return getattr(sys.modules.get(getattr(loaded(name), "__module__", "")), "__file__", None)
    above, _, _ = name.rpartition(".")
    path = getattr(loaded(above), "__path__", None) if above else None
    if above and path is None:
        return None
    spec = PathFinder.find_spec(name, path)
    folders = spec.submodule_search_locations if spec else None
    return folders[0] if folders else spec.origin if spec else None


def _watch(places: dict[str, str]) -> None:
    """Refuse imports and files of the forbidden modules, other programs, and functions of C.

    An import is a forbidden call; the rest fails as it does where the system does not permit it.
    """
    real = [os.path.realpath(place) for place in places.values()]
    last_parts = {Path(place).name for place in real}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            for name in places:
                if is_within(str(arguments[0]), name):
                    refuse(name)
            check(arguments[1])
        elif event == "open":
            check(arguments[0])
        elif event in STARTING_PROGRAMS or event in CALLING_C:
            raise PermissionError(errno.EPERM, f"{event} is not permitted here")

    def check(given: Any) -> None:
        if not isinstance(given, (str, bytes, os.PathLike)):
            return
        text = os.fsdecode(given)
        path = os.path.realpath(text)
        # A name alone may be meant from whatever folder an open descriptor stands for.
        unsure = not Path(text).is_absolute() and Path(text).name in last_parts
        if unsure or any(path == place or path.startswith(place + os.sep) for place in real):
            raise PermissionError(errno.EPERM, "this file is not permitted here", text)

    hide = ctypes.pythonapi.PyObject_GC_UnTrack
    sys.addaudithook(hook)
    # A hook goes only with the interpreter's list of them: that, and what the hook needs, is hidden.
    inner = [*(hook.__closure__ or ()), *(check.__closure__ or ())]
    lists = [found for found in gc.get_referrers(hook) if isinstance(found, list)]
    for hidden in (
        hook,
        check,
        hook.__closure__,
        check.__closure__,
        *inner,
        *lists,
        real,
        last_parts,
        places,
    ):
        hide(ctypes.py_object(hidden))
