"""Tiny random Wan checkpoints in the key layout of the real ones, so that the stock loaders read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]

WRAPPER_DIM = 96  # 12 heads; the wrapper reads any small size as the 30-block model
NATIVE_DIM = 128  # one head
WRAPPER_BLOCKS, NATIVE_BLOCKS = 30, 12
RAW_WIDTH = 4096
CLIP_WIDTH = 1280
VAE_WIDTH = 24  # a quarter of the real one: the wrapper's "lightVAE"

WRAPPER_T2V = "wrapper_t2v.safetensors"
WRAPPER_I2V = "wrapper_i2v.safetensors"
WRAPPER_VACE = "wrapper_vace.safetensors"
NATIVE_T2V = "native_t2v.safetensors"
NATIVE_I2V = "native_i2v.safetensors"
NATIVE_VACE = "native_vace.safetensors"
NATIVE_5B = "native_5b.safetensors"
NATIVE_ANIMATE = "native_animate.safetensors"
NATIVE_ANIMATE_2 = "native_animate_2.safetensors"
NATIVE_DANCER = "native_dancer.safetensors"
WRAPPER_LYNX = "wrapper_lynx.safetensors"
WRAPPER_MULTITALK = "wrapper_multitalk.safetensors"
WRAPPER_HUMO = "wrapper_humo.safetensors"
WRAPPER_ONE_TO_ALL = "wrapper_one_to_all.safetensors"
WRAPPER_LORA = "wrapper_lora.safetensors"
NATIVE_LORA = "native_lora.safetensors"
STAND_IN_LORA = "stand_in.safetensors"
VAE = "wan_vae.safetensors"


class _Random:
    """Fills a state dict with weights large enough that every block matters."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self.state[name] = torch.randn(*shape, generator=self._generator) * scale

    def layer(self, name: str, *shape: int, gain: float = 1.0) -> None:
        """Weight [out, in, ...] of unit gain, with a small bias."""
        self.normal(f"{name}.weight", *shape, scale=gain / math.sqrt(math.prod(shape[1:])))
        self.normal(f"{name}.bias", shape[0], scale=0.02)

    def ones(self, name: str, *shape: int) -> None:
        self.state[name] = torch.ones(*shape)


def transformer(
    dim: int, blocks: int, seed: int, *, image: bool = False, control_blocks: int = 0, channels: int = 16
) -> State:
    """A Wan 2.1 transformer, or one of Wan 2.2.

    Args:
        dim: model width; the feed-forward layer has the same.
        blocks: number of main blocks.
        seed: seed of the weights.
        image: I2V: 36 input channels and CLIP image tokens.
        control_blocks: number of VACE control blocks.
        channels: of the latents; 48 for Wan 2.2 5B.
    """
    out = _Random(seed)
    out.layer("patch_embedding", dim, 36 if image else channels, 1, 2, 2)
    out.layer("text_embedding.0", dim, RAW_WIDTH)
    out.layer("text_embedding.2", dim, dim, gain=2.0)
    out.layer("time_embedding.0", dim, 256)
    out.layer("time_embedding.2", dim, dim)
    out.layer("time_projection.1", 6 * dim, dim, gain=0.5)
    for i in range(blocks):
        _block(out, f"blocks.{i}", dim, image)
    out.normal("head.modulation", 1, 2, dim, scale=dim**-0.5)
    out.layer("head.head", 4 * channels, dim)
    if image:
        _norm(out, "img_emb.proj.0", CLIP_WIDTH)
        out.layer("img_emb.proj.1", CLIP_WIDTH, CLIP_WIDTH)
        out.layer("img_emb.proj.3", dim, CLIP_WIDTH)
        _norm(out, "img_emb.proj.4", dim)
    if control_blocks:
        out.layer("vace_patch_embedding", dim, 96, 1, 2, 2)
        out.layer("vace_blocks.0.before_proj", dim, dim)
    for i in range(control_blocks):
        _block(out, f"vace_blocks.{i}", dim, image=False)
        out.layer(f"vace_blocks.{i}.after_proj", dim, dim)
    return out.state


def _block(out: _Random, name: str, dim: int, image: bool) -> None:
    out.normal(f"{name}.modulation", 1, 6, dim, scale=dim**-0.5)
    for attention in ("self_attn", "cross_attn"):
        for part in "qkvo":
            out.layer(f"{name}.{attention}.{part}", dim, dim)
        out.ones(f"{name}.{attention}.norm_q.weight", dim)
        out.ones(f"{name}.{attention}.norm_k.weight", dim)
    if image:
        out.layer(f"{name}.cross_attn.k_img", dim, dim)
        out.layer(f"{name}.cross_attn.v_img", dim, dim)
        out.ones(f"{name}.cross_attn.norm_k_img.weight", dim)
    _norm(out, f"{name}.norm3", dim)
    out.layer(f"{name}.ffn.0", dim, dim)
    out.layer(f"{name}.ffn.2", dim, dim)


def _norm(out: _Random, name: str, dim: int) -> None:
    out.ones(f"{name}.weight", dim)
    out.normal(f"{name}.bias", dim, scale=0.02)


def lora(dim: int, blocks: Iterable[int], seed: int, rank: int = 4) -> State:
    """A LoRA on the text projection and on the cross-attention keys of some blocks."""
    out = _Random(seed)
    shapes = {"text_embedding.0": RAW_WIDTH, **{f"blocks.{i}.cross_attn.k": dim for i in blocks}}
    for name, width in shapes.items():
        out.normal(f"diffusion_model.{name}.lora_A.weight", rank, width, scale=width**-0.5)
        out.normal(f"diffusion_model.{name}.lora_B.weight", dim, rank)
    return out.state


def dancer(dim: int, blocks: int, seed: int, music: int = 256) -> State:
    """A WanDancer model, whose music acts between the blocks 0, 4, 8, ..."""
    out = _Random(seed)
    out.state = transformer(dim, blocks, seed, image=True)
    out.layer("patch_embedding_global", dim, 36, 1, 2, 2)
    out.normal("head_global.modulation", 1, 2, dim, scale=dim**-0.5)
    out.layer("head_global.head", 64, dim)
    _norm(out, "img_emb_refimage.proj.0", CLIP_WIDTH)
    out.layer("img_emb_refimage.proj.1", CLIP_WIDTH, CLIP_WIDTH)
    out.layer("img_emb_refimage.proj.3", dim, CLIP_WIDTH)
    _norm(out, "img_emb_refimage.proj.4", dim)
    for i in range(8):
        name = f"music_injector.injector.{i}"
        for part in "qkvo":
            out.layer(f"{name}.{part}", dim, dim)
        for part in ("norm_q", "norm_k"):
            out.ones(f"{name}.{part}.weight", dim)
    out.layer("music_projection", music, 35)
    for i in range(2):
        name = f"music_encoder.{i}"
        for part in "qkv":
            out.layer(f"{name}.self_attn.{part}_proj", music, music)
        out.layer(f"{name}.self_attn.out_proj", music, music)
        out.layer(f"{name}.linear1", 1024, music)
        out.layer(f"{name}.linear2", music, 1024)
        for part in ("norm1", "norm2"):
            _norm(out, f"{name}.{part}", music)
    return out.state


def animate(dim: int, blocks: int, seed: int) -> State:
    """A Wan 2.2 Animate model without the encoders of its face, which take 140 MB."""
    out = _Random(seed)
    out.state = transformer(dim, blocks, seed, image=True)
    out.layer("pose_patch_embedding", dim, 16, 1, 2, 2)
    for i in range(blocks // 5):
        name = f"face_adapter.fuser_blocks.{i}"
        out.layer(f"{name}.linear1_kv", 2 * dim, dim)
        out.layer(f"{name}.linear1_q", dim, dim)
        out.layer(f"{name}.linear2", dim, dim)
        out.ones(f"{name}.q_norm.weight", dim)
        out.ones(f"{name}.k_norm.weight", dim)
    return out.state


def stand_in(dim: int, blocks: int, seed: int, rank: int = 128) -> State:
    """Stand-In's LoRA: self-attention of the reference image."""
    out = _Random(seed)
    for i in range(blocks):
        for part in "qkv":
            name = f"diffusion_model.blocks.{i}.self_attn.{part}_loras"
            out.normal(f"{name}.down.weight", rank, dim, scale=dim**-0.5)
            out.normal(f"{name}.up.weight", dim, rank, scale=rank**-0.5)
    return out.state


def lynx(dim: int, blocks: int, seed: int) -> State:
    """Lynx's adapters of faces and references, which are added to a model."""
    out = _Random(seed)
    for i in range(blocks):
        for part in ("cross_attn.ip_adapter.to_{}_ip", "self_attn.ref_adapter.to_{}_ref"):
            for which in "kv":
                out.layer(f"blocks.{i}.{part.format(which)}", dim, dim)
        out.normal(f"blocks.{i}.cross_attn.ip_adapter.registers", 1, 16, dim, scale=dim**-0.5)
    return out.state


def multitalk(dim: int, blocks: int, seed: int, width: int = 768) -> State:
    """MultiTalk's attention of voices, and its audio projection for features of 8 channels."""
    out = _Random(seed)
    for i in range(blocks):
        _norm(out, f"blocks.{i}.norm_x", dim)
        out.layer(f"blocks.{i}.audio_cross_attn.q_linear", dim, dim)
        out.layer(f"blocks.{i}.audio_cross_attn.kv_linear", 2 * dim, width)
        out.layer(f"blocks.{i}.audio_cross_attn.proj", dim, dim)
    out.layer("audio_proj.proj1", 16, 5 * 8)
    out.layer("audio_proj.proj1_vf", 16, 8 * 8)
    out.layer("audio_proj.proj2", 16, 16)
    out.layer("audio_proj.proj3", 4 * width, 16)
    _norm(out, "audio_proj.norm", width)
    return out.state


def humo(dim: int, blocks: int, seed: int, width: int = 1536) -> State:
    """A HuMo model. The wrapper fixes its audio projection at 205 MB; here the bias makes its tokens."""
    out = _Random(seed)
    out.state = transformer(dim, blocks, seed)
    for i in range(blocks):
        name = f"blocks.{i}.audio_cross_attn_wrapper"
        for part, given in (("q", dim), ("k", width), ("v", width), ("o", dim)):
            out.layer(f"{name}.audio_cross_attn.{part}", dim, given)
        out.ones(f"{name}.audio_cross_attn.norm_q.weight", dim)
        out.ones(f"{name}.audio_cross_attn.norm_k.weight", dim)
        _norm(out, f"{name}.norm1_audio", dim)
    for n, (wide, given) in enumerate(((512, 8 * 5 * 1280), (512, 512), (16 * width, 512)), 1):
        out.state[f"audio_proj.audio_proj_glob_{n}.layer.weight"] = torch.zeros(wide, given, dtype=torch.float16)
        out.normal(f"audio_proj.audio_proj_glob_{n}.layer.bias", wide)
    _norm(out, "audio_proj.audio_proj_glob_norm.layer", width)
    return out.state


def one_to_all(dim: int, blocks: int, seed: int) -> State:
    """A One-to-All model: its encoder of a reference picture, one block of features, and their attention in each block;
    its encoder of poses, and no block for them."""
    out = _Random(seed)
    out.state = transformer(dim, blocks, seed)
    for i in range(blocks):
        for part in "kv":
            out.layer(f"blocks.{i}.ref_attn_{part}_img", dim, dim)
        out.ones(f"blocks.{i}.ref_attn_norm_k_img.weight", dim)
    for encoder, count, conv, kernel in (("image_to_cond", 3, "", (3, 3)), ("input_hint_block", 4, ".conv", (3, 3, 3))):
        out.layer(f"{encoder}.conv_in{conv}", 16, 32 if count == 3 else 3, *kernel)
        for n in range(count):
            for half in (1, 2):
                _norm(out, f"{encoder}.down_blocks.{n}.resnets.0.norm{half}", 16)
                out.layer(f"{encoder}.down_blocks.{n}.resnets.0.conv{half}{conv}", 16, 16, *kernel)
            if count == 4:
                out.layer(f"{encoder}.down_blocks.{n}.downsamplers.0.conv{conv}", 16, 16, *kernel)
        out.layer(f"{encoder}.conv_out{conv}", 16, 16, *kernel)
    name = "refextractor"
    out.layer(f"{name}.patch_embedding", dim, 32, 1, 2, 2)
    out.layer(f"{name}.time_embedding.0", dim, 256)
    out.layer(f"{name}.time_embedding.2", dim, dim)
    out.layer(f"{name}.time_projection.1", 6 * dim, dim, gain=0.5)
    out.normal(f"{name}.blocks.0.modulation", 1, 6, dim, scale=dim**-0.5)
    for part in "qkvo":
        out.layer(f"{name}.blocks.0.self_attn.{part}", dim, dim)
    for part in ("norm_q", "norm_k"):
        out.ones(f"{name}.blocks.0.self_attn.{part}.weight", dim)
    for part in ("blocks.0.ffn.0", "blocks.0.ffn.2", "ref_blocks.0", "ref_blocks.1"):
        out.layer(f"{name}.{part}", dim, dim)
    return out.state


def vae(seed: int, width: int = VAE_WIDTH) -> State:
    """The Wan 2.1 video VAE."""
    out = _Random(seed)
    half = {"encoder": [1, 1, 2, 4, 4], "decoder": [4, 4, 4, 2, 1]}
    out.layer("conv1", 32, 32, 1, 1, 1)
    out.layer("conv2", 16, 16, 1, 1, 1)
    for part, factors in half.items():
        encoder = part == "encoder"
        dims = [width * f for f in factors]
        stage = "downsamples" if encoder else "upsamples"
        out.layer(f"{part}.conv1", dims[0], 3 if encoder else 16, 3, 3, 3)
        layer = 0
        for level, (given, wide) in enumerate(pairwise(dims)):
            if not encoder and level > 0:
                given //= 2
            for _ in range(2 if encoder else 3):
                _residual(out, f"{part}.{stage}.{layer}", given, wide)
                given = wide
                layer += 1
            if level == 3:
                break
            out.layer(f"{part}.{stage}.{layer}.resample.1", wide if encoder else wide // 2, wide, 3, 3)
            if level > 0 if encoder else level < 2:
                out.layer(f"{part}.{stage}.{layer}.time_conv", wide if encoder else 2 * wide, wide, 3, 1, 1)
            layer += 1
        middle = dims[-1] if encoder else dims[0]
        _residual(out, f"{part}.middle.0", middle, middle)
        out.ones(f"{part}.middle.1.norm.gamma", middle, 1, 1)
        out.layer(f"{part}.middle.1.to_qkv", 3 * middle, middle, 1, 1)
        out.layer(f"{part}.middle.1.proj", middle, middle, 1, 1)
        _residual(out, f"{part}.middle.2", middle, middle)
        out.ones(f"{part}.head.0.gamma", dims[-1], 1, 1, 1)
        out.layer(f"{part}.head.2", 32 if encoder else 3, dims[-1], 3, 3, 3)
    return out.state


def _residual(out: _Random, name: str, given: int, wide: int) -> None:
    out.ones(f"{name}.residual.0.gamma", given, 1, 1, 1)
    out.layer(f"{name}.residual.2", wide, given, 3, 3, 3)
    out.ones(f"{name}.residual.3.gamma", wide, 1, 1, 1)
    out.layer(f"{name}.residual.6", wide, wide, 3, 3, 3)
    if given != wide:
        out.layer(f"{name}.shortcut", wide, given, 1, 1, 1)


def write_models(root: Path) -> None:
    """Write every checkpoint that the tests use into a ComfyUI models folder."""
    wrapper, native = WRAPPER_DIM, NATIVE_DIM
    files = {
        f"diffusion_models/{WRAPPER_T2V}": transformer(wrapper, WRAPPER_BLOCKS, 1),
        f"diffusion_models/{WRAPPER_I2V}": transformer(wrapper, WRAPPER_BLOCKS, 2, image=True),
        f"diffusion_models/{WRAPPER_VACE}": transformer(wrapper, WRAPPER_BLOCKS, 3, control_blocks=15),
        f"diffusion_models/{NATIVE_T2V}": transformer(native, NATIVE_BLOCKS, 4),
        f"diffusion_models/{NATIVE_I2V}": transformer(native, 8, 5, image=True),
        f"diffusion_models/{NATIVE_VACE}": transformer(native, 8, 6, control_blocks=4),
        f"diffusion_models/{NATIVE_5B}": transformer(native, 8, 11, channels=48),
        f"diffusion_models/{NATIVE_ANIMATE}": animate(native, 8, 18),
        f"diffusion_models/{NATIVE_ANIMATE_2}": transformer(native, 4, 16, image=True),
        f"diffusion_models/{NATIVE_DANCER}": dancer(native, 8, 17),
        f"diffusion_models/{WRAPPER_LYNX}": lynx(wrapper, WRAPPER_BLOCKS, 12),
        f"diffusion_models/{WRAPPER_MULTITALK}": multitalk(wrapper, WRAPPER_BLOCKS, 13),
        f"diffusion_models/{WRAPPER_HUMO}": humo(wrapper, WRAPPER_BLOCKS, 14),
        f"diffusion_models/{WRAPPER_ONE_TO_ALL}": one_to_all(wrapper, WRAPPER_BLOCKS, 15),
        f"loras/{WRAPPER_LORA}": lora(wrapper, range(0, WRAPPER_BLOCKS, 3), 7),
        f"loras/{NATIVE_LORA}": lora(native, range(0, NATIVE_BLOCKS, 4), 8),
        f"loras/{STAND_IN_LORA}": stand_in(wrapper, WRAPPER_BLOCKS, 10),
        f"vae/{VAE}": vae(9),
    }
    for name, state in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Files of Wan-Animate-2 are those of I2V but for what their metadata says.
        kind = {"config": '{"transformer": {"model_type": "animate2"}}'} if NATIVE_ANIMATE_2 in name else {}
        save_file(state, path, metadata={"format": "pt", **kind})
