"""A notebook's view of a story with its labels."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.data.story_world.story import Story


def story_html(story: Story) -> str:
    return f"<p>{escape(story.text)}</p>"
