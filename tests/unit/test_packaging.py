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
    assert not any(name.startswith(("tests/", "tools/", "tiny_wan/")) for name in names)
    assert {name for name in names if name.startswith("docs/")} == {
        path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs" / "guides").glob("*.md")
    }  # which help pages name


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
    listed = {name.partition(".")[2] for name in project["tool"]["setuptools"]["packages"]}
    listed -= {"", "demo", "sweeps", "tiny_wan"}
    shipped = {path.parent.relative_to(REPOSITORY).as_posix() for path in published() if path.name == "__init__.py"}
    assert {name.replace(".", "/") for name in listed} == shipped - {"."}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by `python -m build` from the tracked files: a source archive first, then the wheel from that."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("build")
    for name in tracked():
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, target)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl"))


USE = """
import sys, torch
import wanvideo_activation_editor as wae
assert wae.__file__.startswith(sys.argv[1]), wae.__file__
pipe, tiny = wae.tiny_wan.pipeline(), wae.tiny_wan
call = {**tiny.CALL, "num_inference_steps": 2, "output_type": "latent"}
first, second, empty = map(tiny.encode, ("a red circle moving left at night", "a blue ring growing on sand", ""))
def sample(prompt):
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt_embeds=prompt, negative_prompt_embeds=empty, generator=generator, **call).frames
with wae.inject(pipe, second):
    assert torch.equal(sample(first), sample(second))
with wae.EmbeddingStore("embeddings.duckdb") as store:
    store.put(first)
assert not {"comfy", "comfy_api", "folder_paths"} & set(sys.modules)
"""


def use(python: Path, folder: Path, environment: dict[str, str]) -> None:
    """Inject, the store, the command, and the tiny model for ComfyUI, with what a Python has installed."""
    common = {"cwd": folder, "env": environment, "check": True, "capture_output": True}
    subprocess.run([python, "-c", USE, str(folder)], **common)
    help_text = subprocess.run([python, "-m", "wanvideo_activation_editor.commands", "--help"], **common)
    assert b"wan-activation" in help_text.stdout
    (folder / "ComfyUI" / "models").mkdir(parents=True)
    subprocess.run([python, "-m", "wanvideo_activation_editor.tiny_wan", "--comfyui", folder / "ComfyUI"], **common)
    written = sorted(path.parent.name for path in (folder / "ComfyUI").rglob("*.safetensors"))
    assert written == ["diffusion_models", "vae", "wanvideo_embeddings"]


def test_the_wheel_works_without_comfyui(wheel, tmp_path):
    """With the dependencies of this environment; its editable installation is not on the path."""
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    weights = installed / "wanvideo_activation_editor" / "tiny_wan" / "weights"
    assert {path.name for path in weights.iterdir()} == {
        *("README.md", "codec.safetensors", "comfy_vae.safetensors", "transformer.safetensors")
    }
    assert sum(path.stat().st_size for path in weights.iterdir()) < 8_000_000
    assert (installed / "wanvideo_activation_editor" / "py.typed").exists()
    use(sys.executable, tmp_path, {**os.environ, "PYTHONPATH": str(installed)})


@pytest.mark.skipif(os.environ.get("WAN_LONG_TESTS") != "1", reason="installs torch: WAN_LONG_TESTS=1")
def test_the_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[diffusers,plot]"], check=True)
    use(python, tmp_path, {k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    command = subprocess.run([python.parent / "wan-activation", "--version"], capture_output=True, check=True)
    assert command.stdout.startswith(b"wan-activation 0.")


def test_the_project_says_what_it_is():
    """Classifiers, keywords and links are there; the version is that of the package."""
    import wanvideo_activation_editor

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == wanvideo_activation_editor.__version__
    assert {"comfyui", "diffusers", "wan"} <= set(project["keywords"]) and project["urls"]
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.10"} <= set(project["classifiers"])
    assert set(project["optional-dependencies"]) == {"diffusers", "plot", "ray"}


def test_requirements_leave_what_comfyui_brings_alone():
    """Installing them must not replace a user's torch. A project that is installed elsewhere names all."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    needed = project["project"]["dependencies"]
    brought = {"torch", "numpy", "pillow", "safetensors"}
    wanted = [line for line in needed if re.split("[>=]", line)[0] not in brought]
    assert (REPOSITORY / "requirements.txt").read_text().split() == wanted == ["duckdb>=1.5", "zstandard>=0.22"]


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


def test_workflow_actions_are_pinned_by_commit():
    used = [
        line.split("uses:")[1].split("#")[0].strip()
        for path in (REPOSITORY / ".github").rglob("*.yml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "uses:" in line
    ]
    assert len(used) > 5
    assert [name for name in used if not name.startswith("./") and not re.search("@[0-9a-f]{40}$", name)] == []
