"""One explorer, three ways to see it: a live widget, a script in a saved page, plain HTML where none runs.

A widget is found in JupyterLab only while its kernel lives; a saved view of it shows an error. So the HTML
carries a rendering that needs no script, in tags and attributes that JupyterLab's sanitiser lets pass
(no SVG, no style element, no script), and then the widget's own code, which takes its place where
scripts may run. Identifiers come from the content, so that a rebuild gives the same bytes.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import anywidget

from course_lib.viz.building import is_building
from course_lib.viz.text import script_json


def read_static(name: str) -> str:
    """The text of a file of `viz/static`."""
    return files("course_lib.viz").joinpath("static", name).read_text(encoding="utf-8")


# The page's own stand-in for the widget's model: the same four methods, and no kernel behind them.
_ENHANCE = """<script>(() => {
const root = document.currentScript?.previousElementSibling ?? document.getElementById("%(identifier)s");
%(module)s
const state = %(state)s, listeners = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => {
    if (state[name] === value) return;
    state[name] = value;
    for (const listener of listeners["change:" + name] ?? []) listener();
  },
  on: (name, listener) => (listeners[name] ??= []).push(listener),
  save_changes: () => {},
};
const style = document.createElement("style"), el = document.createElement("div");
style.textContent = %(css)s;
root.replaceChildren(style, el);
explorer.render({ model, el });
})();</script>"""


def page(static: str, esm: str, css: str, state: dict[str, Any]) -> str:
    """HTML that shows `static` where no script runs, and otherwise the module's rendering of `state`."""
    content = script_json(state)
    digest = hashlib.sha256((static + esm + css + content).encode("utf-8")).hexdigest()
    identifier = f"course-{digest[:12]}"
    module = esm.replace("export default", "const explorer =").replace("</", "<\\/")
    script = _ENHANCE % {
        "identifier": identifier,
        "module": module,
        "state": content,
        "css": script_json(css),
    }
    return f'<div id="{identifier}">{static}</div>{script}'


class Explorer(anywidget.AnyWidget):
    """A widget with a static rendering beside it; while a notebook is built it is the rendering alone."""

    def open(self) -> None:
        """Open the widget's channel to the page, unless the notebook is being built."""
        if not is_building():
            super().open()

    def to_html(self) -> str:
        """A self-contained rendering for saved notebooks and pages without a kernel."""
        raise NotImplementedError

    def summary(self) -> str:
        """One line that says what is shown, for front ends without HTML."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data: dict[str, Any] = {}
        if not is_building():
            bundle = super()._repr_mimebundle_(**kwargs)
            data.update(bundle[0] if bundle else {})
        return {**data, "text/html": self.to_html(), "text/plain": self.summary()}, {}
