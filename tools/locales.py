"""Write locales/en/nodeDefs.json from the node schemas, name what other languages lack or have too much, and write the
help pages of other languages, web/docs/<NodeId>/<language>.md, from their texts. Notes of the example workflows are
compared with web/js/notes.<language>.json.

    PYTHONPATH=<ComfyUI> .venv/bin/python tools/locales.py

ComfyUI serves the files at /i18n; the front end shows their names, descriptions and tooltips. English names of inputs
and outputs are the ids that workflow files and the documents use.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).resolve().parents[1] / "locales"

DOCS = LOCALES.parent / "web" / "docs"
NOTES = LOCALES.parent / "web" / "js"
EXAMPLES = LOCALES.parent / "example_workflows"
LABELS = {"zh": {"input": "输入", "meaning": "含义", "outputs": "输出", "more": "完整说明（英文）"}}
_ROW = re.compile(r"block_\d+(_strength)?$")  # one of forty inputs that the page has in one line

Definitions = dict[str, dict[str, Any]]


def schema_definitions() -> Definitions:
    """What the front end can translate of every node, in English, as the schemas have it."""
    import wanvideo_activation_editor

    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    return {s.node_id: _definition(s) for cls in asyncio.run(extension.get_node_list()) for s in [cls.define_schema()]}


def _definition(schema: Any) -> dict[str, Any]:
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs},
        "outputs": {
            str(n): {"name": o.id, **({"tooltip": o.tooltip} if o.tooltip else {})}
            for n, o in enumerate(schema.outputs)
        },
    }


def read(language: str) -> Definitions:
    definitions: Definitions = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return definitions


def notes() -> set[str]:
    """Texts of the notes in the example workflows."""
    nodes = [n for path in EXAMPLES.glob("*.json") for n in json.loads(path.read_text(encoding="utf-8"))["nodes"]]
    return {n["widgets_values"][0] for n in nodes if n["type"] in ("MarkdownNote", "Note")}


def read_notes(language: str) -> dict[str, str]:
    """Notes in another language, by their English text."""
    texts: dict[str, str] = json.loads((NOTES / f"notes.{language}.json").read_text(encoding="utf-8"))
    return texts


def languages() -> list[str]:
    return sorted(path.parent.name for path in LOCALES.glob("*/nodeDefs.json"))


def keys(value: Any, path: str = "") -> set[str]:
    """Paths of all texts: `Node/inputs/name/tooltip`."""
    if not isinstance(value, dict):
        return {path}
    return set().union(*(keys(v, f"{path}/{k}" if path else k) for k, v in value.items())) if value else set()


def _as_keys(texts: set[str]) -> set[str]:
    return {f"the translation of the note {text[:70]!r}" for text in texts}


def help_page(language: str, node: str, english: dict[str, Any], translated: dict[str, Any]) -> str:
    """A node's help in another language: what it does, its inputs and outputs, and the way to the page in English."""
    label = LABELS[language]
    rows = []
    for name, texts in translated["inputs"].items():
        shown, ids = texts["name"], f"`{name}`"
        if row := _ROW.match(name):
            if not name.startswith("block_0"):
                continue
            last = "block_39" + (row[1] or "")
            shown, ids = f"{shown} .. {translated['inputs'][last]['name']}", f"{ids} .. `{last}`"
        rows.append(f"| {shown} {ids} | {texts['tooltip']} |")
    names = [f"{texts['name']} `{english['outputs'][n]['name']}`" for n, texts in translated["outputs"].items()]
    table = ["", f"| {label['input']} | {label['meaning']} |", "|---|---|", *rows] if rows else []
    outputs = ["", f"{label['outputs']}：{'，'.join(names)}"] if names else []
    more = f"{label['more']}：[{node}](../{node}.md)"
    return "\n".join([f"# {translated['display_name']}", "", translated["description"], *table, *outputs, "", more, ""])


def help_pages(english: Definitions) -> dict[Path, str]:
    """Help pages in other languages, by path."""
    pages = {}
    for language in LABELS:
        for node, texts in read(language).items():
            pages[DOCS / node / f"{language}.md"] = help_page(language, node, english[node], texts)
    return pages


def main() -> int:
    english = schema_definitions()
    folder = LOCALES / "en"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(english, indent=1, ensure_ascii=False) + "\n"
    (folder / "nodeDefs.json").write_text(text, encoding="utf-8")
    wrong = 0
    for language in languages():
        there, here = keys(read(language)), keys(english)
        if language in LABELS:
            there, here = there | _as_keys(set(read_notes(language))), here | _as_keys(notes())
        for key in sorted(here - there):
            sys.stdout.write(f"{language}: missing {key}\n")
        for key in sorted(there - here):
            sys.stdout.write(f"{language}: stale {key}\n")
        wrong += len(here ^ there)
    if not wrong:
        for path, page in help_pages(english).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(page, encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
