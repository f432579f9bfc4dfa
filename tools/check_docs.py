"""Check that what the documents name exists: nodes, inputs, files, make targets, environment variables.

    PYTHONPATH=<ComfyUI> .venv/bin/python tools/check_docs.py

Prints one line per problem, `file:line: what`, and exits with 1 if there is one.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "ROADMAP.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/STORE.md",
    "docs/*.md",
    "docs/*/*.md",
)
NODES = "docs/reference/nodes.md"
"""The table that names every node."""

OTHER_NODES = {
    "WanVideo TextEmbed Bridge",
    "WanVideo TextEncode",
    "WanVideo TextEncode Cached",
    "WanVideo Sampler",
    "WanVideo Model Loader",
    "WanVideo Empty Embeds",
    "WanVideo Decode",
    "WanVideo Set BlockSwap",
    "WanVideo Lora Select",
}
"""Names in the documents that are not nodes of this pack."""

OTHER_WORDS = {
    "ring_degree",
    "custom_nodes",
    "add_noise_to_samples",
    "rope_function",
    "force_offload",
    "batched_cfg",
    "immediate_transaction_mode",
}
"""Identifiers of hosts and of DuckDB."""

OUTSIDE = (
    "build/",
    "fox/",
    "fox.toml",
    "output/",
    "input/",
    "user/",
    "ComfyUI/",
    "models/",
    "custom_nodes/",
    "path/to",
    "demo-output/",
    "~/",
    "http",
    "../",
    "-",
)
"""Paths beginning so are not in this repository."""

_FILE = re.compile(r"^[\w.@-]+(/[\w.@<>*{}-]*)+$|^[\w-]+\.(md|toml|txt|py|json)$")
_NODE_NAME = re.compile(r"WanVideo(?: (?:[A-Z][\w-]*))+")
_TEMPLATE = re.compile(r"\d\d [A-Z]")
_WORD = re.compile(r"[a-z]+[0-9]*(?:_[a-z0-9]+)+")


def schemas() -> dict[str, Any]:
    """Schemas of all nodes by id."""
    import wanvideo_activation_editor

    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    return {s.node_id: s for cls in asyncio.run(extension.get_node_list()) for s in [cls.define_schema()]}


def documents(root: Path = ROOT) -> list[Path]:
    pages = sorted((root / "web" / "docs").glob("*.md"))
    return [path for name in DOCUMENTS for path in sorted(root.glob(name))] + pages


def _name(schema: Any) -> str:
    """The display name, without the words for the search in brackets."""
    return re.sub(r" \(.*\)$", "", schema.display_name)


def problems(nodes: Mapping[str, Any], root: Path = ROOT) -> Iterator[str]:
    """One line per thing that is named and does not exist, or exists and is not named."""
    pages = {path.stem: path for path in (root / "web" / "docs").glob("*.md")}
    yield from (f"web/docs/{node}.md: missing" for node in sorted(nodes.keys() - pages.keys()))
    yield from (f"web/docs/{page}.md: no such node" for page in sorted(pages.keys() - nodes.keys()))
    for node in sorted(nodes.keys() & pages.keys()):
        yield from _page(nodes[node], pages[node], root)
    names = {_name(schema) for schema in nodes.values()} | OTHER_NODES
    words = known_words(nodes, root)
    table = (root / NODES).read_text(encoding="utf-8")
    for schema in nodes.values():
        if _name(schema).removeprefix("WanVideo ") not in table:
            yield f"{NODES}: {_name(schema)} is not named"
    for path in documents(root):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for what in (*_line(line, path, names, root), *_words(line, words)):
                yield f"{path.relative_to(root)}:{number}: {what}"
    for path in sorted((root / "example_workflows").glob("*.json")):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] == "MarkdownNote":
                for line in node["widgets_values"][0].splitlines():
                    yield from (f"{path.relative_to(root)}: {what}" for what in _words(line, words))


def known_words(nodes: Mapping[str, Any], root: Path) -> set[str]:
    """Identifiers with an underscore that documents may name: of nodes, examples, and anything in the code."""
    words = {path.stem for path in (root / "example_workflows").glob("*.json")}
    for schema in nodes.values():
        words |= {i.id for i in schema.inputs} | {o.id for o in schema.outputs}
        words |= {option for i in schema.inputs for option in getattr(i, "options", None) or []}
    for source in [*root.glob("*/*.py"), *root.glob("patching/hosts/*.py"), *root.glob("tests/**/*.py")]:
        if source != Path(__file__):
            words.update(_WORD.findall(source.read_text(encoding="utf-8")))
    return words | OTHER_WORDS


def _words(line: str, known: set[str]) -> Iterator[str]:
    for code in re.findall(r"`([^`]+)`", line):
        if (re.fullmatch(_WORD, code) or _TEMPLATE.match(code)) and code not in known:
            yield f"nothing is called {code}"


def _page(schema: Any, path: Path, root: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    where = path.relative_to(root)
    inputs = {i.id for i in schema.inputs}
    named = set(_table_names(text))
    for name in sorted(inputs - named):
        if not re.fullmatch(r"block_\d+(_strength)?", name):
            yield f"{where}: the input {name} is not in the table of inputs"
    yield from (f"{where}: no input {name}" for name in sorted(named - inputs))
    if not re.search(r"^(## Example|Example:)", text, re.MULTILINE):
        yield f"{where}: no example"
    if "![" not in text:
        yield f"{where}: no picture; tools/screenshots.py takes one"
    if not re.search(r"^See also: \[", text, re.MULTILINE):
        yield f"{where}: no line 'See also: ' with links to related nodes"
    for output in schema.outputs:
        if not re.search(rf"\b{re.escape(output.id)}\b", text):
            yield f"{where}: the output {output.id} is not named"
    for i in schema.inputs:
        for option in getattr(i, "options", None) or []:
            if not option.startswith("(") and not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text):
                yield f"{where}: the option {option} of {i.id} is not named"


def _table_names(text: str) -> Iterator[str]:
    """Names in the first column of tables whose header begins with `input`."""
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == "input":
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            for name in cells[0].replace("`", "").split(","):
                yield from _expanded(name.strip())


def _expanded(name: str) -> Iterator[str]:
    first, dots, last = name.partition(" .. ")
    if not dots:
        yield name
        return
    a, b = (int(re.findall(r"\d+", end)[0]) for end in (first, last))
    yield from (re.sub(r"\d+", str(n), first, count=1) for n in range(a, b + 1))


def _line(line: str, path: Path, names: set[str], root: Path) -> Iterator[str]:
    for match in _NODE_NAME.finditer(line):
        if not any(match[0] == name or match[0].startswith(f"{name} ") for name in names):
            yield f"no node {match[0]}"
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", line):
        if not target.startswith("http"):
            yield from _link(text, target, path, names)
    for code in re.findall(r"`([^`]+)`", line):
        yield from _code(code, root)
    if command := re.match(r"^(?:make|python|\.venv/bin/python) .+", line):
        yield from _code(command[0], root)


def _link(text: str, target: str, path: Path, names: set[str]) -> Iterator[str]:
    file, _, anchor = target.partition("#")
    to = path.parent / file if file else path
    if not to.exists():
        yield f"no file {target}"
        return
    if anchor and anchor not in {_anchor(line) for line in to.read_text(encoding="utf-8").splitlines()}:
        yield f"no heading {target}"
    if "web/docs/" in file and to.suffix == ".md" and not anchor:
        title = to.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        if title.removeprefix("WanVideo ") != text:
            yield f"[{text}] leads to the page of {title}"


def _anchor(line: str) -> str | None:
    """GitHub's anchor of a heading."""
    if not line.startswith("#"):
        return None
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")


def _code(code: str, root: Path) -> Iterator[str]:
    for target in re.findall(r"\bmake ([a-z]+)", code):
        if not re.search(rf"^{target}:", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE):
            yield f"no target make {target}"
    for word in code.split():
        word = word.rstrip(",.:;").split("::")[0]
        if _FILE.match(word) and not word.startswith(OUTSIDE) and not _exists(word, root):
            yield f"no file {word}"
    for variable in re.findall(r"\b(?:WAN|COMFYUI)_[A-Z_]+\b", code):
        sources = [*root.glob("*/*.py"), *root.glob("tests/**/*.py")]
        if not any(variable in source.read_text(encoding="utf-8") for source in sources):
            yield f"no environment variable {variable} in the code"


def _exists(word: str, root: Path) -> bool:
    """A path from the repository's root; <Name>, * and {a,b} stand for anything."""
    pattern = re.sub(r"<[^>]*>|\{[^}]*\}", "*", word).rstrip("/")
    return any(True for _ in root.glob(pattern))


def main() -> int:
    found = list(problems(schemas()))
    for line in found:
        sys.stdout.write(line + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
