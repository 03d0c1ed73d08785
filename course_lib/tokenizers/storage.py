"""A `tokenizer.json` on disk: written whole or not at all, read with an error that says what is wrong."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8: a full disk or a crash leaves the old file, never half of one."""
    path = tokenizer_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; make it first")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; a saved tokenizer has the mode that any new file would have.
        Path(temporary).chmod(_ordinary_mode(path))
        os.replace(temporary, path)  # noqa: PTH105 - Path.replace is this call; the name says why it is here
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def tokenizer_path(path: str | Path) -> Path:
    """`path`, or `tokenizer.json` in it if it is a folder."""
    path = Path(path)
    return path / "tokenizer.json" if path.is_dir() else path


def _ordinary_mode(path: Path) -> int:
    """The permission bits of the file at `path`, or those that a new file gets."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def read_tokenizer_json(path: str | Path) -> dict[str, Any]:
    """The parsed file; `ValueError` in one sentence if it is truncated or is no tokenizer.json."""
    path = tokenizer_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; save a tokenizer there first")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text, so it is no tokenizer.json; save it again") from error
    return parse_tokenizer_json(text, str(path))


def parse_tokenizer_json(text: str, source: str) -> dict[str, Any]:
    """The content of a tokenizer.json; `ValueError` in one sentence that names `source` if it is damaged."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is damaged or cut short ({error}); save it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f'{source} is JSON but no tokenizer.json: it has no "model" section')
    return content


def require_section(content: dict[str, Any], name: str, expected: dict[str, Any] | None) -> None:
    """`ValueError` unless section `name` of a tokenizer.json has every setting of `expected`."""
    found = content.get(name)
    if expected is None or found is None:
        agrees = found is expected
    else:
        agrees = all(found.get(key) == value for key, value in expected.items())
    if not agrees:
        raise ValueError(
            f"its {name} is {json.dumps(found)[:200]}, but this class needs {json.dumps(expected)}"
        )
