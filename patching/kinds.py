"""Which class gets at an edit's value, by its site and source."""

from __future__ import annotations

from .active import ActiveEdit, ContextEdit, ModuleEdit
from .edit import Edit
from .forked import ForkedEdit
from .gains import ControlEdit, KeywordEdit
from .images import ImageEdit
from .masked import MaskedContextEdit
from .sites import site_of
from .sources import Prompt, SecondStream
from .streams import StreamEdit


def kind_of(edit: Edit) -> type[ActiveEdit]:
    """The class that gets at an edit's value."""
    if edit.site == "context":
        return ContextEdit if edit.mask is None else MaskedContextEdit
    if edit.site == "image_tokens":
        return ImageEdit
    site = site_of(edit.site)
    if site.end == "keyword" or site.of_control:
        return KeywordEdit if site.end == "keyword" else ControlEdit
    if isinstance(edit.source, SecondStream):
        return StreamEdit
    return ForkedEdit if isinstance(edit.source, Prompt) else ModuleEdit
