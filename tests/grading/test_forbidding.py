"""Ways around a forbidden name, tried in the sandbox. Oracle: the exercise's reference on the same cases.

Each way to torch's own attention is tried twice: where nothing is forbidden it gives the right values, so
that the refusal is known to be one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from course_lib.checks.compare import compare
from course_lib.checks.engine import draw_cases, run_probe
from course_lib.checks.guard import ForbiddenCall, base_name, forbid
from course_lib.checks.registry import chapters, exercises_of, get
from course_lib.checks.values import Raised
from course_lib.grading import seccomp
from course_lib.grading.answers import read_notebook
from course_lib.grading.confine import Limits
from course_lib.grading.cut import cut, shared
from course_lib.grading.graft import extract_answers, program
from course_lib.grading.sandbox import Outcome, Worker, available, stage_library

ROOT = Path(__file__).resolve().parents[2]
confined = pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker for all; its library is cut as for every chapter at once."""
    library = stage_library(ROOT, tmp_path_factory.mktemp("staged") / "library")
    forbidden = [shared([exercise.forbidden for exercise in exercises_of(chapter)]) for chapter in chapters()]
    cut(library, [name for names in forbidden for name in names])
    with Worker(library, Limits(program=20.0, case=20.0)) as started:
        yield started


def outcome_of(worker: Worker, exercise_id: str, *cells: str, count: int = 2, free: bool = False) -> Outcome:
    exercise = get(exercise_id)
    name = {"attention/sdpa": "scaled_dot_product_attention"}.get(exercise_id, exercise_id.split("/")[1])
    return worker.run(
        [textwrap.dedent(cell) for cell in cells],
        f"{exercise.topic}.{exercise.probe.__name__}",
        name,
        draw_cases(exercise, 5)[:count],
        forbidden=() if free else exercise.forbidden,
    )


def right(exercise_id: str, outcome: Outcome) -> int:
    """How many cases have the reference's values."""
    exercise = get(exercise_id)
    cases = draw_cases(exercise, 5)[: len(outcome.values)]
    expected = [run_probe(exercise, exercise.reference, case) for case in cases]
    pairs = zip(cases, expected, outcome.values, strict=True)
    return sum(
        not isinstance(found, Raised) and compare(exercise, case.name, want, found) is None
        for case, want, found in pairs
    )


def what_was_raised(outcome: Outcome) -> set[str]:
    return {value.type_name if isinstance(value, Raised) else "nothing" for value in outcome.values}


# --- torch's own attention ------------------------------------------------------------------------------

SETUP = """
import gc, importlib, math, os, sys, threading, types
import torch
import torch.nn.functional as F

def weights_of(query, key, mask):
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is None:
        return scores.softmax(-1)
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0.0)

def scaled_dot_product_attention(query, key, value, mask=None):
    return attend(query, key, value, mask), weights_of(query, key, mask)
"""
WAYS = {
    "by its name": "attend = F.scaled_dot_product_attention",
    "by an alias": "attend = getattr(torch._C._nn, 'scaled_dot_product' + '_attention')",
    "as an operator": "attend = torch.ops.aten.scaled_dot_product_attention",
    "the operator inside it": """
        def attend(*given):
            return torch.ops.aten._scaled_dot_product_attention_math.default(*given)[0]
    """,
    "the fused kernel inside it": """
        def attend(q, k, v, mask):
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
            return kernel(q[None], k[None], v[None])[0][0]
    """,
    "with torch's modes popped": """
        from torch.utils._python_dispatch import _disable_current_modes
        def attend(*given):
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                return F.scaled_dot_product_attention(*given)
    """,
    "in another thread": """
        def attend(*given):
            found = []
            thread = threading.Thread(target=lambda: found.append(F.scaled_dot_product_attention(*given)))
            thread.start()
            thread.join()
            return found[0]
    """,
    "in a thread that a cell has started": """
        import queue
        asked, answered = queue.Queue(), queue.Queue()
        def serve():
            answered.put(F.scaled_dot_product_attention(*asked.get()))
        threading.Thread(target=serve, daemon=True).start()
        def attend(*given):
            asked.put(given)
            return answered.get(timeout=1)
    """,
    "as TorchScript": """
        from typing import Optional
        @torch.jit.script
        def attend(q, k, v, mask: Optional[torch.Tensor]):
            return F.scaled_dot_product_attention(q, k, v, mask)
    """,
    "traced": """
        def attend(q, k, v, mask):
            return torch.jit.trace(F.scaled_dot_product_attention, (q, k, v), check_trace=False)(q, k, v)
    """,
    "through vmap": """
        def attend(q, k, v, mask):
            return torch.vmap(F.scaled_dot_product_attention)(q[None], k[None], v[None])[0]
    """,
    "by its decomposition": "attend = torch.ops.aten.scaled_dot_product_attention.default.decompose",
    "at another dispatch key": """
        def attend(*given):
            keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradXLA)
            return torch.ops.aten.scaled_dot_product_attention.default.redispatch(keys, *given)
    """,
    "as multi-head attention": """
        def attend(q, k, v, mask):
            eye = torch.eye(4)
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
            return F.multi_head_attention_forward(
                q, k, v, 4, 1, eye.repeat(3, 1), None, None, None, False, 0.0, eye, None
            )[0].transpose(0, 1)
    """,
    "as a layer": """
        def attend(q, k, v, mask):
            layer = torch.nn.MultiheadAttention(4, 1, bias=False, batch_first=True)
            torch.nn.init.eye_(layer.out_proj.weight)
            layer.in_proj_weight.data = torch.eye(4).repeat(3, 1)
            return layer(q, k, v)[0]
    """,
    "with the kernels put back": """
        def attend(*given):
            library = torch.library.Library("aten", "IMPL")
            for key in ("CPU", "AutogradCPU"):
                library.impl("scaled_dot_product_attention", torch.library.fallthrough_kernel, key)
            return F.scaled_dot_product_attention(*given)
    """,
}


@confined
@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_torchs_attention_is_open(worker: Worker, way: str) -> None:
    if way != "with the kernels put back":
        free = outcome_of(worker, "attention/sdpa", SETUP, WAYS[way], count=1, free=True)
        assert right("attention/sdpa", free) == 1, (free, "this way leads nowhere")
    refused = outcome_of(worker, "attention/sdpa", SETUP, WAYS[way], count=1)
    assert right("attention/sdpa", refused) == 0
    assert what_was_raised(refused) <= {"ForbiddenCall"}, refused


SLOW_OR_WITHOUT_GRADIENTS = {
    "flex_attention": """
        from torch.nn.attention.flex_attention import flex_attention
        def attend(q, k, v, mask):
            return flex_attention(q[None].detach(), k[None].detach(), v[None].detach())[0]
    """,
    "the operator for ONNX": """
        import torch.onnx.ops
        def attend(q, k, v, mask):
            q, k, v = (x[None].detach() for x in (q, k, v))
            return torch.onnx.ops.attention(q, k, v, qk_matmul_output_mode=3)[0][0]
    """,
    "its Python": """
        from torch.onnx.ops._impl import attention_23
        def attend(q, k, v, mask):
            q, k, v = (x[None].detach() for x in (q, k, v))
            return attention_23(q, k, v, qk_matmul_output_mode=3)[0][0]
    """,
}


@confined
@pytest.mark.parametrize("way", SLOW_OR_WITHOUT_GRADIENTS)
def test_torchs_other_attentions_are_refused(worker: Worker, way: str) -> None:
    refused = outcome_of(worker, "attention/sdpa", SETUP, SLOW_OR_WITHOUT_GRADIENTS[way], count=1)
    assert refused.errors == {}
    assert what_was_raised(refused) == {"ForbiddenCall"}, refused


@confined
def test_a_forbidden_call_that_the_answer_catches_counts(worker: Worker) -> None:
    cell = """
    def attend(q, k, v, mask):
        try:
            return F.scaled_dot_product_attention(q, k, v, mask)
        except Exception:
            return weights_of(q, k, mask) @ v
    """
    free = cell.replace("F.scaled_dot_product_attention", "missing")
    assert right("attention/sdpa", outcome_of(worker, "attention/sdpa", SETUP, free)) == 2
    caught = outcome_of(worker, "attention/sdpa", SETUP, cell)
    name = "torch.nn.functional.scaled_dot_product_attention"
    assert caught.values == (Raised("ForbiddenCall", name),) * 2


@confined
def test_a_call_in_a_cell_is_refused_and_does_not_count_against_the_answer(worker: Worker) -> None:
    cell = """
    def attend(q, k, v, mask):
        return weights_of(q, k, mask) @ v
    F.scaled_dot_product_attention(*[torch.ones(1, 2, 4)] * 3)
    """
    outcome = outcome_of(worker, "attention/sdpa", SETUP, cell)
    assert outcome.errors[1].type_name == "ForbiddenCall"
    assert right("attention/sdpa", outcome) == 2


# --- the library's versions -----------------------------------------------------------------------------

# One exercise of the chapter allows the library's attention, so that stays in the library.
WHOLE = "/course/course_lib/layers/attention.py"
FROM_THE_LIBRARY = {
    "imported": "from course_lib.layers.attention import scaled_dot_product_attention as attention",
    "from sys.modules": "attention = sys.modules['course_lib.layers.attention'].scaled_dot_product_attention",
    "found in memory": """
        gc.unfreeze()
        attention = next(found for found in gc.get_objects() if isinstance(found, types.FunctionType)
                         and found.__qualname__ == "scaled_dot_product_attention"
                         and found.__module__ == "course_lib.layers.attention")
    """,
    "its file": f"scope = {{}}; exec(open({WHOLE!r}).read(), scope)",
    "its file, as bytes": f"os.read(os.open({WHOLE!r}, 0), 100)",
    "its file, by a link": f"os.symlink({WHOLE!r}, 'link.py'); open('link.py').read()",
    "its file, from its folder": """
        folder = os.open("/course/course_lib/layers", 0)
        os.read(os.open("attention.py", 0, dir_fd=folder), 100)
    """,
    "its source": """
        import inspect
        import course_lib.layers.attention as module
        inspect.getsource(module)
    """,
    "as a module of another name": f"""
        from importlib.machinery import SourceFileLoader
        attention = SourceFileLoader("other", {WHOLE!r}).load_module().scaled_dot_product_attention
    """,
    "by another program": f"""
        import subprocess
        subprocess.run(["/bin/cat", {WHOLE!r}], capture_output=True, check=True)
    """,
    "by another program, with the interpreter's reports silenced": f"""
        import subprocess
        sys.audit = lambda *event: None
        subprocess.run(["/bin/cat", {WHOLE!r}], capture_output=True, check=True)
    """,
    "by another Python": "os.execv(sys.executable, ['python', '-c', 'print()'])",
    "by the shell": f"os.system('cat {WHOLE}') == 0 or 1 / 0",
    "by a function of C": "import ctypes; ctypes.CDLL(None).open",
}
USE = """
def attend(q, k, v, mask):
    return attention(q, k, v, mask, return_weights=True).output
"""


@confined
@pytest.mark.parametrize("way", FROM_THE_LIBRARY)
def test_what_the_library_knows_is_not_to_be_had(worker: Worker, way: str) -> None:
    if "silenced" in way and not seccomp.works():
        pytest.skip("this kernel takes no filter")
    cell = textwrap.dedent(FROM_THE_LIBRARY[way])
    outcome = outcome_of(worker, "attention/sdpa", SETUP, cell, USE, count=1)
    assert right("attention/sdpa", outcome) == 0
    stopped = {outcome.errors[1].type_name} if 1 in outcome.errors else what_was_raised(outcome)
    assert stopped <= {"ForbiddenCall", "PermissionError", "OSError"}, outcome


@confined
def test_the_library_is_there_for_the_exercise_that_may_use_it(worker: Worker) -> None:
    cell = """
    import torch
    from course_lib.layers.attention import scaled_dot_product_attention
    def causal_mask(n_query, n_key):
        x = torch.ones(1, n_query, 4)
        return scaled_dot_product_attention(x, x, x, return_weights=True).weights[0] > 0
    """
    program = ["import torch", textwrap.dedent(cell)]
    case = draw_cases(get("attention/causal_mask"), 5)[:1]
    allowed = get("attention/cross").forbidden
    outcome = worker.run(program, "attention.causal_mask", "causal_mask", case, forbidden=allowed)
    assert outcome.errors == {} and what_was_raised(outcome) == {"nothing"}, outcome


@confined
@pytest.mark.parametrize(
    ("exercise_id", "name"),
    [
        ("attention/causal_mask", "course_lib.layers.masks.causal_mask"),
        ("tokenizers/train_bpe", "course_lib.tokenizers.bpe.train_bpe"),
        ("tokenizers/encode_bpe", "course_lib.tokenizers.bpe.BPETokenizer"),
        ("welcome/centre_rows", "course_lib.shapes.centre_rows"),
        ("welcome/distances", "course_lib.shapes.pairwise_squared_distances"),
    ],
)
def test_a_definition_that_was_cut_is_nowhere(worker: Worker, exercise_id: str, name: str) -> None:
    module, _, last = name.rpartition(".")
    answer = "pairwise_squared_distances" if exercise_id == "welcome/distances" else exercise_id.split("/")[1]
    cell = f"""
    import {module} as module
    scope = {{"__name__": "copy"}}
    source = open(module.__file__).read()
    exec(compile(source, "copy", "exec", dont_inherit=True), scope)
    def {answer}(*given):
        try:
            return module.{last}(*given)
        except Exception:
            return scope[{last!r}](*given)
    """
    exercise = get(exercise_id)
    probe = f"{exercise.topic}.{exercise.probe.__name__}"
    outcome = worker.run([textwrap.dedent(cell)], probe, answer, draw_cases(exercise, 5)[:1])
    assert outcome.errors == {}
    assert what_was_raised(outcome) == {"ForbiddenCall"}, outcome


# --- other packages -------------------------------------------------------------------------------------

PACKAGE = """
import importlib, importlib.util, os, sys
from importlib.machinery import ExtensionFileLoader, PathFinder
folder = next(path for path in sys.path if os.path.isdir(os.path.join(path, "tokenizers")))
names = os.listdir(os.path.join(folder, "tokenizers"))
binary = next(os.path.join(folder, "tokenizers", name) for name in names if name.endswith(".so"))
"""
TO_A_PACKAGE = {
    "import": "import tokenizers",
    "import of a part": "from tokenizers.models import BPE",
    "importlib": "importlib.import_module('token' + 'izers')",
    "__import__": "__import__('tokenizers')",
    "without the finders of this process": """
        sys.meta_path[:] = [finder for finder in sys.meta_path if "Importing" not in repr(finder)]
        import tokenizers
    """,
    "without them, by importlib": """
        sys.meta_path[:] = [PathFinder]
        importlib.import_module("tokenizers")
    """,
    "its binary, under another name": """
        loader = ExtensionFileLoader("other.tokenizers", binary)
        spec = importlib.util.spec_from_loader("other.tokenizers", loader)
        importlib.util.module_from_spec(spec)
    """,
    "its binary, copied": """
        import shutil
        shutil.copyfile(binary, "tokenizers.so")
    """,
    "its binary, by a link": """
        os.symlink(os.path.join(folder, "tokenizers"), "linked")
        sys.path.insert(0, os.getcwd())
        import linked
    """,
    "in another Python": """
        import subprocess
        subprocess.run([sys.executable, "-c", "import tokenizers"], check=True)
    """,
}


@confined
@pytest.mark.parametrize("way", TO_A_PACKAGE)
def test_a_package_that_has_the_answer_cannot_be_loaded(worker: Worker, way: str) -> None:
    cell = f"{PACKAGE}\n{textwrap.dedent(TO_A_PACKAGE[way])}\ndef train_bpe(counts, n):\n    return 'got it'"
    free = outcome_of(worker, "tokenizers/train_bpe", cell, count=1, free=True)
    if way != "in another Python":
        assert not free.errors, (free.errors, "this way leads nowhere")
    stopped = outcome_of(worker, "tokenizers/train_bpe", cell, count=1)
    assert stopped.errors[0].type_name in ("ForbiddenCall", "PermissionError"), stopped
    assert stopped.values == ()


@confined
def test_what_watches_files_is_not_found_in_memory(worker: Worker) -> None:
    cell = """
    import gc
    gc.unfreeze()
    hooks = [found for found in gc.get_objects() if type(found).__name__ == "function"
             and found.__qualname__ in ("_watch.<locals>.hook", "_watch.<locals>.check")]
    lists = [found for found in gc.get_objects() if type(found) is list
             and any(getattr(item, "__qualname__", "") == "_watch.<locals>.hook" for item in found)]
    def train_bpe(counts, n):
        return [len(hooks), len(lists)]
    """
    outcome = outcome_of(worker, "tokenizers/train_bpe", cell, count=1)
    assert not isinstance(outcome.values[0], Raised)
    assert outcome.values[0]["the list of merges"] == [0, 0]


@confined
def test_an_import_that_the_answer_catches_counts(worker: Worker) -> None:
    cell = """
    def train_bpe(counts, n):
        try:
            import tokenizers
        except BaseException:
            return []
    """
    outcome = outcome_of(worker, "tokenizers/train_bpe", cell, count=1)
    assert outcome.values == (Raised("ForbiddenCall", "tokenizers"),)


# --- the first chapter ----------------------------------------------------------------------------------

SHORT_CUTS = {
    "cdist": ("distances", "lambda a, b: torch.cdist(a, b) ** 2"),
    "the kernel of cdist": ("distances", "lambda a, b: torch.ops.aten._cdist_forward(a, b, 2.0, None) ** 2"),
    "the other kernel of cdist": ("distances", "lambda a, b: torch.ops.aten._euclidean_dist(a, b) ** 2"),
    "cdist's Python again": ("distances", "lambda a, b: torch._VF.cdist(a, b, 2.0, None) ** 2"),
    "torch's function": ("broadcast_shape", "lambda a, b: tuple(torch.broadcast_shapes(a, b))"),
    "NumPy's function": ("broadcast_shape", "lambda a, b: np.broadcast_shapes(a, b)"),
    "its C function": (
        "broadcast_shape",
        "lambda a, b: tuple(torch._C._infer_size(torch.Size(a), torch.Size(b)))",
    ),
    "tensors": ("broadcast_shape", "lambda a, b: tuple((torch.empty(a) + torch.empty(b)).shape)"),
    "tensors by a class": (
        "broadcast_shape",
        "lambda a, b: tuple((torch.Tensor(*a) + torch.Tensor(*b)).shape)",
    ),
    "tensors without numbers": (
        "broadcast_shape",
        "lambda a, b: tuple((torch.empty(a, device='meta') + torch.empty(b, device='meta')).shape)",
    ),
    "views": (
        "broadcast_shape",
        "lambda a, b: tuple((torch.from_numpy(np.zeros(math.prod(a))).view(a)"
        " + torch.from_numpy(np.zeros(math.prod(b))).view(b)).shape)",
    ),
}


@confined
@pytest.mark.parametrize("way", SHORT_CUTS)
def test_a_shortcut_of_the_first_chapter_is_refused(worker: Worker, way: str) -> None:
    name, code = SHORT_CUTS[way]
    cell = f"import math\nimport numpy as np\nimport torch\n{name} = {code}"
    free = outcome_of(worker, f"welcome/{name}", cell, count=1, free=True)
    assert right(f"welcome/{name}", free) == 1, (free, "this way leads nowhere")
    refused = outcome_of(worker, f"welcome/{name}", cell, count=1)
    assert what_was_raised(refused) == {"ForbiddenCall"}, refused


@confined
def test_torchs_static_runtime_is_not_there_where_an_operator_is_forbidden(worker: Worker) -> None:
    cell = "import torch\ncentre_rows = lambda x: torch._C._jit_to_static_module"
    assert what_was_raised(outcome_of(worker, "welcome/centre_rows", cell)) == {"AttributeError"}


# --- nothing else is lost -------------------------------------------------------------------------------


@confined
@pytest.mark.parametrize("exercise_id", ["attention/sdpa", "attention/chunked", "tokenizers/train_bpe"])
def test_the_solution_is_right_where_the_library_is_cut(worker: Worker, exercise_id: str) -> None:
    exercise = get(exercise_id)
    pristine = read_notebook(ROOT / "exercises" / f"{exercise.chapter}.ipynb")
    solved = extract_answers((ROOT / "solutions" / f"{exercise.chapter}.ipynb").read_bytes(), pristine)
    cells = [cell.source for cell in program(pristine, solved.answers)]
    name = {"attention/sdpa": "scaled_dot_product_attention", "attention/chunked": "chunked_attention"}
    outcome = worker.run(
        cells,
        f"{exercise.topic}.{exercise.probe.__name__}",
        name.get(exercise_id, "train_bpe"),
        draw_cases(exercise, 5),
        forbidden=exercise.forbidden,
    )
    assert right(exercise_id, outcome) == len(draw_cases(exercise, 5)), outcome


@confined
def test_known_limit_torchs_python_can_be_read_and_run_again(worker: Worker) -> None:
    """As it could be pasted into the cell; what it calls is refused all the same."""
    cell = """
    import ast
    scope = dict(vars(F))
    tree = ast.parse(open(F.__file__).read())
    names = ("multi_head_attention_forward",)
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    exec(compile(tree, "copy", "exec"), scope)
    def attend(q, k, v, mask):
        eye = torch.eye(4)
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return scope["multi_head_attention_forward"](
            q, k, v, 4, 1, eye.repeat(3, 1), None, None, None, False, 0.0, eye, None, need_weights=NEEDED
        )[0].transpose(0, 1)
    """
    by_softmax = outcome_of(worker, "attention/sdpa", SETUP, cell.replace("NEEDED", "True"), count=1)
    assert right("attention/sdpa", by_softmax) == 1
    fused = outcome_of(worker, "attention/sdpa", SETUP, cell.replace("NEEDED", "False"), count=1)
    assert what_was_raised(fused) == {"ForbiddenCall"}


# --- self-study -----------------------------------------------------------------------------------------


def test_self_study_refuses_a_module_loaded_or_not() -> None:
    import tokenizers

    with pytest.raises(ForbiddenCall, match="tokenizers"), forbid(["tokenizers"]):
        tokenizers.Tokenizer  # noqa: B018
    assert tokenizers.Tokenizer.__name__ == "Tokenizer"
    code = (
        "from course_lib.checks.guard import ForbiddenCall, forbid\n"
        "for words in ('import wave', 'from wave import open'):\n"
        "    try:\n"
        "        with forbid(['wave', 'colorsys.rgb_to_hsv']):\n"
        "            exec(words)\n"
        "    except ForbiddenCall as error:\n"
        "        print(error.name)\n"
        "    try:\n"
        "        with forbid(['wave', 'colorsys.rgb_to_hsv']):\n"
        "            import colorsys\n"
        "            colorsys.rgb_to_hsv(1, 1, 1)\n"
        "    except ForbiddenCall as error:\n"
        "        print(error.name)\n"
        "import wave\n"
        "print(wave.open.__name__, colorsys.rgb_to_hsv(1, 1, 1)[2])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.split() == ["wave", "colorsys.rgb_to_hsv"] * 2 + ["open", "1"]


def test_self_study_counts_a_call_that_was_caught() -> None:
    import colorsys

    with pytest.raises(ForbiddenCall), forbid(["colorsys.rgb_to_hsv"]), contextlib.suppress(Exception):
        colorsys.rgb_to_hsv(1, 1, 1)
    with pytest.raises(ForbiddenCall), forbid(["colorsys.rgb_to_hsv"]):
        try:
            colorsys.rgb_to_hsv(1, 1, 1)
        except Exception as error:
            raise ValueError("hidden") from error


def test_an_operators_name_is_compared_whole() -> None:
    import torch

    assert [base_name(name) for name in ("aten::add_.Tensor", "aten::_softmax", "rsqrt")] == [
        "add",
        "_softmax",
        "rsqrt",
    ]
    with forbid(["aten::add"]):
        assert torch.addmm(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1)).item() == 2
    with pytest.raises(ForbiddenCall), forbid(["aten::add"]):
        torch.ones(2).add_(1)
