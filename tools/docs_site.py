"""Hooks of mkdocs: pages of the site that stand elsewhere in the repository, and the links between them.

    make docs

Node pages come from web/docs, with what the schema says (locales/en/nodeDefs.json is written from it); benchmarks, the
tiny model, CONTRIBUTING and CHANGELOG are pages as they stand. A link to a file of the repository that is no page
becomes the file's name.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "build" / "docs-package" / "wanvideo_activation_editor"
PAGES = {
    "benchmarks/README.md": "measured/benchmarks.md",
    "benchmarks/STORE.md": "measured/store.md",
    "tiny_wan/weights/README.md": "measured/tiny-model.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
"""File of the repository and the page of the site that it is, or leads to."""

TITLES = {
    "measured/benchmarks.md": "Benchmarks",
    "measured/store.md": "Store",
    "measured/tiny-model.md": "Tiny model",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((<[^>]+>|[^)\s]+)\)")
PICTURES = ("web/docs/images", "nodes/images"), ("example_workflows", "examples")
"""Folders of pictures, and where they are in the site."""
_HELP = re.compile(r"<!-- help:(.*?) -->")


def on_startup(command: str, dirty: bool) -> None:
    """Link the package's folders under its import name: the repository's folder may be called otherwise."""
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for init in [ROOT / "__init__.py", *ROOT.glob("*/__init__.py")]:
        source = init if init.parent == ROOT else init.parent
        link = PACKAGE / source.name
        if not link.exists() and source.name != "tests":
            link.symlink_to(os.path.relpath(source, PACKAGE))


def on_config(config: Any) -> Any:
    """Put the pages that are generated, and guides that other branches bring, into the navigation."""
    sections = {next(iter(entry)): next(iter(entry.values())) for entry in config.nav if isinstance(entry, dict)}
    nodes = {_title(path): f"nodes/{path.name}" for path in sorted((ROOT / "web" / "docs").glob("*.md"))}
    sections["Reference"].append({"Help pages of nodes": [{title: page} for title, page in nodes.items()]})
    sections["What is measured"] += [{title: page} for page, title in TITLES.items()]
    listed = json.dumps(config.nav)
    for guide in sorted((ROOT / "docs" / "guides").glob("*.md")):
        if f"guides/{guide.name}" not in listed:
            sections["Guides"].insert(-4, {_title(guide): f"guides/{guide.name}"})
    config.nav += [{"Contributing": "contributing.md"}, {"Changelog": "changelog.md"}]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "web" / "docs").glob("*.md")):
        files.append(File.generated(config, f"nodes/{path.name}", content=_node(path)))
    for source, page in PAGES.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for folder, site in PICTURES:
        for path in sorted(p for p in (ROOT / folder).iterdir() if p.suffix in (".png", ".jpg")):
            files.append(File.generated(config, f"{site}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    markdown = _HELP.sub(lambda match: _help(match[1].split()), markdown)
    return _LINK.sub(lambda match: _link(match, page.file.src_uri), markdown)


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").partition(":")[0]


def _node(path: Path) -> str:
    """The help page, with the id and the description of the schema."""
    schema = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))[path.stem]
    head, _, text = path.read_text(encoding="utf-8").partition("\n")
    return f"{head}\n\n`{path.stem}`: {schema['description']}\n{text}"


def _source(page: str) -> str:
    """Where in the repository a page stands."""
    if page.startswith("nodes/"):
        return f"web/docs/{page.removeprefix('nodes/')}"
    return next((source for source, site in PAGES.items() if site == page and site != "index.md"), f"docs/{page}")


def _link(match: re.Match[str], page: str) -> str:
    picture, text, target = match.groups()
    path, hash_mark, anchor = unquote(target.strip("<>")).partition("#")
    if re.match(r"[a-z]+:", target) or not path:
        return match[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(_source(page)), path))
    if not (ROOT / wanted).exists():
        return match[0]  # mkdocs says that it is missing
    if wanted.startswith("docs/"):
        site = wanted.removeprefix("docs/")
    elif wanted.startswith("example_workflows/") and wanted.endswith(".jpg"):
        site = wanted.replace("example_workflows", "examples", 1)
    elif wanted.startswith("web/docs/"):
        site = f"nodes/{wanted.removeprefix('web/docs/')}"
    elif wanted in PAGES:
        site = PAGES[wanted]
    else:
        return f"{text} (`{wanted}`)"
    relative = posixpath.relpath(site, posixpath.dirname(page) or ".")
    return f"{picture}[{text}]({quote(relative)}{hash_mark}{anchor})"


def _help(command: list[str]) -> str:
    """What `wan-activation ... --help` prints."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "90"}
    run = [sys.executable, "-m", "wanvideo_activation_editor.commands", *command, "--help"]
    text = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    return f"```text\n{text}```"
