"""A sweep's table says what its cells are: against identities, and against sampling by hand."""

from __future__ import annotations

import os
import subprocess
import sys

import duckdb
import numpy as np
import pytest
import torch
import wanvideo_activation_editor as wae
from PIL import Image
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.probing.intervals import bootstrap_interval
from wanvideo_activation_editor.sweeps import Model, reproduce, sweep
from wanvideo_activation_editor.sweeps.command import run
from wanvideo_activation_editor.sweeps.report import GAP, LABEL
from wanvideo_activation_editor.sweeps.running import digest

from .conftest import CALL, FIRST, SECOND, plan


def of(swept, kind: str, **values):
    return [r for r in swept.rows if r["kind"] == kind and all(r[k] == v for k, v in values.items())]


def by_hand(prompt: str, seed: int) -> torch.Tensor:
    call = {**tiny_wan.CALL, **CALL, "output_type": "latent"}
    generator = torch.Generator().manual_seed(seed)
    return tiny_wan.pipeline()(prompt_embeds=tiny_wan.encode(prompt), generator=generator, **call).frames


def test_the_package_offers_it():
    assert wae.sweep is sweep


def test_every_cell_has_a_row(swept):
    kinds = [row["kind"] for row in swept.rows]
    # three selections, two seeds; all and none have equal strengths, so no random blocks
    assert {k: kinds.count(k) for k in set(kinds)} == {"plain": 2, "edit": 6, "random_direction": 6, "random_blocks": 2}
    assert not swept.failed and all(row["seconds"] > 0 for row in swept.rows)


def test_all_blocks_give_the_injected_prompt_and_no_blocks_the_plain_clip(swept):
    for seed in (0, 3):
        (every,), (none,) = of(swept, "edit", blocks="all", seed=seed), of(swept, "edit", blocks="none", seed=seed)
        (plain,) = of(swept, "plain", seed=seed)
        injected, main = by_hand(SECOND, seed), by_hand(FIRST, seed)
        assert every["latents_sha256"] == digest(injected)
        assert every["relative_l2"] == wae.relative_l2(main, injected)
        assert plain["latents_sha256"] == none["latents_sha256"] == digest(main)
        assert none["relative_l2"] == none["ssim"] == none["frame_cosine"] == none["temporal_difference"] == 0
        shown = tiny_wan.read(tiny_wan.decode(injected))
        assert {k: every[f"read_{k}"] for k in shown} == {k: r.name for k, r in shown.items()}


def test_controls_are_other_clips(swept):
    clips = {
        (row["kind"], row["latents_sha256"])
        for row in swept.rows
        if row["blocks"] == "7-9" or row["kind"] == "random_blocks"
    }
    assert len({digest for _, digest in clips}) == 6


def test_a_recipe_gives_its_latents_again_in_another_process(swept):
    code = (
        "import sys; from wanvideo_activation_editor.sweeps import reproduce\n"
        "from wanvideo_activation_editor.sweeps.running import digest\n"
        "[print(digest(reproduce(recipe).latents)) for recipe in sys.argv[1:]]"
    )
    rows = [of(swept, kind, seed=3)[-1] for kind in ("plain", "edit", "random_direction", "random_blocks")]
    command = [sys.executable, "-c", code, *(row["recipe"] for row in rows)]
    out = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True).stdout
    assert out.split() == [row["latents_sha256"] for row in rows]


def test_intervals_are_paired_by_seed(swept):
    (entry,) = (e for e in swept.summary if e["blocks"] == "7-9")
    for control in ("random_direction", "random_blocks"):
        others = {r["seed"]: r["relative_l2"] for r in of(swept, control) if r["group"] == entry["group"]}
        pairs = np.array([r["relative_l2"] - others[r["seed"]] for r in of(swept, "edit", blocks="7-9")])
        name = f"relative_l2_over_{control}"
        assert len(pairs) == 2 and entry[name] == pairs.mean()
        assert [entry[f"{name}_low"], entry[f"{name}_high"]] == bootstrap_interval(pairs).tolist()
    assert entry["read_background"] == "on the sea 2"


def test_files_hold_the_table(swept):
    for file in ("cells.parquet", "cells.csv"):
        found = duckdb.sql(f"SELECT cell, seed, relative_l2, recipe FROM '{swept.folder / file}'").fetchall()
        assert found == [(r["cell"], r["seed"], r["relative_l2"], r["recipe"]) for r in swept.rows]
    assert duckdb.sql(f"SELECT count(*) FROM '{swept.folder / 'summary.parquet'}'").fetchall() == [(3,)]


def test_the_pictures_are_those_of_the_clips(swept):
    report = (swept.folder / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png;base64,iVBOR") == len(swept.rows)
    assert "http://" not in report and "https://" not in report
    sheet = np.array(Image.open(swept.folder / "sheet.png").convert("RGB"))
    frame = tiny_wan.decode(by_hand(FIRST, 0))[0].numpy()
    y, x = 30 + LABEL, GAP
    assert np.abs(sheet[y : y + 96, x : x + 96].astype(int) - frame).max() <= 1


def test_again_samples_nothing_and_a_wider_plan_only_what_is_new(swept):
    folder = swept.folder
    never = Model("tiny_wan", lambda: pytest.fail("a model was loaded"), block_count=10)
    again = sweep(plan(models=[never]), folder, progress=False)
    assert again.rows == swept.rows
    wider = sweep(plan(seeds=[0, 3, 4], blocks=["all", "none", "7-9"]), folder, progress=False)
    before = {r["cell"]: r for r in swept.rows}
    assert all(before.get(r["cell"], r) == r for r in wider.rows) and {r["seed"] for r in wider.rows} == {0, 3, 4}


def test_a_cell_that_fails_twice_is_reported_and_tried_again_later(tmp_path):
    calls = []

    def encode(text):
        calls.append(text)
        if text == SECOND:
            raise RuntimeError("no such words")
        return tiny_wan.encode(text)

    given = {"blocks": ["7-9"], "seeds": [0], "controls": False, "pairs": [(FIRST, SECOND), (FIRST, FIRST)]}
    found = sweep(plan(models=[Model("tiny", encode=encode)], **given), tmp_path, progress=False)
    (failed,) = found.failed
    assert failed["other"] == SECOND and failed["error"] == "RuntimeError: no such words" and calls.count(SECOND) == 2
    assert "no such words" in (tmp_path / "report.html").read_text()
    (fine,) = of(found, "edit", other=FIRST)
    assert fine["relative_l2"] == 0
    again = sweep(plan(models=[Model("tiny")], **given), tmp_path, progress=False)
    assert not again.failed and of(again, "edit", other=FIRST) == [fine]


def test_other_weights_under_one_name_are_refused(tmp_path):
    pipe = tiny_wan.pipeline()
    same = {"models": [Model("mine", pipe, tiny_wan.encode)], "blocks": ["2"], "controls": False}
    call = {**tiny_wan.CALL, **CALL}
    sweep(plan(**same, call=call, seeds=[0]), tmp_path, progress=False)
    pipe.transformer.blocks[0].attn1.to_q.weight.data += 1
    with pytest.raises(ValueError, match="other weights than in the results"):
        sweep(plan(**same, call=call, seeds=[0, 1]), tmp_path, progress=False)


def test_a_recipe_file_is_swept_and_one_that_changed_is_refused(tmp_path):
    source = wae.Direction(torch.ones(128))
    stack = wae.EditStack((wae.Edit(source, wae.patching.selection.parse_selection("0"), "hidden"),))
    file = tmp_path / "recipe.safetensors"
    wae.save_recipe(file, stack)
    planned = plan(pairs=[{"prompt": FIRST, "recipe": str(file)}], blocks=["2", "5"], seeds=[0], controls=False)
    found = sweep(planned, tmp_path / "out", progress=False)
    call = {**tiny_wan.CALL, **CALL, "output_type": "latent"}
    pipe = tiny_wan.pipeline()
    for block in ("2", "5"):
        with wae.inject(pipe, source, block, site="hidden"):
            latents = pipe(
                prompt_embeds=tiny_wan.encode(FIRST), generator=torch.Generator().manual_seed(0), **call
            ).frames
        (row,) = of(found, "edit", blocks=block)
        assert row["latents_sha256"] == digest(latents)
        assert digest(reproduce(row["recipe"]).latents) == digest(latents)
    wae.save_recipe(file, stack.append(*stack))
    with pytest.raises(ValueError, match="has changed"):
        reproduce(row["recipe"])


def test_the_command_runs_a_file(tmp_path, capsys):
    file = tmp_path / "plan.toml"
    pair = f'[[pairs]]\nprompt = "{FIRST}"\nother = "{SECOND}"\n'
    file.write_text(f"seeds = 1\ncontrols = false\n[call]\nnum_inference_steps = 1\n{pair}")
    assert run([str(file)]) == 0
    assert "2 cells, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "plan" / "report.html").exists()
    file.write_text(f"seeds = []\n{pair}")
    assert run([str(file)]) == 2
    assert "seeds" in capsys.readouterr().err
