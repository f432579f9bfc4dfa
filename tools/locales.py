"""Write locales/en/nodeDefs.json from the node schemas, and name what other languages lack or have too much.

    PYTHONPATH=<ComfyUI> .venv/bin/python tools/locales.py

ComfyUI serves the files at /i18n; the front end shows their names, descriptions and tooltips. Input names stay the
ids that workflow files and the documents use, in every language.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).resolve().parents[1] / "locales"

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
        "inputs": {i.id: {"tooltip": i.tooltip} for i in schema.inputs},
        "outputs": {str(n): {"tooltip": o.tooltip} for n, o in enumerate(schema.outputs) if o.tooltip},
    }


def read(language: str) -> Definitions:
    definitions: Definitions = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return definitions


def languages() -> list[str]:
    return sorted(path.parent.name for path in LOCALES.glob("*/nodeDefs.json"))


def keys(value: Any, path: str = "") -> set[str]:
    """Paths of all texts: `Node/inputs/name/tooltip`."""
    if not isinstance(value, dict):
        return {path}
    return set().union(*(keys(v, f"{path}/{k}" if path else k) for k, v in value.items())) if value else set()


def main() -> int:
    english = schema_definitions()
    folder = LOCALES / "en"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(english, indent=1, ensure_ascii=False) + "\n"
    (folder / "nodeDefs.json").write_text(text, encoding="utf-8")
    wrong = 0
    for language in languages():
        there, here = keys(read(language)), keys(english)
        for key in sorted(here - there):
            sys.stdout.write(f"{language}: missing {key}\n")
        for key in sorted(there - here):
            sys.stdout.write(f"{language}: stale {key}\n")
        wrong += len(here ^ there)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
