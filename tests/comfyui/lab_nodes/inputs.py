"""Nodes that stand in for text and image encoders, whose real weights are gigabytes."""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace

import torch


def _vector(word: str, width: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "little")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def encode(text: str, width: int = 4096) -> torch.Tensor:
    """One vector per word and one for the end, a fixed function of the word and its place. [tokens, width]."""
    words = [*re.findall(r"\w+|[^\w\s]", text.lower()), "</s>"]
    rows = [_vector(word, width) + 0.25 * _vector(f"<place {i}>", width) for i, word in enumerate(words)]
    return 0.2 * torch.stack(rows)


class TestTextEmbeds:
    """WANVIDEOTEXTEMBEDS as WanVideoTextEncode returns them; `nonce` only defeats the cache."""

    RETURN_TYPES = ("WANVIDEOTEXTEMBEDS",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"prompt": ("STRING", {}), "negative": ("STRING", {})},
            "optional": {
                "width": ("INT", {"default": 4096}),
                "nonce": ("INT", {"default": 0, "max": 2**62}),
                "dtype": (["float32", "bfloat16", "float16"],),
            },
        }

    def run(self, prompt, negative, width=4096, nonce=0, dtype="float32"):
        echoshot = "[1]" in prompt
        parts = [p for p in re.split(r"\[\d+\]", prompt) if p.strip()] if echoshot else prompt.split("|")
        kind = getattr(torch, dtype)
        embeds = {
            "prompt_embeds": [encode(part.strip(), width).to(kind) for part in parts],
            "negative_prompt_embeds": [encode(negative, width).to(kind)],
            "echoshot": echoshot,
        }
        return (embeds,)


class TestConditioning:
    """CONDITIONING as CLIPTextEncode returns it for Wan: padded with zeros to 512 tokens or more.

    `a & b` is one entry with a batch of two prompts.
    """

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"prompt": ("STRING", {})},
            "optional": {
                "width": ("INT", {"default": 4096}),
                "nonce": ("INT", {"default": 0, "max": 2**62}),
                "padded_tokens": ("INT", {"default": 512}),
            },
        }

    def run(self, prompt, width=4096, nonce=0, padded_tokens=512):
        prompts = [encode(part.strip(), width) for part in prompt.split("&")]
        padded = torch.zeros(len(prompts), max(padded_tokens, *map(len, prompts)), width)
        for row, real in zip(padded, prompts, strict=True):
            row[: len(real)] = real
        return ([[padded, {"pooled_output": None}]],)


class TestTextEncoder:
    """The tokenizer of `encode` as hosts hand it on: one piece per word, and its pieces by number."""

    RETURN_TYPES = ("CLIP", "WANTEXTENCODER")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def run(self):
        vocabulary = {0: "<pad>", 1: "</s>"}

        def numbers(text):
            words = ["\u2581" + word for word in re.findall(r"\w+|[^\w\s]", text.lower())]
            for word in words:
                if word not in vocabulary.values():
                    vocabulary[len(vocabulary)] = word
            return [next(k for k, v in vocabulary.items() if v == word) for word in words]

        def tokenize(text):
            return {"umt5xxl": [[(token, 1.0) for token in [*numbers(text), 1, *[0] * 40]]]}

        class Fast:
            def __call__(self, text, add_special_tokens):
                return {"input_ids": numbers(text)}

            def convert_ids_to_tokens(self, ids):
                return [vocabulary[i] for i in ids]

        part = SimpleNamespace(inv_vocab=vocabulary, pad_token=0, end_token=1)
        clip = SimpleNamespace(tokenizer=SimpleNamespace(clip="clip_umt5xxl", clip_umt5xxl=part), tokenize=tokenize)
        own = SimpleNamespace(tokenizer=Fast(), _clean=lambda text: " ".join(text.split()))
        return (clip, {"model": SimpleNamespace(tokenizer=own)})


class TestMask:
    """MASK of a rectangle in some frames, 1 inside, as fractions of the picture."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        box = {name: ("FLOAT", {"default": value}) for name, value in (("left", 0.0), ("right", 1.0), ("value", 1.0))}
        frames = {name: ("INT", {"default": value}) for name, value in (("frames", 1), ("first", 0), ("size", 64))}
        return {"required": {}, "optional": {**box, **frames}}

    def run(self, left=0.0, right=1.0, value=1.0, frames=1, first=0, size=64):
        mask = torch.zeros(frames, size, size)
        mask[first:, :, round(left * size) : round(right * size)] = value
        return (mask,)


class TestClipImage:
    """The image tokens of CLIP vision, for the wrapper and for native nodes."""

    RETURN_TYPES = ("WANVIDIMAGE_CLIPEMBEDS", "CLIP_VISION_OUTPUT")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        tokens = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(seed))
        wrapper = {"clip_embeds": tokens, "negative_clip_embeds": None}
        return (wrapper, SimpleNamespace(penultimate_hidden_states=tokens))


class TestImageVideo:
    """What the older wrapper's I2V encoder returns; its VAE has one size only, which is too slow here."""

    RETURN_TYPES = ("WANVIDIMAGE_EMBEDS",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"width": ("INT", {}), "height": ("INT", {}), "frames": ("INT", {})}}

    def run(self, width, height, frames):
        random = torch.Generator().manual_seed(1)
        length, rows, columns = (frames - 1) // 4 + 1, height // 8, width // 8
        embeds = {
            "image_embeds": torch.randn(20, length, rows, columns, generator=random),
            "clip_context": torch.randn(1, 257, 1280, generator=random),
            "max_seq_len": length * rows * columns // 4,
            "num_frames": frames,
            "lat_h": rows,
            "lat_w": columns,
        }
        return (embeds,)


class TestImageModel:
    """A MODEL that is no Wan model: Stable Diffusion's UNet at a fraction of its width, random weights."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def run(self):
        import comfy.model_patcher
        from comfy import supported_models

        unet = {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
            "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
            "transformer_depth_middle": 1, "num_heads": 2, "num_head_channels": -1, "context_dim": 64,
            "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False,
            "adm_in_channels": None, "dtype": torch.float32,
        }  # fmt: skip
        config = supported_models.SD15(unet)
        config.set_inference_dtype(torch.float32, None)
        cpu = torch.device("cpu")
        return (comfy.model_patcher.ModelPatcher(config.get_model({}, "", cpu), cpu, cpu),)


INPUT_NODES = (
    TestTextEmbeds,
    TestConditioning,
    TestTextEncoder,
    TestMask,
    TestClipImage,
    TestImageVideo,
    TestImageModel,
)
