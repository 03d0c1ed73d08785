"""What every command of `course` shares: exit codes, how it fails, and how it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

FINE, NOT_PASSED, WRONG_USE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for a script.")]


def fail(sentence: str, code: int) -> NoReturn:
    """End the command with one sentence on standard error and this exit code."""
    typer.echo(sentence, err=True)
    raise typer.Exit(code)


def console(stderr: bool = False) -> Console:
    """A rich console on standard output or standard error."""
    from rich.console import Console

    return Console(highlight=False, stderr=stderr)


def print_json(plain: object) -> None:
    """Print a plain value as JSON."""
    typer.echo(json.dumps(plain, indent=2))


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
