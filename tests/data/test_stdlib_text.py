"""The texts that come with Python: present, plausible and the same on every call, whatever the version."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from course_lib.data.stdlib_text import python_files, python_source, reference_prose


def test_the_whole_reference_holds_every_topic() -> None:
    from pydoc_data.topics import topics

    whole = reference_prose(paragraphs_only=False)
    assert all(text in whole for text in topics.values())


def test_prose_paragraphs_leave_out_code_tables_and_grammar() -> None:
    prose = reference_prose()
    whole = reference_prose(paragraphs_only=False)
    assert 0.3 * len(whole) < len(prose) < 0.8 * len(whole)
    paragraphs = prose.split("\n")
    assert all(paragraph.endswith((".", ":")) and len(paragraph.split()) >= 8 for paragraph in paragraphs)
    assert "::=" not in prose and "+---" not in prose and ">>>" not in prose
    letters = sum(character.isalpha() for character in prose)
    assert letters > 0.75 * len(prose)
    assert " the " in prose


def test_python_source_has_the_size_asked_for() -> None:
    assert len(python_source(megabytes=0.25)) == 250_000
    assert len(python_source(megabytes=2)) == 2_000_000


def test_a_longer_sample_begins_with_the_shorter() -> None:
    assert python_source(megabytes=0.5).startswith(python_source(megabytes=0.1))
    assert "".join(python_files(0.3)) == python_source(0.3)


def test_python_source_is_python() -> None:
    for text in python_files(0.2)[:-1]:  # the last is cut in its middle
        ast.parse(text)


def test_python_source_leaves_out_what_differs_between_machines() -> None:
    # The build's settings, a module at the top of the library, hold the folders that Python was built in.
    assert "\nbuild_time_vars = {" not in python_source(megabytes=5)


def test_python_source_holds_whole_files() -> None:
    abc = Path(sysconfig.get_path("stdlib"), "abc.py").read_text(encoding="utf-8")
    assert abc in python_source(megabytes=1)


@pytest.mark.parametrize("size", [0, -1, float("nan")])
def test_a_size_that_is_not_positive_is_refused(size: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        python_source(megabytes=size)


def test_more_than_there_is_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"has \d+\.\d MB of source, not 500"):
        python_source(megabytes=500)
