"""Latent Encoder and Latent Injector outside of sampling: inputs, caches and fingerprints.

tests/comfyui runs both nodes in the real hosts, tests/hosts the capture itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wanvideo_activation_editor
from diffusers import WanTransformer3DModel
from wanvideo_activation_editor.nodes import capture_cache, store_access
from wanvideo_activation_editor.nodes.store_access import STORE
from wanvideo_activation_editor.patching.capture import HiddenStates
from wanvideo_activation_editor.patching.difference import captured_difference
from wanvideo_activation_editor.patching.edit import Edit, stack_of
from wanvideo_activation_editor.patching.fingerprint import UnidentifiedError, fingerprint
from wanvideo_activation_editor.patching.hosts import wan_video_wrapper, wrapper_capture
from wanvideo_activation_editor.patching.operations import Add, Blend
from wanvideo_activation_editor.patching.strengths import Explicit
from wanvideo_activation_editor.storage import codec

from .test_nodes import Patcher


@pytest.fixture(scope="module")
def nodes() -> dict:
    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    return {cls.define_schema().node_id: cls for cls in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="module")
def model() -> Patcher:
    return Patcher(
        WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=8, text_dim=4096, ffn_dim=8, num_layers=6, freq_dim=8
        )
    )


def states(noise: int = 0, blocks=(2,), grid=(1, 2, 3), width: int = 8, dtype=torch.bfloat16, **more) -> HiddenStates:
    generator = torch.Generator().manual_seed(noise)
    tokens = grid[0] * grid[1] * grid[2]
    made = tuple(torch.randn(1, tokens, width, generator=generator).to(dtype) for _ in blocks)
    return HiddenStates(made, tuple(blocks), grid, 1.0, **more)


A, B = states(1), states(2)


def inject(nodes, patcher, **changes):
    arguments = {"model": patcher, "main_latent": A, "injection_latent": B, "injection_strength": 0.5}
    arguments |= {"block_activations": "1-3", **changes}
    (result,) = nodes["WanVideoLatentInjector"].execute(**arguments).args
    return result


def edits(model):
    return stack_of(model.model_options["transformer_options"]).edits


# The injector


def test_the_injector_writes_an_edit_into_a_clone(nodes, model):
    changes = {"preserve_norm": True, "start_percent": 0.2, "end_percent": 0.8, "branch": "both", "log_level": "basic"}
    edited = inject(nodes, model, **changes)
    assert edited is not model and not edits(model)
    (only,) = edits(edited)
    assert only.strengths.resolve(6) == (0, 0.5, 0.5, 0.5, 0, 0)
    assert only.operation == Add(preserve_norm=True)
    assert (only.site, only.branch, only.window.start, only.window.end) == ("hidden", "both", 0.2, 0.8)
    wanted = (B.states[0].float() - A.states[0].float()).bfloat16()
    assert torch.equal(only.captured.deltas[0], wanted) and only.captured.grid == (1, 2, 3)
    assert (
        only.describe()["source"]["captured"] == "after block 2, sigma 1.000, grid 1 x 2 x 3 (frames x height x width)"
    )
    assert only.mask is None
    (masked,) = edits(inject(nodes, model, mask=torch.tensor([[0.0, 1.0]])))
    assert masked.mask.weights((1, 1, 2)).tolist() == [0.0, 1.0]
    second = inject(nodes, edited, block_activations="0", reduce="mean")
    assert [e.captured.grid for e in edits(second)] == [(1, 2, 3), None]


@pytest.mark.parametrize("changes", [{"injection_strength": 0.0}, {"block_activations": "0" * 40}])
def test_what_changes_nothing_hands_back_the_model(nodes, model, changes, caplog):
    assert inject(nodes, model, **changes) is model
    assert "no block is selected" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"main_latent": {"samples": torch.zeros(1)}}, "main_latent: expected LATENT_EMBEDS .* got dict"),
        ({"block_activations": "6"}, r"Block 6 .* has 6 blocks"),
        ({"injection_latent": states(2, grid=(1, 2, 4))}, "1 x 2 x 3 .* 1 x 2 x 4 .* set reduce to mean"),
        ({"injection_latent": states(2, width=16)}, "main_latent is 8 wide, injection_latent 16"),
        ({"injection_latent": states(2, blocks=(3,))}, "after block 2, injection_latent after 3"),
        ({"main_latent": states(1, width=16), "injection_latent": states(2, width=16)}, "16 wide, .* is 8 wide"),
        ({"start_percent": 0.5, "end_percent": 0.2}, "window runs from 0.5 to 0.2"),
        ({"injection_strength": 1.5}, "from 0 to 1"),
        ({"reduce": "max"}, "reduce must be one of none, mean"),
        ({"model": "model"}, "expected WANVIDEOMODEL .* got str"),
    ],
)
def test_bad_input_names_the_node_and_the_remedy(nodes, model, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"^WanVideo Latent Injector.*{message}"):
        inject(nodes, model, **changes)


def test_malformed_selections_fail_validation_before_anything_runs(nodes):
    validate = nodes["WanVideoLatentInjector"].validate_inputs
    assert validate("3-9:0.5") is True and validate(None) is True
    assert "position 3: 'x'" in validate("1 x")


def test_viewer_and_tester_describe_it(nodes, model):
    edited = inject(nodes, model)
    (text,) = nodes["WanVideoBlockActivationViewer"].execute(edited, True).args
    assert "3 of 6 blocks active, strength 0.5" in text
    assert "addition to the hidden state, branch cond" in text
    assert "adds a difference captured after block 2, sigma 1.000, grid 1 x 2 x 3" in text
    norm = (B.states[0].float() - A.states[0].float()).bfloat16().float().norm() / A.states[0].float().norm()
    assert f"relative L2 {norm:.3f}" in text


def test_a_captured_difference_is_only_added():
    delta = captured_difference(A, B, [1])
    with pytest.raises(ValueError, match=r"works with a state, but a captured difference is a difference\. Use Add"):
        Edit(delta, Explicit((1.0,)), "hidden", Blend())
    with pytest.raises(ValueError, match="captured difference has no value at site context"):
        Edit(delta, Explicit((1.0,)))
    edit = Edit(delta, Explicit((1.0,)), "hidden")
    assert edit.operation == Add() and edit.captured is delta and edit.text is None


def test_half_floats_are_subtracted_without_overflow():
    """Wan's largest channels come near the end of float16's range."""
    a = HiddenStates((torch.full((1, 1, 2), -6e4, dtype=torch.float16),), (0,), (1, 1, 1), 1.0)
    b = HiddenStates((torch.full((1, 1, 2), 6e4, dtype=torch.float16),), (0,), (1, 1, 1), 1.0)
    delta = captured_difference(a, b, [0]).deltas[0]
    assert torch.equal(a.states[0].float() + delta, b.states[0].float())


def test_a_difference_knows_its_model():
    a, b = states(1, identity="x"), states(2, identity="x")
    assert captured_difference(a, b, [0]).identity == "x"
    assert captured_difference(a, states(2, identity="y"), [0]).identity == ""


# The encoder's inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma must be above 0 and at most 1"),
        ({"sigma": float("nan")}, "sigma must be above 0 and at most 1, not nan"),
        ({"text_embeds": [[torch.ones(1, 4, 64), {}]]}, "text_embeds is 64 wide, but .* 4096"),
        ({"text_embeds": {"prompt_embeds": [torch.ones(4, 4096)]}}, "Connect CONDITIONING"),
        ({"model": 3}, "expected WANVIDEOMODEL"),
    ],
)
def test_bad_input_of_the_encoder(nodes, model, changes, message):
    given = {"model": model, "text_embeds": [[torch.ones(1, 4, 4096), {}]], "capture_after_blocks": 2}
    with pytest.raises((ValueError, TypeError), match=f"^WanVideo Latent Encoder: .*{message}"):
        nodes["WanVideoLatentEncoder"].execute(**{**given, "use_cache": False, **changes})


def test_the_wrappers_lynx_reference_is_refused():
    check = wrapper_capture.check_inputs
    check(None, {"lynx_embeds": {"ip_x": torch.zeros(1), "ref_latent": None}}, 1)
    with pytest.raises(ValueError, match=r"reference of Lynx .* Capture without the reference"):
        check(None, {"lynx_embeds": {"ref_latent": torch.zeros(1)}}, 1)
    check({"samples": torch.zeros(1, 48, 2, 4, 6)}, {"target_shape": (16, 2, 8, 12)}, 2)
    with pytest.raises(ValueError, match=r"takes \[1, 48, "):
        check({"samples": torch.zeros(1, 16, 2, 8, 12)}, None, 2)


# Caches


def test_the_least_recently_used_states_go_first():
    size = A.size
    cache = capture_cache.StateCache(2 * size)
    cache.put("a", A)
    cache.put("b", B)
    assert cache.get("a") is A
    cache.put("c", A)
    assert cache.get("b") is None and cache.get("a") is A and cache.get("c") is A
    cache.put("large", states(3, blocks=(0, 1, 2)))
    assert cache.get("large") is None and cache.get("a") is A


PROMPT = SimpleNamespace(prompt="a red fox")
SETTINGS = {"size": (64, 64, 5), "seed": 1, "sigma": 1.0, "blocks": 3, "all_blocks": False}


def cached(value: int = 0, host=None, latent=None, image_embeds=None, **settings):
    host = host or SimpleNamespace(NAME="host", fingerprint=lambda model: f"identity of {model}")
    embeds = {"prompt_embeds": [torch.full((2, 4), float(value))], "negative_prompt_embeds": [torch.randn(1, 4)]}
    return capture_cache.CachedCapture(host, "model", embeds, PROMPT, {**SETTINGS, **settings}, latent, image_embeds)


@pytest.fixture(autouse=True)
def empty_cache():
    capture_cache.CACHE.clear()
    yield
    capture_cache.CACHE.clear()


def test_captures_are_found_by_content_in_memory():
    assert cached().find() is None
    assert cached().keep(A) == ""
    assert cached().find() is A
    assert all(other.find() is None for other in (cached(1), cached(seed=2), cached(blocks=4), cached(sigma=0.5)))
    other_model = SimpleNamespace(NAME="host", fingerprint=lambda model: "another")
    assert cached(host=other_model).find() is None


def test_captures_of_another_latent_or_image_are_not_found():
    def latent(samples=0.0, **more):
        return {"latent": {"samples": torch.full((1, 4, 2, 2, 2), samples), **more}}

    def mask(value):
        return latent(noise_mask=torch.full((1, 2, 2), value))

    def image(value):
        return {"image_embeds": {"image_embeds": torch.full((4, 2, 2, 2), value), "num_frames": 5}}

    given = [latent(), latent(1.0), mask(0.0), mask(1.0), latent(batch_index=[0]), latent(batch_index=[2])]
    given += [latent(downscale_ratio_spacial=8), latent(downscale_ratio_spacial=16)]  # samplers resize such latents
    given += [{}, image(0.0), image(1.0), {**latent(), **image(0.0)}]
    for inputs in given:
        assert cached(**inputs).find() is None
        cached(**inputs).keep(A)
        assert cached(**inputs).find() is A


def test_captures_are_found_in_a_store_with_a_file(monkeypatch, tmp_path: Path):
    monkeypatch.setenv(store_access.ENVIRONMENT, str(tmp_path / "store.duckdb"))
    cached().keep(A)
    assert not (tmp_path / "store.duckdb").exists(), "a capture alone makes no store"
    STORE.open()
    for dtype in (torch.bfloat16, torch.float16):
        kept = states(5, dtype=dtype, seed=1, identity="x", prompt="a red fox")
        settings = {"seed": int(dtype == torch.float16)}
        cached(**settings).keep(kept)
        capture_cache.CACHE.clear()
        STORE.close()  # writes what is waiting; the next use opens the file again
        found = cached(**settings).find()
        assert found is not None and found is not kept
        assert found.describe() == kept.describe()
        assert torch.equal(found.states[0], kept.states[0])
    every = states(6, blocks=(0, 1, 2))
    cached(all_blocks=True).keep(every)
    capture_cache.CACHE.clear()
    STORE.close()
    assert cached(all_blocks=True).find() is None


def test_a_capture_too_large_for_the_store_is_kept_in_memory_and_said_to_be(monkeypatch, tmp_path: Path):
    monkeypatch.setenv(store_access.ENVIRONMENT, str(tmp_path / "store.duckdb"))
    STORE.open()
    monkeypatch.setattr(codec, "MAX_TENSOR_BYTES", A.size - 1)
    assert "in memory only" in cached().keep(A)
    assert cached().find() is A
    assert STORE.open().listings() == []
    STORE.close()


def test_a_model_that_cannot_be_told_from_another_is_not_cached():
    def identity(model):
        return fingerprint({"patches": {"layer": lambda x: x}}, sampled=True)

    unknown = cached(host=SimpleNamespace(NAME="host", fingerprint=identity))
    assert "not cached: patches/layer is a function" in unknown.keep(A)
    assert unknown.find() is None


# Fingerprints


def test_a_fingerprint_is_of_content_alone():
    one = {"a": torch.arange(100.0), "b": [1, "x", None, {2.5}]}
    same = {"b": [1, "x", None, {2.5}], "a": torch.arange(100.0).clone()}
    assert fingerprint(one) == fingerprint(same)
    others = [
        {**one, "a": torch.arange(100.0).double()},
        {**one, "a": torch.arange(100.0).view(10, 10)},
        {**one, "b": [1, "x", None, {2}]},
        {**one, "b": ["1", "x", None, {2.5}]},
        {"c" if k == "b" else k: v for k, v in one.items()},
    ]
    assert len({fingerprint(v) for v in (one, *others)}) == 6
    changed = one["a"].clone()
    changed[37] += 1
    assert fingerprint({**one, "a": changed}) != fingerprint(one)


def test_a_sampled_fingerprint_sees_a_merged_lora_in_any_one_layer():
    torch.manual_seed(0)
    weights = {f"blocks.{i}.weight": torch.randn(64, 48).bfloat16() for i in range(5)}
    plain = fingerprint(weights, sampled=True)
    for name in weights:
        merged = weights[name] + (torch.randn(64, 2) @ torch.randn(2, 48)).bfloat16() * 0.05
        assert fingerprint({**weights, name: merged}, sampled=True) != plain


def test_the_wrappers_identity_knows_the_file_and_the_lora():
    """Merged weakly into float8 weights, a LoRA may change none of the elements that are sampled."""

    def identity(**pipeline):
        inner = SimpleNamespace(diffusion_model=torch.nn.Linear(2, 2, device="meta"), pipeline={"sd": sd, **pipeline})
        return wan_video_wrapper.fingerprint(SimpleNamespace(model=inner, model_options={}, patches={}))

    sd = {"weight": torch.ones(2, 2)}
    weak = [{"path": "a.safetensors", "strength": 0.01, "blocks": {}, "merge_loras": True}]
    found = [identity(), identity(lora=weak), identity(lora=[{**weak[0], "strength": 0.02}])]
    found += [identity(base_path="a"), identity(base_path="b"), identity(model_name="a")]
    assert len(set(found)) == len(found)
    assert identity(lora=[dict(weak[0])]) == found[1]


def test_what_has_no_content_is_named():
    for value in (print, object(), SimpleNamespace()):
        with pytest.raises(UnidentifiedError, match="options/1 is a"):
            fingerprint({"options": [0, value]})
    with pytest.raises(UnidentifiedError, match="weight has no values yet"):
        fingerprint({"weight": torch.empty(2, device="meta")})
