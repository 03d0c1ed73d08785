"""The parts of the build by themselves: reading texts, fingerprints, outputs, links, structure."""

from __future__ import annotations

import textwrap
from pathlib import Path

import jupytext
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.authoring.exercises import Entry
from course_lib.authoring.fingerprint import depends_on, fingerprint, imports
from course_lib.authoring.links import github_anchor, heading_anchors, jupyter_anchor, link_problems
from course_lib.authoring.outputs import is_complete, normalise, output_problems
from course_lib.authoring.project import Source, SourceError, find_sources
from course_lib.authoring.source import parse
from course_lib.authoring.structure import structure_problems

# --- texts ---------------------------------------------------------------------------------------

TEXT = """\
---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Title

Text with `code`.

+++ {"slideshow": {"slide_type": "slide"}, "tags": ["instructor"]}

```python
shown = "not run"
```

```{code-cell} ipython3
:tags: [volatile, a]

%time x = 1
```

```{code-cell} ipython3
---
slideshow:
  slide_type: fragment
---
y = "```"
```
"""


def test_a_text_becomes_the_cells_it_says():
    cells = parse(TEXT, "f.md")
    assert [cell.cell_type for cell in cells] == ["markdown", "markdown", "code", "code"]
    assert cells[0].source == "# Title\n\nText with `code`."
    assert cells[1].metadata == {"slideshow": {"slide_type": "slide"}, "tags": ["instructor"]}
    assert cells[2].source == "%time x = 1" and cells[2].metadata == {"tags": ["volatile", "a"]}
    assert cells[3].source == 'y = "```"' and cells[3].metadata == {"slideshow": {"slide_type": "fragment"}}


def test_cells_survive_the_way_to_text_and_back():
    cells = parse(TEXT, "f.md")
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    text = jupytext.writes(new_notebook(cells=cells), fmt="md:myst")
    again = parse(text, "f.md")
    assert [(c.cell_type, c.source, c.metadata) for c in again] == [
        (c.cell_type, c.source, c.metadata) for c in cells
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("```{code-cell} ipython3\n:tags: [a\n\nx = 1\n```\n", "not valid MyST"),
        ("---\nkernelspec: [\n---\n\ntext\n", "not valid MyST"),
        ("```{code-cell} ipython3\nx = 1\n\n```{code-cell} ipython3\ny = 2\n```\n", "not closed"),
        ("", "no cells"),
    ],
)
def test_a_text_that_is_no_notebook_is_refused_by_name(text: str, sentence: str):
    with pytest.raises(SourceError, match=sentence) as error:
        parse(text, "notebooks/01_one.md")
    assert str(error.value).startswith("notebooks/01_one.md")


def test_a_file_name_that_is_no_chapter_is_refused(tmp_path: Path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/Attention.md").write_text("# A")
    with pytest.raises(SourceError, match=r"notebooks/Attention\.md: not a chapter's name"):
        find_sources(tmp_path)


# --- fingerprints --------------------------------------------------------------------------------

LIBRARY = {
    "course_lib/__init__.py": "",
    "course_lib/a.py": "from .inner import thing\nimport torch\n",
    "course_lib/inner/__init__.py": "from ..other import x\n",
    "course_lib/inner/thing.py": "def f():\n    from course_lib import late\n",
    "course_lib/other.py": "x = 1\n",
    "course_lib/late.py": "NAME = 'course_lib.by_name'\n",
    "course_lib/by_name.py": "from pathlib import Path\nSTYLE = Path(__file__, '..', 'static', 'look.css')\n",
    "course_lib/static/look.css": "p {}",
    "course_lib/static/unused.css": "p {}",
    "course_lib/unused.py": "",
    "course_lib/checks/__init__.py": "",
    "course_lib/checks/01_one.py": "from .probes import one\n",
    "course_lib/checks/probes/__init__.py": "",
    "course_lib/checks/probes/one.py": "from ...unused import y\n",
    "course_lib/checks/02_two.py": "",
    "pyproject.toml": 'dependencies = [\n "torch==2.13.0",\n]\n',
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name, text in LIBRARY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(root: Path, *sources: str) -> set[str]:
    found = depends_on(root, [new_code_cell(source) for source in sources])
    return {path.relative_to(root / "course_lib").as_posix() for path in found}


def test_dependencies_are_followed_through_every_kind_of_import(library: Path):
    assert names(library, "%matplotlib inline\nimport course_lib.a as a") == {
        "__init__.py", "a.py", "inner/__init__.py", "inner/thing.py", "other.py", "late.py", "by_name.py",
        "static/look.css",
    }  # fmt: skip
    assert names(library, "from course_lib import other") == {"__init__.py", "other.py"}
    assert names(library, "import numpy\nfrom torch import nn") == set()


def test_a_check_depends_on_its_entry_and_what_that_uses(library: Path):
    found = names(library, 'check("one/double", double)')
    assert {"checks/01_one.py", "checks/probes/one.py", "unused.py"} <= found
    assert "checks/02_two.py" not in found


def test_an_import_loop_and_a_cell_that_is_no_python_are_no_trouble(library: Path):
    (library / "course_lib/other.py").write_text("from . import late\n")
    (library / "course_lib/late.py").write_text("from . import other\n")
    assert "late.py" in names(library, "import course_lib.other", "this is not python(")


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        ("course_lib/by_name.py", True),
        ("course_lib/static/look.css", True),
        ("course_lib/static/unused.css", False),
        ("course_lib/unused.py", False),
        ("README.md", False),
    ],
)
def test_the_fingerprint_changes_with_what_is_used_alone(library: Path, name: str, matters: bool):
    cells = [new_code_cell("from course_lib.a import f")]
    before = fingerprint(library, cells)
    assert fingerprint(library, cells) == before
    (library / name).write_text("VALUE = 2\n")
    assert (fingerprint(library, cells) != before) == matters


def test_the_fingerprint_changes_with_code_tags_and_torch_but_not_with_prose(library: Path):
    def of(code: str, *tags: str, prose: str = "Text") -> str:
        cell = new_code_cell(code, metadata={"tags": list(tags)})
        return fingerprint(library, [new_markdown_cell(prose), cell])

    before = of("a\nb")
    assert of("a\nc") != before
    assert of("a\nb", "raises-exception") != before
    assert of("a\nb", prose="Other") == before
    assert of("a\r\nb") == before
    (library / "pyproject.toml").write_text('"torch==2.14.0"')
    assert of("a\nb") != before


def test_relative_imports_start_from_the_module():
    assert "course_lib.x.y" in imports("from .y import z", "course_lib.x.w")
    assert "course_lib.y" in imports("from ..y import z", "course_lib.x.w")
    assert "course_lib.x.y" in imports("from .y import z", "course_lib.x.__init__")
    assert imports("from .....y import z", "course_lib.x") == set()


# --- outputs -------------------------------------------------------------------------------------


def shown(**data: object) -> NotebookNode:
    """A code cell that displays data, written with __ for the slash of a MIME type."""
    bundle = {name.replace("__", "/").replace("_xml", "+xml"): value for name, value in data.items()}
    return new_code_cell("f()", outputs=[new_output("display_data", data=bundle)])


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return new_code_cell("f()", outputs=[new_output("stream", name=name, text=text)])


PNG = "iVBORw0KGgo="


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (shown(image__png=PNG, text__plain="<Figure>"), "without alternative text"),
        (shown(text__html='<p><img src="data:image/png;base64,x"></p>'), "without alternative text"),
        (shown(text__html="<img src='x' alt=' '>"), "without alternative text"),
        (shown(image__svg_xml="<svg><path/></svg>"), "without alternative text"),
        (printed("<object object at 0x7f1234567890>"), "address of an object"),
        (printed("0x7f1234567890"), "address of an object"),
        (shown(**{"application__vnd.jupyter.widget-view+json": {"model_id": "x"}}), "live widget"),
        (printed("{root}/data/x.txt"), "path of this machine"),
        (printed("see {home}/x"), "path of this machine"),
    ],
)
def test_outputs_that_may_not_be_committed_are_reported(cell: NotebookNode, sentence: str, tmp_path: Path):
    for output in cell.outputs:
        if output.output_type == "stream":
            output.text = output.text.format(root=tmp_path, home=Path.home())
    problems = output_problems("notebooks/01_one.ipynb", [new_markdown_cell("Text"), cell], tmp_path)
    assert len(problems) == 1
    assert sentence in problems[0] and problems[0].startswith("notebooks/01_one.ipynb: cell 2 (f())")


@pytest.mark.parametrize(
    "cell",
    [
        shown(text__html='<img src="data:image/png;base64,x" alt="A rising line.">'),
        shown(image__png=PNG, text__html='<img src="x" alt="A rising line.">'),
        shown(image__svg_xml="<svg><title>A rising line</title></svg>"),
        shown(text__html="<p>No picture</p>"),
        printed("0x10 and at 0x10; /a/b"),
    ],
)
def test_other_outputs_are_fine(cell: NotebookNode, tmp_path: Path):
    assert output_problems("notebooks/01_one.ipynb", [cell], tmp_path) == []


def test_alternative_text_in_the_metadata_counts(tmp_path: Path):
    cell = shown(image__png=PNG)
    cell.outputs[0].metadata = {"image/png": {"alt": "A rising line."}}
    assert output_problems("notebooks/01_one.ipynb", [cell], tmp_path) == []


def test_paths_in_warnings_and_tracebacks_are_shortened(tmp_path: Path):
    warning = printed(f"/tmp/ipykernel_123/456.py:2: UserWarning: {tmp_path}/x.py\n", "stderr")
    error = new_code_cell(
        "1 / 0",
        outputs=[new_output("error", ename="E", evalue="", traceback=[f"File {tmp_path}/course_lib/a.py:3"])],
    )
    normalise([warning, error], tmp_path)
    assert warning.outputs[0].text == "<cell>:2: UserWarning: <course>/x.py\n"
    assert error.outputs[0].traceback == ["File <course>/course_lib/a.py:3"]
    assert [warning.execution_count, error.execution_count] == [1, 2]


def test_a_notebook_is_complete_when_every_cell_with_code_has_run():
    done, empty, todo = new_code_cell("x", execution_count=1), new_code_cell(" "), new_code_cell("y")
    assert is_complete([done, empty, new_markdown_cell("Text")])
    assert not is_complete([done, todo])


# --- links ---------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    for name in ("notebooks/01_one.ipynb", "notebooks/a picture.png", "solutions/01_one.ipynb", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "[x](01_one.ipynb)",
        "[x](./01_one.ipynb#Any-where)",
        "![x](a%20picture.png)",
        "[x](../exercises/01_one.ipynb)",
        "[x](https://example.org/none) <mailto:a@example.org>",
        "# A heading, `code` & more\n\n[x](#A-heading,-code-&-more) [y](#a-heading-code--more)",
        '<a id="here"></a> [x](#here)',
        "`[x](none.md)`\n\n```\n[x](none.md)\n```",
        '<a href="01_one.ipynb">x</a>',
        r"The mean $\mathrm{E}[x](t)$ and $$\frac{[a](b)}{2}$$.",
    ],
)
def test_links_that_lead_somewhere_are_fine(linked: Path, text: str):
    planned = {linked / "exercises/01_one.ipynb"}
    assert link_problems("notebooks/01_one.ipynb", [new_markdown_cell(text)], linked, "lesson", planned) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[x](02_two.ipynb)", "02_two.ipynb, which is not there"),
        ("Text [x][y].\n\n[y]: none.md", "none.md, which is not there"),
        ("| a |\n|---|\n| [x](none.md) |", "none.md, which is not there"),
        ("![x](none.png)", "none.png, which is not there"),
        ("It costs $5, see [x](none.md), or $6.", "none.md, which is not there"),
        ("# A heading\n\n[x](#another)", "no heading here is called so"),
        ("[x](/README.md)", "is relative"),
        ("[x](../README.md)", "a learner's copy of the course does not hold"),
        ("[x](../solutions/01_one.ipynb)", "a learner's copy of the course does not hold"),
        ('<details>\n<a href="none.md">x</a>\n</details>', "none.md, which is not there"),
        ('Text <img src="none.png" alt="x">', "none.png, which is not there"),
    ],
)
def test_a_link_that_leads_nowhere_is_reported(linked: Path, text: str, sentence: str):
    problems = link_problems("notebooks/01_one.ipynb", [new_markdown_cell(text)], linked, "lesson")
    assert len(problems) == 1 and sentence in problems[0]


def test_a_link_in_an_output_is_looked_at_too(linked: Path):
    cell = shown(text__html='<a href="none.html">x</a> <a href="01_one.ipynb">y</a> <a href="#own">z</a>')
    problems = link_problems("notebooks/01_one.ipynb", [cell], linked, "lesson")
    assert len(problems) == 1 and "none.html" in problems[0]


def test_a_solution_may_link_to_the_whole_repository(linked: Path):
    cell = new_markdown_cell("[x](../README.md)")
    assert link_problems("solutions/01_one.ipynb", [cell], linked, "solution") == []


def test_anchors_are_those_of_jupyterlab_and_github():
    assert jupyter_anchor("Why *not* this?") == "Why-not-this?"
    assert github_anchor("Why *not* this?") == "why-not-this"
    assert heading_anchors([new_markdown_cell("Two words\n===")]) == {"Two-words", "two-words"}


# --- structure -----------------------------------------------------------------------------------

LESSON = textwrap.dedent(
    """\
    # Title

    Takes 30 minutes. Chapters needed: none. A GPU changes nothing.

    +++ {"slideshow": {"slide_type": "slide"}}

    **Predict, then run.** What comes out?

    <details><summary>Answer</summary>Two.</details>

    ```{code-cell} ipython3
    import torch
    device = pick_device()
    ```

    Predict this.

    <details><summary>Answer</summary>Three.</details>

    ```{code-cell} ipython3
    print(3)
    ```

    +++ {"tags": ["instructor"]}

    ![A line](x.png)

    +++

    The [exercises](../exercises/01_one.ipynb).
    """
)


def lesson_problems(text: str) -> list[str]:
    source = Source(Path("nowhere"), "01_one", "lesson")
    return structure_problems(source, parse(text, "f"), lambda exercise_id: Entry(1, 10, 2))


def test_a_lesson_with_every_part_has_no_problem():
    assert lesson_problems(LESSON) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("# Title", "## Title", "not a title"),
        ("**Predict, then run.**", "# Again\n\nPredict:", "1 more headings of the first level"),
        ("30 minutes", "a while", "how many minutes"),
        ("Chapters needed: none.", "", "which chapters"),
        ("A GPU changes", "Nothing changes", "what a GPU changes"),
        ("Predict this.", "Think.", "1 questions to predict"),
        ("<summary>Answer</summary>Three.", "Three.", "1 questions to predict"),
        (
            "print(3)\n```",
            "print(3)\n```\n\nPredict: <details><summary>A</summary>B</details>",
            "no cell after it",
        ),
        ("../exercises/01_one.ipynb", "../exercises/02_two.ipynb", "does not link to the exercises"),
        ("![A line]", "![]", "picture without alternative text"),
        ('"slide_type": "slide"', '"slide_type": "skip"', "slideshow metadata"),
        ('"instructor"', '"teacher"', "tagged 'instructor'"),
        ("device = pick_device()", "device = 'cpu'", "0 lines 'device = pick_device()'"),
        ("print(3)", "device = pick_device()", "2 lines 'device = pick_device()'"),
    ],
)
def test_every_part_that_is_missing_is_named(old: str, new: str, sentence: str):
    assert old in LESSON
    problems = lesson_problems(LESSON.replace(old, new))
    assert len(problems) == 1, problems
    assert sentence in problems[0] and problems[0].startswith("notebooks/01_one.md: ")


SOLUTION = textwrap.dedent(
    """\
    # Exercises

    ## Double

    10 minutes, difficulty 2 of 5.

    ```{code-cell} ipython3
    ### BEGIN SOLUTION
    x = 1
    ### END SOLUTION
    ```

    ```{code-cell} ipython3
    check("one/double", x)
    ```
    """
)


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("", "", []),
        ("10 minutes", "about 15 minutes", ["its minutes, which the entry sets to 10; it says 15"]),
        ("difficulty 2", "difficulty 4", ["its difficulty, which the entry sets to 2; it says 4"]),
        (", difficulty 2 of 5", "", ["its difficulty, which the entry sets to 2; it says nothing"]),
        ('check("one/double", x)', "x", ["no exercise"]),
    ],
)
def test_a_statement_agrees_with_its_entry(old: str, new: str, sentences: list[str]):
    source = Source(Path("nowhere"), "01_one", "solution")
    cells = parse(SOLUTION.replace(old, new) if old else SOLUTION, "f")
    problems = structure_problems(source, cells, lambda exercise_id: Entry(1, 10, 2))
    assert len(problems) == len(sentences)
    for problem, sentence in zip(problems, sentences, strict=True):
        assert sentence in problem
