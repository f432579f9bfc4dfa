"""The notebooks of the documentation run on the tiny model; their assertions say what must come out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import wanvideo_activation_editor

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("diffusers")

from tools.notebooks import FOLDER, executed  # noqa: E402  # needs the packages above

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def kinds(notebook) -> list[list[str]]:
    """Kinds of output of each cell of code."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[key for o in cell.outputs for key in sorted(o.get("data", {"text": ""}))] for cell in code]


def test_the_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["inject", "steer"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_are_kept(path, monkeypatch):
    package = Path(wanvideo_activation_editor.__file__).parent.parent
    given = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(package), given])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # others run at the same time
    found = executed(path)
    assert kinds(found) == kinds(nbformat.read(path, as_version=4)), "python -m tools.notebooks"
    assert sum("image/jpeg" in of_cell for of_cell in kinds(found)) >= 2


def test_the_quick_start_prints_what_it_says(capsys):
    page = (FOLDER.parent / "start" / "python.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    exec(code, {})  # noqa: S102  # our own page
    printed = capsys.readouterr().out.strip()
    assert printed == "on the sea" and f'It prints "{printed}"' in page
