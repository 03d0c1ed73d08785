"""The sentences that every check shares. What is particular to an exercise stands in its entry.

A translated edition replaces this dictionary and the entries' text, never logic.
"""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "passed": "All {cases} cases passed.",
    "passed_one": "The case passed.",
    "not_started": "Not started yet: the answer cell still raises NotImplementedError.",
    "raised": "On {case}, your code raised {type}: {message}",
    "raised_at": "On {case}, your code raised {type} at `{source}`: {message}",
    "timeout": "On {case}, your code was still running after {seconds:g} s and was stopped. Look for a loop "
    "whose condition never becomes false.",
    "memory": "On {case}, your code ran out of memory. Look for a tensor that is larger than it needs to be.",
    "nothing": "On {case}, your function returned nothing. `print` shows a value; only `return` hands it "
    "back.",
    "returned": "On {case}, you returned {actual}; expected {expected}.",
    "changed": "On {case}, your code changed its input in place. Make something new instead: `x -= y`, "
    "`x.add_(y)` and `x.append(y)` write into `x`; `x - y`, `x + y` and `[*x, y]` do not.",
    "type": "On {case}, {name} is {actual}; expected {expected}.",
    "device": "On {case}, {name} is on device '{actual}'; expected '{expected}'. A new tensor is made on "
    "the CPU unless `device=` says where.",
    "dtype": "On {case}, {name} has dtype {actual}; expected {expected}.",
    "shape": "On {case}, {name} has shape {actual}; expected {expected}.",
    "length": "On {case}, {name} has {actual} items; expected {expected}.",
    "nan": "On {case}, {name} has NaN at {where}; expected {expected}.",
    "value": "On {case}, {name} is {actual} at {where}; expected {expected}.",
    "scalar": "On {case}, {name} is {actual}; expected {expected}.",
    "score": "On {case}, the {measure} of {name} is {score}; {bar} is asked for.",
    "predictions": "On {case}, {name} should be one tensor or array of numbers, or a list of numbers.",
    "probabilities": "On {case}, the probabilities in {name} at {where} add up to {actual}; expected 1. "
    "`log_softmax` gives logarithms of probabilities that do.",
    "missing": "On {case}, {name} is missing from what you returned.",
    "step": "Your values agree with the reference up to “{before}”. The next, “{after}”, is not among them.",
    "first_step": "The first step, “{after}”, already differs from the reference.",
    "forbidden": "{name} may not be used in this exercise. Write that part yourself.",
    "misconception": "This looks like: {name}.",
    "hint": 'For a hint, run `hint("{id}")`: {left} of {total} left.',
    "no_hint": "You have seen all {total} hints. The solved notebook is in the course's folder `solutions`.",
    "no_hint_nor_solution": "You have seen all {total} hints.",
    "more_cases": "{failed} of {cases} cases failed.",
    "no_hidden": "There are no hidden cases of {id} here; a graded run has its own.",
    "graded_further": "Grading tries further cases: look once more for the edges that the statement names.",
    "not_in_pack": "There is no answer to {id} here yet: write yours, pass its check, and export again.",
    "unknown": "There is no exercise {id!r}. {near}",
    "same_object": "The check was given the library's own {name}, not yours. Pass the one that you wrote.",
    "device_note": "Run on {device}.",
    "speed_later": "Speed was not measured: the points for it ({points}) are given where the exercise is "
    "graded on a GPU.",
    "no_cuda": "There is no CUDA device here, so this ran on the CPU.",
    "progress_lost": "Your progress could not be saved: {reason}. The verdict above still stands; run the "
    "check again once that is mended.",
    "progress_damaged": "The progress file was damaged and has been put aside as {kept}; progress goes on "
    "from the copy before it.",
}


def sentence(key: str, **values: object) -> str:
    """The sentence called `key`, with its blanks filled in."""
    return SENTENCES[key].format(**values)
