"""What an exercise forbids of the library is cut out of the copy that learners' processes read.

    cut(stage_library(root, into), names, cells)

A definition keeps its signature and its docstring, and its body refuses to be called. So neither the file,
nor `inspect.getsource`, nor an object found in memory holds the answer.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .forbidding import RECORD

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def cut(library: Path, names: Iterable[str], cells: Sequence[str] = ()) -> dict[str, str]:
    """Cut what `names` names out of the staged library, and the private helpers that only that used.

    library: as `sandbox.stage_library` made it. names: dotted; those outside `course_lib` are passed over.
    cells: the setup cells of the chapter, and whatever else may use the library. Returns what was left whole,
    with the reason: see `conflicts`. Raises LookupError for a name that the library does not define.
    """
    parsed = _Library(library)
    found = parsed.found(names)
    kept = _conflicts(parsed, found, cells)
    changed = set()
    for name in found.keys() - kept.keys():
        place = found[name]
        _empty(place.definition, f"{place.module}.{place.definition.name}")
        changed.add(place.module)
    while helpers := _unused_helpers(parsed, changed):
        for module, definition in helpers:
            parsed.trees[module].body.remove(definition)
    for module in changed:
        parsed.paths[module].write_text(ast.unparse(parsed.trees[module]) + "\n", encoding="utf-8")
    for compiled in (library / "course_lib").rglob("*.pyc"):
        compiled.unlink()
    record = library / "course_lib/grading" / RECORD.name
    record.write_text(json.dumps(sorted(found.keys() - kept.keys())) + "\n", encoding="utf-8")
    record.chmod(0o644)
    return kept


def conflicts(library: Path, names: Iterable[str], cells: Sequence[str] = ()) -> dict[str, str]:
    """Names that cannot be cut, and who needs them: one of the cells, or the library while it is imported.

    A cell needs what it imports, and all that this refers to.
    """
    parsed = _Library(library)
    return _conflicts(parsed, parsed.found(names), cells)


def shared(exercises: Sequence[Iterable[str]]) -> list[str]:
    """The names that all exercises of a chapter forbid: what one of them allows has to stay."""
    return sorted(set.intersection(*map(set, exercises))) if exercises else []


def _conflicts(parsed: _Library, found: dict[str, _Place], cells: Sequence[str]) -> dict[str, str]:
    by_cells = parsed.reached(_imported(cells))
    at_import = parsed.called_at_import(_imported(cells)) if found else {}
    reasons = {}
    for name, place in found.items():
        if place in by_cells:
            reasons[name] = "a cell needs it"
        elif place in at_import:
            reasons[name] = f"{at_import[place]} calls it while it is imported"
    return reasons


@dataclass(frozen=True)
class _Place:
    """Where something is defined. Two are the same if the definition is the same object."""

    module: str
    definition: Definition


class _Library:
    """The staged library's modules, parsed. trees, paths: by dotted module name."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, Path] = {}
        for path in sorted((root / "course_lib").rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            self.paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.trees = {name: ast.parse(path.read_bytes()) for name, path in self.paths.items()}
        self.definitions = {name: _definitions(tree) for name, tree in self.trees.items()}
        self.imports = {name: _imports_of(tree, self._package(name)) for name, tree in self.trees.items()}

    def _package(self, module: str) -> str:
        return module if self.paths[module].name == "__init__.py" else module.rpartition(".")[0]

    def found(self, names: Iterable[str]) -> dict[str, _Place]:
        """Where each of these names is defined, those of other packages left out. Raises LookupError."""
        return {name: self.find(name) for name in names if name.startswith("course_lib.")}

    def find(self, dotted: str) -> _Place:
        """Where a dotted name is defined, through any number of imports. Raises LookupError."""
        module, _, last = dotted.rpartition(".")
        for _ in range(len(self.trees)):
            definition = self.definitions.get(module, {}).get(last)
            if definition is not None:
                return _Place(module, definition)
            if last not in self.imports.get(module, {}):
                break
            module, last = self.imports[module][last]
        raise LookupError(f"{dotted} is not defined in the library: correct the exercise's forbidden names")

    def reached(self, start: Iterable[tuple[str, str]]) -> set[_Place]:
        """All definitions that these (module, name) refer to, directly or through others."""
        seen: set[_Place] = set()
        waiting, met = list(start), set(start)
        while waiting:
            module, name = waiting.pop()
            whole = self._as_module(module, name)
            place = None if whole else self._find(module, name)
            used: list[tuple[str, str]] = []
            if whole:  # What is imported as a whole may be used as a whole.
                used = [(whole, each) for each in (*self.definitions[whole], *self.imports[whole])]
            elif place:
                seen.add(place)
                used = [(place.module, each) for each in _names_in(place.definition)]
            waiting += [each for each in used if each not in met]
            met.update(used)
        return seen

    def _as_module(self, module: str, name: str) -> str | None:
        """The module that a name stands for in a module, if it is one of the library's."""
        module, name = self.imports.get(module, {}).get(name, (module, name))
        dotted = f"{module}.{name}" if name else module
        return dotted if dotted in self.trees else None

    def called_at_import(self, by_cells: Iterable[tuple[str, str]]) -> dict[_Place, str]:
        """What is called while the library is imported, and by which module.

        A module that neither another nor a cell imports is a script: without what it calls only it fails.
        """
        sources = [*by_cells, *(source for found in self.imports.values() for source in found.values())]
        imported = {module for module, _ in sources} | {f"{module}.{name}" for module, name in sources}
        calls = [
            (self._find(module, called), module)
            for module in sorted(self.trees.keys() & imported)
            for called in _called_at_once(self.trees[module])
        ]
        return {place: module for place, module in calls if place}

    def _find(self, module: str, name: str) -> _Place | None:
        try:
            return self.find(f"{module}.{name}")
        except LookupError:
            return None


def _definitions(tree: ast.Module) -> dict[str, Definition]:
    """The functions and classes at the top of a module."""
    return {node.name: node for node in tree.body if isinstance(node, Definition)}


def _imports_of(tree: ast.AST, package: str) -> dict[str, tuple[str, str]]:
    """(module, name) by local name; the name is empty where a whole module is imported."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            for alias in node.names:
                found[alias.asname or alias.name] = (source, alias.name)
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return {name: source for name, source in found.items() if source[0].split(".")[0] == "course_lib"}


def _imported(cells: Sequence[str]) -> Iterator[tuple[str, str]]:
    for source in cells:
        yield from _imports_of(ast.parse(source), "").values()


def _names_in(code: ast.AST) -> set[str]:
    """Names and attributes that stand in the code."""
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found


def _called_at_once(tree: ast.Module) -> Iterator[str]:
    """Names that are called where a module's own code or a class's body runs, or that decorate."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Definition):
            yield from (part.id for part in node.decorator_list if isinstance(part, ast.Name))
        if isinstance(node, Function):
            waiting += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        waiting += ast.iter_child_nodes(node)


# --- cutting --------------------------------------------------------------------------------------------


def _empty(definition: Definition, name: str) -> None:
    """Replace a function's body, or those of all of a class's methods, by a refusal."""
    if isinstance(definition, ast.ClassDef):
        for method in definition.body:
            if isinstance(method, Definition):
                _empty(method, name)
        return
    docstring = definition.body[:1] if ast.get_docstring(definition) is not None else []
    refusal = ast.parse(f"from course_lib.checks.guard import refuse\nrefuse({name!r})").body
    definition.body = [*docstring, *refusal]


def _unused_helpers(parsed: _Library, changed: set[str]) -> list[tuple[str, Definition]]:
    """Private functions and classes of the changed modules that nothing refers to any more."""
    elsewhere = {source for found in parsed.imports.values() for source in found.values()}
    unused: list[tuple[str, Definition]] = []
    for module in changed:
        names = [(node, _names_in(node)) for node in parsed.trees[module].body]
        for node, _ in names:
            if not isinstance(node, Definition) or not node.name.startswith("_"):
                continue
            used = any(node.name in found for user, found in names if user is not node)
            if not used and (module, node.name) not in elsewhere:
                unused.append((module, node))
    return unused
