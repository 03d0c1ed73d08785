"""What a notebook's outputs depend on, as one SHA-256: nothing is run again while it is unchanged.

It covers the code cells with their tags, every module of `course_lib` that they import (directly or
through other modules), the data files those modules name, the entries of the exercises that are
checked, and the pinned version of torch. Prose is left out: no output depends on it. Python's own
version is left out on purpose: the committed notebooks have to be in step on every Python that the
course supports.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nbformat import NotebookNode

from .source import tags

PACKAGE = "course_lib"
# Raised when the way notebooks are made changes, so that all of them are made again.
FORMAT = "1"
_MODULE_NAME = re.compile(rf"^{PACKAGE}(\.\w+)+$")
_MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)
_CHECKED = re.compile(r"""^\s*check\(\s*["']([a-z0-9_]+)/""", re.MULTILINE)


def fingerprint(root: Path, cells: Sequence[NotebookNode]) -> str:
    """The SHA-256, as 64 hexadecimal digits, of everything that the outputs of these cells depend on."""
    digest = hashlib.sha256()
    for name, content in _parts(root, cells):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def depends_on(root: Path, cells: Sequence[NotebookNode]) -> list[Path]:
    """The files of the course that these cells' outputs depend on, sorted."""
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    imported = {name for source in code for name in imports(_MAGIC.sub("", source), PACKAGE)}
    modules = closure(root, _resolve(root, imported))
    entries = {
        path for source in code for topic in _CHECKED.findall(source) for path in _entries(root, topic)
    }
    modules |= entries | closure(root, entries)
    return sorted(modules | {path for module in modules for path in _named_data(module)})


def closure(root: Path, modules: Iterable[Path]) -> set[Path]:
    """These module files and every module file of the package that they import, however far down."""
    reached: set[Path] = set()
    waiting = set(modules)
    while waiting:
        path = waiting.pop()
        reached.add(path)
        names = imports(path.read_text(encoding="utf-8"), _module_name(root, path))
        waiting |= _resolve(root, names) - reached
    return reached


def imports(source: str, module: str) -> set[str]:
    """The dotted names under the package that a source imports, or names in full as text.

    module: where relative imports start from. Text that is not Python imports nothing.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    return {name for node in ast.walk(tree) for name in _names(node, module) if _is_ours(name)}


def _parts(root: Path, cells: Sequence[NotebookNode]) -> Iterator[tuple[str, bytes]]:
    yield "format", FORMAT.encode()
    yield "torch", _torch_pin(root).encode()
    for cell in cells:
        if cell.cell_type == "code":
            yield "code", _unix(cell.source.encode())
            yield "tags", " ".join(tags(cell)).encode()
    for path in depends_on(root, cells):
        content = path.read_bytes()
        is_text = path.suffix in (".py", ".js", ".css", ".html", ".md", ".json")
        yield path.relative_to(root).as_posix(), _unix(content) if is_text else content


def _names(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            anchor = module.split(".")[: -node.level] if node.level <= module.count(".") + 1 else []
            base = ".".join([*anchor, *([node.module] if node.module else [])])
        yield base
        # What is imported may be a module itself; a name that is none resolves to no file.
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.match(node.value):
        yield node.value


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def _resolve(root: Path, names: Iterable[str]) -> set[Path]:
    """The files of dotted names: the module and the `__init__` of every package above it."""
    found: set[Path] = set()
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:length])
            candidates = (stem.with_name(stem.name + ".py"), stem / "__init__.py")
            found |= {path for path in candidates if path.is_file()}
    return found


def _module_name(root: Path, path: Path) -> str:
    """The dotted name from which relative imports start: for a package, one step below it."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _entries(root: Path, topic: str) -> list[Path]:
    checks = root / PACKAGE / "checks"
    return [
        path
        for path in (*checks.glob(f"[0-9][0-9]_{topic}.py"), checks / "probes" / f"{topic}.py")
        if path.is_file()
    ]


def _named_data(module: Path) -> list[Path]:
    """Files beside or below a module, other than Python, whose name the module's text contains."""
    text = module.read_text(encoding="utf-8")
    nearby = (path for path in module.parent.rglob("*") if path.is_file())
    return [path for path in nearby if path.suffix not in (".py", ".pyc", ".pyi") and path.name in text]


def _torch_pin(root: Path) -> str:
    project = root / "pyproject.toml"
    if not project.is_file():
        return ""
    found = re.search(r'"(torch==[^"]+)"', project.read_text(encoding="utf-8"))
    return found.group(1) if found else ""


def _unix(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")
