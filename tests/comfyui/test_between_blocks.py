"""What hosts and other packs do around the blocks of native models: edited rightly, or refused by name."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .host_sources import writes
from .server import NO_OLDER_WRAPPER, WRAPPER_NAME, RunFailedError, comfyui_path, older_wrapper
from .tiny_models import NATIVE_ANIMATE, NATIVE_ANIMATE_2, NATIVE_DANCER, VAE
from .workflows import BLURRY, FOX, FRAMES, MOON, SIZE, NativeHost, Workflow, WrapperHost, edit, output

DIFFUSERS = ("wan*", "chronoedit", "skyreels_v2", "helios", "anyflow*")

BEFORE = "before the first block"
INSIDE = "inside a block"
ELSEWHERE = "of another network or another tensor"
CHECKED = "refused by SecondStream.check when the edit is made"
REFUSED = "refused by native_checks before sampling"
WRAPPER = "refused by wrapper_checks when the model is first called"

# Statements of the hosts that change a hidden state, and what keeps a second stream right.
NATIVE = {
    "x += c_skip * vace_strength[iii]": CHECKED,  # VACE
    "x = self.audio_injector(x, i, audio_emb, audio_emb_global, seq_len)": CHECKED,
    "x = self.music_injector(x, i, audio_emb, audio_emb_global=None, seq_len=seq_len, scale=audio_inject_scale)":
        CHECKED,
    "x[:, :seq_len] = x[:, :seq_len] + residual_out": CHECKED,  # in both injectors, until 0.21
    "x[:, :seq_len] = x[:, :seq_len] + residual_out * scale": CHECKED,
    "x = out['img']": "patches: a replaced block is hooked inside, double_block is refused by native_checks",
    "img[:, img_offset:img_offset + residual.shape[1]] += residual": f"Uni3C in double_block: {REFUSED}",
    "img[:, :self.temp_data[1][0].shape[1]] += self.temp_data[1][0] * self.strength": f"double_block: {REFUSED}",
    "img[:, :self.encoded_image.shape[1]] += self.model_patch.model.control_block("
    "img[:, :self.encoded_image.shape[1]], self.encoded_image.to(img.dtype), block_index) * self.strength":
        f"double_block: {REFUSED}",
    "x = x + self.face_adapter.fuser_blocks[i // 5](x, motion_vec)": REFUSED,
    "x = block.forward_gen(x, e0, freqs, context_gen, k_pose, v_pose, f_gen, hw, buffers, "
    "ref_strength=reference_strength, context_img_len=context_img_len, transformer_options=transformer_options)":
        "Wan-Animate-2: refused by discover",
    "x[:, :, 1:pose_latents.shape[2] + 1] += pose_latents[:, :, :x.shape[2] - 1]": BEFORE,
    "x[:, :, :self.init_latents.shape[2]] = self.init_latents.to(x)": ELSEWHERE,
}  # fmt: skip
WRAPPER_OWN = {
    "x += flashvsr_LQ_latent[b].to(x) * flashvsr_strength": WRAPPER,
    "x += block.control_combine_linears(dense + sparse) * dual_control_input['strength']": WRAPPER,
    "x[:, -self.original_seq_len:] += block.control_combine_linears(dense + sparse) * dual_control_input['strength']":
        WRAPPER,
    "x = self.audio_injector_forward(b, x, merged_audio_emb, scale=s2v_audio_scale)": WRAPPER,
    "x[:, :self.original_seq_len].add_(residual_out)": WRAPPER,
    "x = self.wananimate_forward(block, x, motion_vec, strength=wananim_face_strength)": WRAPPER,
    "x[:, :self.original_seq_len] += uni3c_controlnet_states[b].to(x) * uni3c_data['controlnet_weight']": WRAPPER,
    "x[:, :self.original_seq_len] += controlnet['controlnet_states'][b // controlnet['controlnet_stride']].to(x) * "
    "controlnet['controlnet_weight']": WRAPPER,
    "x = x + control_out_proj * one_to_all_controlnet_strength": WRAPPER,
    "x[:, :x_len] += controlnet['controlnet_states'][b // controlnet['controlnet_stride']].to(x) * "
    "controlnet['controlnet_weight']": WRAPPER,  # July 2025
    "x[:, :x_len] += pdc_controlnet_states[b].to(x) * pcd_data['controlnet_weight']": WRAPPER,  # Uni3C, July 2025
    "x += self.magcache_state.get(pred_id)['residual_cache'].to(x.device)": "in place of all blocks",
    "x.add_(dwpose_emb, alpha=unianim_data['strength'])": BEFORE,
    "x += dwpose_emb * unianim_data['strength']": BEFORE,  # July 2025
    "x[0] = x[0] + self.add_proj(add_cond)": BEFORE,
    "x[0] = torch.cat([x[0], attn_cond], dim=1)": BEFORE,
    "x[0] = x[0] + self.cond_encoder(s2v_pose.to(self.cond_encoder.weight.dtype)).to(self.base_dtype)": BEFORE,
    "x.addcmul_(y, gate_msa)": INSIDE,
    "x.add_(x_audio, alpha=audio_scale)": INSIDE,
    "x.add_(vace_hints[i][self.block_id].to(x.device), alpha=vace_context_scale[i])": f"VACE, {INSIDE}",
    "x.add_(attention(q, k_img, v_img, attention_mode=self.attention_mode, heads=self.num_heads).flatten(2))": INSIDE,
    "x[:, :orig_seq_len] = x[:, :orig_seq_len] + adapter_x * ip_scale": INSIDE,
    "hidden_states = block(hidden_states=hidden_states, temb=temb, rotary_emb=controlnet_rotary_emb)": ELSEWHERE,
    "controlnet_hidden_states += (controlnet_block(hidden_states),)": ELSEWHERE,
    "x = down_block(x)": ELSEWHERE,
    "x = self.sft_layers[i](x, cond_feat)": ELSEWHERE,
    "x.mul_(cos)": ELSEWHERE,
    "x *= sm_scale": ELSEWHERE,
    "x -= width": ELSEWHERE,
    "x -= width / 2": ELSEWHERE,
    "x[:border_width] = (torch.arange(border_width) + 1) / border_width": ELSEWHERE,
    "x[-border_width:] = torch.flip((torch.arange(border_width) + 1) / border_width, dims=(0,))": ELSEWHERE,
}  # fmt: skip
WRAPPER_LONG = {"x += self.cross_attn(self.norm3(": INSIDE}  # by their beginning
OF_DIFFUSERS = {
    "hidden_states = hidden_states + control_hint.to(hidden_states.device) * scale": CHECKED,  # VACE
    "hidden_states = face_adapter_output + hidden_states": "refused by diffusers_checks before sampling",
    "hidden_states[:, :, 1:] = hidden_states[:, :, 1:] + pose_hidden_states": BEFORE,
}


def native_files() -> Iterator[Path]:
    root = comfyui_path()
    yield from (root / "comfy/ldm/wan").glob("*.py")
    yield from (root / "comfy_extras").glob("nodes_wan*.py")
    yield root / "comfy_extras/nodes_model_patch.py"


def wrapper_files() -> Iterator[Path]:
    yield from sources_of(comfyui_path() / "custom_nodes" / WRAPPER_NAME)


def older_wrapper_files() -> Iterator[Path]:
    folder = older_wrapper()
    if folder is None:
        pytest.skip(NO_OLDER_WRAPPER)
    yield from sources_of(folder)


def sources_of(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*.py"):
        if "tests" not in file.parts:
            yield file


def diffusers_files() -> Iterator[Path]:
    package = importlib.util.find_spec("diffusers")
    assert package is not None and package.origin is not None
    for name in DIFFUSERS:
        yield from (Path(package.origin).parent / "models/transformers").glob(f"transformer_{name}.py")


@pytest.mark.parametrize(
    ("files", "known"),
    [
        (native_files, NATIVE),
        (wrapper_files, {**WRAPPER_OWN, **WRAPPER_LONG}),
        (older_wrapper_files, {**WRAPPER_OWN, **WRAPPER_LONG}),
        (diffusers_files, OF_DIFFUSERS),
    ],
    ids=["native", "wrapper", "older wrapper", "diffusers"],
)
def test_no_statement_that_changes_the_hidden_state_is_unknown(files, known):
    """A new one needs a look: a second stream would miss it."""
    found = writes(files())
    unknown = {one for one in found if one not in known and not one.startswith(tuple(WRAPPER_LONG))}
    assert found and not unknown


def test_a_statement_that_is_new_is_found(tmp_path):
    """Each way of writing the hidden state, with the block's own call left out."""
    source = """
for i, block in enumerate(self.blocks):
    x = block(x, context=context)
    x = self._gradient_checkpointing_func(block, x, context)
    x = x + control[i]
    x += audio
    x[:, a:b[0]] += residual
    x[:, :n].add_(residual)
    y = x + 1
"""
    (tmp_path / "model.py").write_text(source)
    assert writes(iter([tmp_path / "model.py"])) == {
        "x = x + control[i]", "x += audio", "x[:, a:b[0]] += residual", "x[:, :n].add_(residual)",
    }  # fmt: skip


def test_a_second_stream_is_refused_beside_a_patch_between_blocks(native: NativeHost):
    def patched(flow: Workflow, model):
        return flow.add("TestBlockPatch", model=model)

    other = native.digest(MOON, after=patched)
    assert native.digest(FOX, edit(), after=patched) == other
    nothing = edit(injection_mode="hidden_states", injection_strength=0.0)
    assert native.digest(FOX, nothing, after=patched) == native.digest(FOX, after=patched) != other
    result = native.run(FOX, edit(injection_mode="hidden_states"), after=patched)
    with pytest.raises(RunFailedError, match="cannot be combined with Uni3CCnetPatch"):
        result.checked()


CONTROLS = {
    "WanVideo ControlNet": {"after": lambda flow, model: flow.add("TestControlNet", model=model)},
    "Uni3C": {"uni3c_embeds": lambda flow: flow.add("TestUni3C")},
}


def controls_are_refused(host: WrapperHost, name: str) -> None:
    """A second stream is, and the context is edited beside them; a strength of 0 is no second stream."""
    control = CONTROLS[name]
    plain, other = host.digest(FOX, **control), host.digest(MOON, **control)
    assert plain != host.digest(FOX), "it acts"
    assert host.digest(FOX, edit(), **control) == other != plain
    for mode in ("hidden_states", "both"):
        assert host.digest(FOX, edit(injection_mode=mode, injection_strength=0.0), **control) == plain
        result = host.run(FOX, edit(injection_mode=mode), **control)
        assert f"cannot be combined with {name}, which acts between" in str(result.error)
    assert host.digest(FOX, **control) == plain


@pytest.mark.parametrize("name", CONTROLS)
def test_a_second_stream_is_refused_beside_the_controls_of_the_wrapper(wrapper: WrapperHost, name):
    controls_are_refused(wrapper, name)


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


def digests_of(result):
    return [value["sha256"] for value in result.checked().outputs.values() if "sha256" in value]


def test_causal_sampling_takes_edits_of_the_whole_run_in_the_context_and_no_others(native: NativeHost):
    plain, other = digests_of(causal(native)), digests_of(causal(native, prompt=MOON))
    assert digests_of(causal(native, edit())) == other != plain
    nothing = edit(injection_mode="hidden_states", injection_strength=0.0, end_percent=0.5)
    assert digests_of(causal(native, nothing)) == plain, "strength 0 is no second stream and no window"
    for inputs, what in (
        ({"end_percent": 0.5}, "the window 0-0.5"),
        ({"schedule": "0:1, 1:0"}, "the schedule 0.0:1.0, 1.0:0.0"),
        ({"injection_mode": "hidden_states"}, "hidden_states"),
    ):
        with pytest.raises(RunFailedError, match=f"{what}.* cannot be combined with SamplerARVideo"):
            causal(native, edit(**inputs)).checked()


def since(version: str, file: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (comfyui_path() / "comfy/ldm/wan" / file).exists(), reason=f"of ComfyUI from {version} on"
    )


@since("0.21", "model_wandancer.py")
def test_a_second_stream_is_refused_beside_the_music_of_a_dancer(native: NativeHost):
    """The real model. Its music changes the hidden state in place between blocks; the context works beside it."""

    def music(flow: Workflow, positive, negative):
        made = flow.add("WanDancerVideo", positive=positive, negative=negative, vae=flow.add("VAELoader", vae_name=VAE),
                        length=FRAMES, audio_encoder_output=flow.add("TestMusic", seed=music.seed), **SIZE)  # fmt: skip
        return output(made, 0), output(made, 1), output(made, 2)

    dancer = {"load": lambda flow: native.load(flow, NATIVE_DANCER), "condition": music}
    music.seed = 1
    assert native.digest(FOX, edit(), **dancer) == (other := native.digest(MOON, **dancer))
    nothing = edit(injection_mode="hidden_states", injection_strength=0.0)
    assert native.digest(FOX, nothing, **dancer) == native.digest(FOX, **dancer) != other
    result = native.run(FOX, edit(injection_mode="hidden_states"), **dancer)
    assert result.error["node_type"] == "WanVideoActivationEditor"
    assert re.search(
        r"is a WanDancer model, whose music layers .*Use injection_mode context", result.error["exception_message"]
    )
    music.seed = 2
    assert native.digest(MOON, **dancer) != other, "the music is heard"


def test_a_second_stream_is_refused_beside_the_face_video_of_animate(native: NativeHost):
    """The real class; nothing is sampled with a face, whose encoder has no weights here."""
    animate = {"load": lambda flow: native.load(flow, NATIVE_ANIMATE)}

    def faces(flow: Workflow, positive, negative):
        video = flow.add("EmptyImage", width=64, height=64, batch_size=FRAMES, color=0x808080)
        made = flow.add("WanAnimateToVideo", positive=positive, negative=negative, length=FRAMES, batch_size=1,
                        vae=flow.add("VAELoader", vae_name=VAE), face_video=video, continue_motion_max_frames=5,
                        video_frame_offset=0, **SIZE)  # fmt: skip
        return output(made, 0), output(made, 1), output(made, 2)

    result = native.run(FOX, edit(injection_mode="hidden_states"), condition=faces, **animate)
    assert result.error["node_type"] == native.sampler
    assert re.search(
        r"hidden_states and both cannot be combined with the face video of Wan-Animate.*use injection_mode context",
        result.error["exception_message"],
    )
    assert "0/2" not in result.log, "no step began"
    plain = native.digest(FOX, **animate)
    assert native.digest(FOX, edit(injection_mode="hidden_states"), **animate) != plain
    assert native.digest(FOX, edit(injection_mode="hidden_states", injection_strength=0.0), **animate) == plain


@since("0.31", "model_animate2.py")
@pytest.mark.parametrize("mode", ["context", "hidden_states", "both"])
def test_wan_animate_2_is_refused_by_the_node(native: NativeHost, mode):
    """The real model, whose blocks are called past module hooks."""

    def load(flow: Workflow):
        return native.load(flow, NATIVE_ANIMATE_2)

    result = native.run(FOX, edit(injection_mode=mode), load=load)
    assert result.error["node_type"] == "WanVideoActivationEditor"
    message = result.error["exception_message"]
    assert message.startswith("WanVideo Activation Editor: WanAnimate2Model runs its blocks beside")
    assert "Use Wan 2.2 Animate or another Wan model" in message
    assert native.digest(FOX, load=load) != native.digest(MOON, load=load), "it samples without the node"
