"""The console command `wan-activation`."""

from __future__ import annotations

import json

import pytest
import torch
from wanvideo_activation_editor import EmbeddingStore, commands
from wanvideo_activation_editor.storage.records import Description

SCREEN = 30, 90


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    try:
        status = commands.main([str(a) for a in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("demo",),
        ("map",),
        ("sweep",),
        ("store",),
        *(("store", a) for a in ("list", "export", "import", "verify", "remove", "salvage")),
    ],
    ids=" ".join,
)
def test_help_fits_a_screen(capsys, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(SCREEN[1]))
    status, out, _ = run(capsys, *command, "--help")
    lines = out.splitlines()
    assert status == 0 and len(lines) <= SCREEN[0] and max(map(len, lines)) <= SCREEN[1]
    assert " ".join(("wan-activation", *command)) in out


def test_every_command_is_named_and_others_are_refused(capsys):
    status, out, _ = run(capsys, "--help")
    assert all(f"\n  {name} " in out for name in ("demo", "map", "sweep", "store"))
    status, _, err = run(capsys, "paint")
    assert status == 2 and "'paint'" in err
    assert run(capsys, "--version")[1].startswith("wan-activation 0.")


def test_what_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setitem(commands.COMMANDS, "sweep", ("sweeps_of_another_version", "x"))
    status, _, err = run(capsys, "sweep", "plan.toml")
    assert status == 1 and "has no sweeps_of_another_version, so it cannot sweep" in err
    error = ModuleNotFoundError(name="matplotlib.pyplot")
    assert "pip install 'wanvideo-activation-editor[plot]'" in commands._missing("map", error)


@pytest.fixture
def filled(tmp_path):
    path = tmp_path / "embeddings.duckdb"
    with EmbeddingStore(path) as store:
        for seed, name in enumerate(("castle", "meadow")):
            value = torch.randn(7, 4096, generator=torch.Generator().manual_seed(seed)).bfloat16()
            store.put(value, Description(name=name, prompt=f"a {name}", tags=("place",)))
    return path


def test_a_store_is_listed_exported_imported_verified_and_emptied(capsys, filled, tmp_path, monkeypatch):
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(filled))
    status, out, _ = run(capsys, "store", "list")
    assert status == 0 and "castle" in out and "meadow" in out and "place" in out
    assert "meadow" not in run(capsys, "store", "list", "--text", "castle")[1]
    shared = tmp_path / "shared.safetensors"
    assert run(capsys, "store", "export", shared, "castle")[0] == 0 and shared.is_file()
    status, _, err = run(capsys, "store", "export", shared)
    assert status == 1 and "exists already" in err

    other = tmp_path / "other.duckdb"
    assert run(capsys, "store", "--store", other, "import", shared)[0] == 0
    with EmbeddingStore(filled) as one, EmbeddingStore(other) as two:
        assert two.names() == ["castle"] and torch.equal(one.get("castle").value, two.get("castle").value)
    status, out, _ = run(capsys, "store", "verify")
    assert status == 0 and "2 tensors are whole" in out

    status, out, _ = run(capsys, "store", "remove", "castle")
    assert status == 0 and "Would remove 1" in out and "Add --yes" in out
    assert "castle" in run(capsys, "store", "list")[1]
    assert run(capsys, "store", "remove", "castle", "--yes")[0] == 0
    assert "castle" not in run(capsys, "store", "list")[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("remove", "cottage"), "not stored: cottage"),
        (("export", "x.safetensors", "cottage"), "not stored: cottage"),
        (("import", "x.safetensors"), "x.safetensors"),
        (("--store", "nowhere.duckdb", "list"), "nowhere.duckdb does not exist"),
    ],
)
def test_mistakes_are_named_and_change_nothing(capsys, filled, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(filled))
    status, _, err = run(capsys, "store", *arguments)
    assert status != 0 and message in err
    with EmbeddingStore(filled) as store:
        assert store.names() == ["castle", "meadow"]


def test_without_a_store_the_command_says_how_to_name_one(capsys, monkeypatch):
    monkeypatch.delenv("WAN_ACTIVATION_STORE", raising=False)
    status, _, err = run(capsys, "store", "list")
    assert status == 2 and "give --store FILE, or set WAN_ACTIVATION_STORE" in err


def test_a_map_of_the_tiny_model_finds_the_block_of_the_background(capsys, tmp_path):
    pytest.importorskip("diffusers")
    values, picture = tmp_path / "map.json", tmp_path / "map.png"
    prompts = ("a red circle moving left at night", "a red circle moving left on the sea")
    status, out, _ = run(
        *(capsys, "map", *prompts, "--levels", "0.6", "--seeds", "1", "--blocks", "2, 8"),
        *("--top", "1", "--output", values, "--plot", picture),
    )
    assert status == 0 and "Top 1, for blocks=: 8" in out and picture.stat().st_size > 1000
    assert json.loads(values.read_text(encoding="utf-8"))
    status, _, err = run(capsys, "map", *prompts, "--blocks", "12")
    assert status == 1 and "Block 12 is selected" in err
