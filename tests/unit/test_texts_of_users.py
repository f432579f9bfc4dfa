"""Text that a user gave, in what ends up in ComfyUI's log: it can be written, and it is short.

ComfyUI writes a node's error with its causes, and what the pack logs, to a file in UTF-8: a lone surrogate in it ends
the thread that runs prompts.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import wanvideo_activation_editor

from .test_nodes import MAIN, OTHER, Patcher, model  # noqa: F401  (a fixture)
from .test_store_nodes import folders  # noqa: F401  (a fixture)

NODES = {
    cls.define_schema().node_id: cls
    for cls in asyncio.run(asyncio.run(wanvideo_activation_editor.comfy_entrypoint()).get_node_list())
}
TEXTS = {
    "surrogate": "\ud800",
    "term": "1-3, \udcff\ud800",
    "controls": "\x1b[31m\x00\r\n\x07",
    "right to left": "abc\u202egpj.exe\u2066",
    "megabyte": "fox, " * 200_000,
    "digits": "7:" + "1" * 200_000 + "x",
}
MOST = 20_000  # characters of an error with its causes and traceback


def texts_of(cls) -> list[str]:
    """Inputs that take any text, and menus of files and of what is stored, which change while a page shows them."""
    read = vars(cls)["fingerprint_inputs"].__func__ if "fingerprint_inputs" in vars(cls) else None
    menus = inspect.signature(read).parameters if read else ()
    return [
        i.id for i in cls.define_schema().inputs if i.io_type == "STRING" or (i.io_type == "COMBO" and i.id in menus)
    ]


CASES = [(node, name) for node, cls in NODES.items() for name in texts_of(cls)]


def given(cls, model: Patcher) -> dict:  # noqa: F811
    """Values for the inputs of a node: its defaults, a model, and prompts."""
    values = {i.id: getattr(i, "default", None) for i in cls.define_schema().inputs}
    prompts = {k: OTHER if k.startswith(("injection", "operand", "end")) else MAIN for k in values if "embeds" in k}
    return {**values, **prompts, **({"model": model} if "model" in values else {})}


def called(function, values: dict) -> Iterator[str]:
    """What a call says: its error with causes, as ComfyUI logs it, or a refusal."""
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        values = {k: v for k, v in values.items() if k in parameters}
    try:
        result = function(**values)
    except Exception as error:
        yield "".join(traceback.format_exception(error))
        yield str(error)
    else:
        if function.__name__ == "validate_inputs" and result is not True:
            yield result
        yield from (getattr(result, "ui", None) or {}).get("text", ())


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(("node", "name"), CASES, ids=[f"{node}.{name}" for node, name in CASES])
def test_no_text_of_a_user_reaches_a_log_unescaped(model, folders: Path, caplog, node: str, name: str, kind: str):  # noqa: F811
    cls = NODES[node]
    values = {**given(cls, model), name: TEXTS[kind]}
    with caplog.at_level(logging.DEBUG):
        functions = [cls.execute]
        functions += [getattr(cls, f) for f in ("validate_inputs", "fingerprint_inputs") if f in vars(cls)]
        said = [text for function in functions for text in called(function, values)]
    for text in [*said, *(record.getMessage() for record in caplog.records)]:
        text.encode()
        assert len(text) < MOST
        assert not any(c in text for c in "\x00\x1b\x07\u202e\u2066"), ascii(text[:300])
