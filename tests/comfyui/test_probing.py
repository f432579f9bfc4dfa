"""Block maps and readings of words through their nodes, in the hosts' own sampling."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from . import tiny_models
from .lab_nodes.inputs import encode
from .server import RejectedError
from .test_hidden_states import block_swap
from .workflows import FOX, MOON, SHARP, Host, NativeHost, Workflow, WrapperHost, edit, output

nonces = itertools.count(10**7)
SMALL = {"width": 64, "height": 64, "num_frames": 5}


def block_map(host: Host, flow: Workflow, load=None, main=FOX, other=MOON, encode=None, **inputs):
    encode = encode or host.embeds
    given = {
        "injection_strength": 1.0,
        "block_activations": "all",
        "noise_levels": "1.0, 0.6",
        "seeds": 1,
        "seed": 0,
        **SMALL,
        **inputs,
    }
    model = (load or host.load)(flow)
    return flow.add(
        "WanVideoBlockMap",
        model=model,
        text_embeds=encode(flow, main),
        injection_embeds=encode(flow, other),
        **given,
    )


def view(flow: Workflow, found, **inputs):
    given = {"quantity": "share", "top": 3, "base_strength": 0.7, **inputs}
    return flow.add("WanVideoBlockMapViewer", block_map=found, **given)


def measured(host: Host, view_inputs=None, **inputs):
    flow = Workflow()
    shown = view(flow, block_map(host, flow, **inputs), **(view_inputs or {}))
    result = host.server.run(flow).checked()
    return json.loads(result.output(shown[0], "block_map")[0]), result.output(shown[0], "text")[0]


@pytest.mark.parametrize("site", ["context", "hidden", "attention"])
def test_forks_are_whole_calls_bit_for_bit(host: Host, site):
    check_forks(host, host.load, site)


def test_forks_with_block_swap_are_whole_calls_bit_for_bit(wrapper: WrapperHost):
    check_forks(wrapper, block_swap(wrapper), "context")


def check_forks(host: Host, load, site: str) -> None:
    flow = Workflow()
    node = flow.add(
        "TestForks",
        model=load(flow),
        text_embeds=host.embeds(flow, FOX),
        injection_embeds=host.embeds(flow, MOON),
        site=site,
        nonce=next(nonces),
    )
    result = host.server.run(flow).checked()
    assert result.output(node[0], "equal") == [True] * 4
    assert result.output(node[0], "moves") == [True] * 4
    assert result.output(node[0], "plain") == [True]
    if site != "hidden":  # a second stream runs blocks of its own
        assert result.output(node[0], "runs") == result.output(node[0], "expected")


def test_a_map_is_measured_drawn_and_repeated_and_leaves_nothing(host: Host):
    before = host.reference(FOX, name="before the map")
    found, report = measured(host, seeds=2)
    shares = np.array(found["values"])
    assert shares.shape == (2, host.blocks) and found["levels"] == [1.0, 0.6]
    assert np.abs(shares).max() > 0.01
    assert f"{host.blocks} of {host.blocks} blocks, 2 seeds" in report and "random direction" in report
    again, _ = measured(host, seeds=2, use_cache=False)
    assert again == found
    assert host.digest(FOX) == before
    left = host.leftovers()
    assert left["hooks"] == [] and left["forwards"] == []


def at_levels(levels: list[float]):
    """diffusers' Euler scheduler at the noise levels that the node samples at."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from wanvideo_activation_editor.probing.hosted import schedule

    class AtLevels(FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(sigmas=schedule(levels)[:-1], device="cpu")

    return AtLevels()


def through_nodes(host: Host, found, flow: Workflow) -> dict[str, np.ndarray]:
    shown = {quantity: view(flow, found, quantity=quantity)[0] for quantity in ("share", "effect", "motion")}
    result = host.server.run(flow).checked()
    maps = {quantity: json.loads(result.output(node, "block_map")[0]) for quantity, node in shown.items()}
    return {quantity: np.array(given["values"]) for quantity, given in maps.items()}


def check_equal(maps: dict[str, np.ndarray], known) -> None:
    """Motion is a part of the effect, so it is compared where there is one."""
    there = known.effect > 1e-3
    assert there.any()
    for quantity, values in maps.items():
        compared = there if quantity == "motion" else np.isfinite(values)
        assert values[compared] == pytest.approx(getattr(known, quantity)[compared], abs=5e-3)


def test_the_map_on_native_weights_is_that_of_python(native: NativeHost, models, tmp_path):
    import torch
    import wanvideo_activation_editor as wae
    from wanvideo_activation_editor import tiny_wan

    (tmp_path / "models").symlink_to(models, target_is_directory=True)
    command = [sys.executable, "-m", "wanvideo_activation_editor.tiny_wan", "--comfyui", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    red, blue = "a red circle moving left at night", "a blue circle moving left at night"
    flow = Workflow()
    found = flow.add(
        "WanVideoBlockMap",
        model=flow.add("UNETLoader", unet_name="tiny_wan_shapes.safetensors", weight_dtype="default"),
        text_embeds=flow.add("TestTinyPrompt", text=red),
        injection_embeds=flow.add("TestTinyPrompt", text=blue),
        injection_strength=1.0,
        block_activations="all",
        noise_levels="1.0, 0.8, 0.4",
        seeds=2,
        seed=0,
        width=64,
        height=64,
        num_frames=tiny_wan.CALL["num_frames"],
    )
    maps = through_nodes(native, found, flow)
    pipe = tiny_wan.pipeline()
    pipe.scheduler = at_levels([1.0, 0.8, 0.4])
    with torch.no_grad():
        known = wae.block_map(
            pipe,
            tiny_wan.encode(red),
            tiny_wan.encode(blue),
            (1.0, 0.8, 0.4),
            2,
            **{**tiny_wan.CALL, "guidance_scale": 1.0},
        )
    assert known.noise_levels == pytest.approx((1.0, 0.8, 0.4), abs=1e-3)
    check_equal(maps, known)
    assert known.share.max() > 0.1


def test_the_map_on_the_wrapper_is_that_of_python_on_the_same_weights(wrapper: WrapperHost, models):
    import torch
    import wanvideo_activation_editor as wae
    from diffusers import WanPipeline, WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
    from safetensors.torch import load_file

    def padded(rows):
        return torch.nn.functional.pad(rows, (0, 0, 0, 512 - len(rows)))[None]

    flow = Workflow()
    maps = through_nodes(wrapper, block_map(wrapper, flow, noise_levels="1.0", seeds=2), flow)
    dim = tiny_models.WRAPPER_DIM
    transformer = WanTransformer3DModel(
        num_attention_heads=12,
        attention_head_dim=dim // 12,
        num_layers=wrapper.blocks,
        ffn_dim=dim,
    )
    weights = load_file(next(models.rglob(tiny_models.WRAPPER_T2V)))
    transformer.load_state_dict(convert_wan_transformer_to_diffusers(weights))
    pipe = WanPipeline(None, None, None, at_levels([1.0]), transformer.requires_grad_(False))
    known = wae.block_map(
        pipe,
        *(padded(encode(prompt)) for prompt in (FOX, MOON)),
        (1.0,),
        2,
        height=64,
        width=64,
        num_frames=5,
        guidance_scale=1.0,
    )
    check_equal(maps, known)
    assert known.share.max() > 0.05


def test_a_map_is_found_again_by_content_and_recorded_in_the_store(host: Host):
    """Same content from other nodes is found; another prompt, seed, level, strength or block is not."""
    seed = next(nonces)
    record = {"block_activations": "0-2", "noise_levels": "1.0", "store_in_db": True}

    def once(encode=host.embeds, **inputs):
        flow = Workflow()
        found = block_map(host, flow, encode=encode, **{**record, "seed": seed, **inputs})
        shown, info = view(flow, found), flow.add("PreviewAny", source=output(found, 1))
        result = host.server.run(flow).checked()
        return "from the cache" in result.output(info[0], "text")[0], result.output(shown[0], "block_map")

    first = once()
    assert not first[0]
    host.server.free()
    assert once(lambda flow, prompt: host.embeds(flow, prompt, nonce=next(nonces))) == (True, first[1])
    others = {"other": SHARP}, {"seed": seed + 1}, {"noise_levels": "0.9"}, {"injection_strength": 0.5}, {"width": 96}
    assert not any(once(**more)[0] for more in (*others, {"block_activations": "1-3"}, {"use_cache": False}))
    flow = Workflow()
    asked = flow.add("WanVideoEmbeddingDatabase", action="performance", cleanup_days=30, cleanup_min_access=5)
    report = flow.add("PreviewAny", source=asked)
    assert "block_map" in host.server.run(flow).checked().output(report[0], "text")[0]


def test_the_viewers_strengths_are_those_of_the_top_blocks_in_an_editor(host: Host):
    found, _ = measured(host)
    best = sorted(range(host.blocks), key=lambda i: -np.mean([row[i] for row in found["values"]]))[:2]

    def strengths(flow: Workflow):
        return output(view(flow, block_map(host, flow), top=2, base_strength=1.0), 2)

    through_viewer = edit(MOON, block_activations="0" * 40, block_strengths=strengths)
    by_hand = edit(MOON, block_activations=",".join(map(str, best)))
    assert host.digest(FOX, through_viewer) == host.digest(FOX, by_hand) != host.digest(FOX)


def test_verify_tells_the_rank_correlation(host: Host):
    _, report = measured(host, verify=4, block_activations="0-5", noise_levels="0.7")
    assert "Verified: 4 blocks sampled to the end; rank correlation" in report


@pytest.mark.parametrize("call", [2, 9], ids=["in a whole call", "in a fork"])
@pytest.mark.parametrize("action", ["raise", "wait"])
def test_after_an_error_or_an_interrupt_in_a_block_nothing_is_left(host: Host, action, call):
    before = host.reference(FOX, name="before the interrupt")

    def load(flow: Workflow):
        return host.stop_in_block(call, action)(flow, host.load(flow))

    flow = Workflow()
    view(flow, block_map(host, flow, load=load, seeds=1, seed=next(nonces), noise_levels="1.0"))
    start = host.server.log_size()
    run = host.server.submit(flow)
    if action == "wait":
        end = time.monotonic() + 120
        while "waiting for an interrupt" not in host.server.log(start):
            assert time.monotonic() < end, host.server.log(start)[-4000:]
            time.sleep(0.05)
        host.server.call("/interrupt", {})
    result = host.server.result(run, start)
    assert result.interrupted if action == "wait" else "stopped in the middle" in result.error["exception_message"]
    assert host.digest(FOX) == before
    left = host.leftovers()
    assert left["hooks"] == [] and left["forwards"] == []


def test_words_are_read_and_sum_to_the_whole(host: Host):
    flow = Workflow()
    node = flow.add(
        "WanVideoTokenReading",
        model=host.load(flow),
        text_embeds=host.embeds(flow, FOX),
        words="first: 0-1, third: 2",
        noise_levels="0.6",
        seed=0,
        block_activations="0, 3-4",
        **SMALL,
    )
    text = flow.add("PreviewAny", source=output(node, 1))
    flow.add("PreviewImage", images=node)
    result = host.server.run(flow).checked()
    table = result.output(text[0], "text")[0].splitlines()
    header = next(line for line in table if line.startswith("block"))
    assert "first" in header and "third" in header and "padding" in header
    rows = [line.split() for line in table if line.strip().split(" ")[0] in ("0", "3", "4")]
    assert len(rows) == 3
    for row in rows:
        shares = [float(part.rstrip("%")) for part in row[1:]]
        assert sum(shares) == pytest.approx(100, abs=0.3) and max(map(abs, shares)) > 1


def test_texts_that_cannot_be_read_are_rejected_before_the_run(host: Host):
    flow = Workflow()
    view(flow, block_map(host, flow, noise_levels="high"))
    with pytest.raises(RejectedError, match="no list of numbers"):
        host.server.run(flow)
