"""What is published: small, without what registry scanners flag, with every package listed."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

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


def tracked(*options: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    return set(listed.stdout.splitlines())


def published() -> list[Path]:
    """Files of the archive that the registry gets: tracked ones that .comfyignore, a gitignore file, does not match."""
    left_out = tracked("--cached", "--ignored", "--exclude-from=.comfyignore")
    assert {".comfyignore", "README.md"}.isdisjoint(left_out) and "Makefile" in left_out
    return [path for name in sorted(tracked() - left_out) if (path := REPOSITORY / name).exists()]


def test_archive_is_below_one_megabyte():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in published():
            packed.write(path, path.relative_to(REPOSITORY))
    assert archive.tell() < 1_000_000


def test_archive_has_what_the_graph_editor_shows():
    names = {path.relative_to(REPOSITORY).as_posix() for path in published()}
    for page in (REPOSITORY / "web" / "docs").glob("*.md"):
        assert f"web/docs/{page.name}" in names
    assert {"locales/en/nodeDefs.json", "locales/zh/nodeDefs.json", "web/js/extension.js"} <= names
    assert sum(name.startswith("example_workflows/") for name in names) >= 16
    assert not any(name.startswith(("tests/", "docs/", "tools/", "tiny_wan/")) for name in names)


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
    listed = {name.partition(".")[2] for name in project["tool"]["setuptools"]["packages"]} - {"", "sweeps", "tiny_wan"}
    shipped = {path.parent.relative_to(REPOSITORY).as_posix() for path in published() if path.name == "__init__.py"}
    assert {name.replace(".", "/") for name in listed} == shipped - {"."}


def test_the_wheel_has_the_tiny_model_and_runs_it(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, installed = tmp_path / "source", tmp_path / "wheels", tmp_path / "installed"
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, target)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    weights = installed / "wanvideo_activation_editor" / "tiny_wan" / "weights"
    assert {path.name for path in weights.iterdir()} == {
        *("README.md", "codec.safetensors", "comfy_vae.safetensors", "transformer.safetensors")
    }
    assert sum(path.stat().st_size for path in weights.iterdir()) < 8_000_000
    (tmp_path / "ComfyUI" / "models").mkdir(parents=True)
    command = [sys.executable, "-m", "wanvideo_activation_editor.tiny_wan", "--comfyui", str(tmp_path / "ComfyUI")]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    written = sorted(path.parent.name for path in (tmp_path / "ComfyUI").rglob("*.safetensors"))
    assert written == ["diffusion_models", "vae", "wanvideo_embeddings"]


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
import wanvideo_activation_editor.tiny_wan
heavy = {"duckdb", "zstandard", "matplotlib", "diffusers", "comfy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
