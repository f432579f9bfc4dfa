"""What hosts and other packs do around the blocks of native models: edited rightly, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .server import RunFailedError, comfyui_path
from .workflows import BLURRY, FOX, FRAMES, MOON, SIZE, NativeHost, Workflow, edit

WRITE = re.compile(
    r"^\s+(x|img|\w*hidden_states)(\[[^\]]*\])?(\[[^\]]*\])? *[-+*]= "
    r"|^\s+(x|img|\w*hidden_states)\[[^\]]*\] = "
    r"|\b(x|img|\w*hidden_states)(\[[^\]]*\])?\.(add|mul|sub|copy|addcmul|index_add)_\("
)

# Lines that change a hidden state in place in the files of native Wan models, and what keeps a second stream right.
KNOWN = {
    "x += c_skip * vace_strength[iii]": "VACE: every block but the first gets a new tensor, refused when it runs",
    "x[:, :seq_len] = x[:, :seq_len] + residual_out": "audio_injector, music_injector: refused by native_checks",
    "x[:, :seq_len] = x[:, :seq_len] + residual_out * scale": "the same since 0.21",
    "x[:, :, 1:pose_latents.shape[2] + 1] += pose_latents[:, :, :x.shape[2] - 1]": "before the first block",
}


def test_no_line_that_changes_the_hidden_state_in_place_is_unknown():
    """A new one needs a look: a second stream would miss it."""
    files = sorted((Path(comfyui_path()) / "comfy/ldm/wan").glob("model*.py"))
    lines = [line for file in files if "multitalk" not in file.name for line in file.read_text().splitlines()]
    found = {line.strip() for line in lines if WRITE.search(line)}
    assert found and found <= KNOWN.keys()


def test_a_second_stream_is_refused_beside_a_patch_between_blocks(native: NativeHost):
    def patched(flow: Workflow, model):
        return flow.add("TestBlockPatch", model=model)

    other = native.digest(MOON, after=patched)
    assert native.digest(FOX, edit(), after=patched) == other
    result = native.run(FOX, edit(injection_mode="hidden_states"), after=patched)
    with pytest.raises(RunFailedError, match="cannot be combined with Uni3CCnetPatch"):
        result.checked()


@pytest.mark.parametrize("mode", ["context", "hidden_states"])
@pytest.mark.parametrize("branch", ["cond", "uncond", "both"])
def test_rows_of_a_guidance_batch_taken_in_turn_are_edited_by_branch(native: NativeHost, branch, mode):
    """Every block at full strength, so the same as the other prompt in that branch."""

    def in_turn(flow: Workflow, model):
        return flow.add("TestRowsInTurn", model=model)

    prompt = FOX if branch == "uncond" else MOON
    negative = BLURRY if branch == "cond" else MOON
    wanted = native.digest(prompt, negative=negative, after=in_turn)
    assert native.digest(FOX, edit(branch=branch, injection_mode=mode), after=in_turn) == wanted
    assert native.digest(FOX, after=in_turn) != wanted


def causal(native: NativeHost, *edits, prompt=FOX):
    flow = Workflow()
    model, embeds = native.load(flow), native.embeds(flow, prompt)
    for given in edits:
        model, embeds = native.edit(flow, model, embeds, given, lambda text: native.embeds(flow, text))
    latents = flow.add(
        "SamplerCustomAdvanced",
        noise=flow.add("RandomNoise", noise_seed=42),
        guider=flow.add("BasicGuider", model=model, conditioning=embeds),
        sampler=flow.add("TestCausalSampler"),
        sigmas=flow.add("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0),
        latent_image=flow.add("EmptyHunyuanLatentVideo", length=FRAMES, batch_size=1, **SIZE),
    )
    flow.add("TestDigest", samples=latents)
    return native.server.run(flow)


def test_causal_sampling_takes_edits_of_the_whole_run_in_the_context_and_no_others(native: NativeHost):
    other = causal(native, prompt=MOON).checked().outputs
    assert [v["sha256"] for v in causal(native, edit()).checked().outputs.values() if "sha256" in v] == [
        v["sha256"] for v in other.values() if "sha256" in v
    ]
    for inputs, what in (
        ({"end_percent": 0.5}, "the window 0-0.5"),
        ({"schedule": "0:1, 1:0"}, "the schedule 0.0:1.0, 1.0:0.0"),
        ({"injection_mode": "hidden_states"}, "hidden_states"),
    ):
        with pytest.raises(RunFailedError, match=f"{what}.* cannot be combined with SamplerARVideo"):
            causal(native, edit(**inputs)).checked()
