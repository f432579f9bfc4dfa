"""What is published: small, without what registry scanners flag, with every package listed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGGED_CALLS = {"eval", "exec", "compile", "__import__"}
FLAGGED_MODULES = {
    "subprocess",
    "pickle",
    "marshal",
    "shelve",
    "socket",
    "ctypes",
    "requests",
    "urllib",
    "http",
    "aiohttp",
}


def published() -> list[Path]:
    """Files of the archive that the registry gets: tracked ones that .comfyignore does not name."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    ignored = tuple((REPOSITORY / ".comfyignore").read_text(encoding="utf-8").split())
    return [REPOSITORY / name for name in listed.stdout.splitlines() if not name.startswith(ignored)]


def test_archive_is_below_one_megabyte():
    assert sum(path.stat().st_size for path in published() if path.exists()) < 1_000_000


def test_nothing_that_scanners_flag():
    for path in published():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not FLAGGED_MODULES & {alias.name.split(".")[0] for alias in node.names}, where
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in FLAGGED_MODULES, where
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in FLAGGED_CALLS, where
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert (ast.unparse(node.func)) not in ("torch.load", "os.system", "os.popen"), where


def test_every_package_is_installed():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    listed = {name.partition(".")[2] for name in project["tool"]["setuptools"]["packages"]} - {""}
    shipped = {path.parent.relative_to(REPOSITORY).as_posix() for path in published() if path.name == "__init__.py"}
    assert {name.replace(".", "/") for name in listed} == shipped - {"."}


def test_requirements_say_the_same_as_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert (REPOSITORY / "requirements.txt").read_text().split() == project["project"]["dependencies"]


def test_changelog_has_the_version():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(project['project']['version'])}\b", changelog, re.MULTILINE)


def test_importing_the_pack_does_nothing_and_imports_no_database():
    code = """
import sys
import wanvideo_activation_editor
import wanvideo_activation_editor.patching
import wanvideo_activation_editor.storage
heavy = {"duckdb", "zstandard", "matplotlib", "diffusers", "comfy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
