"""Control vectors of chosen sites, and what they are, for /history."""

from __future__ import annotations

import json
import math
import sys

import torch

from .probes import ANY, AnyInput


def module(name: str):
    """A module of the pack's `vectors`, whatever ComfyUI calls it."""
    return next(m for key, m in list(sys.modules.items()) if key.endswith(f".vectors.{name}"))


class TestMakeVector(AnyInput):
    """A random control vector of a model at any site."""

    RETURN_TYPES = ("CONTROL_VECTOR",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": (ANY, {}),
                "site": ("STRING", {}),
                "seed": ("INT", {"default": 0}),
                "width": ("INT", {"default": 0}),
            },
            "optional": {"first_block": ("INT", {"default": 0}), "identity": ("STRING", {"default": ""})},
        }

    def run(self, model, site, seed, width=0, first_block=0, identity=""):
        inner = model.model.diffusion_model
        blocks = tuple(range(first_block, len(inner.blocks))) if site != "context" else (0,)
        levels = (0.2, 0.8) if site != "context" else (1.0,)
        width = width or (inner.dim if site != "context" else 4096)
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(shape, generator=generator)

        b, n = len(blocks), len(levels)
        made = module("control_vector").ControlVector(
            site, blocks, levels, torch.nn.functional.normalize(draw(b, n, 1, width), dim=-1), draw(b, n).abs() + 0.5,
            draw(b, n, 1), draw(b, n, 1), torch.full((b,), math.nan), draw(b, n, width).exp(), draw(b, n, width),
            block_count=len(inner.blocks) if site != "context" else 0, origin=f"seed {seed}",
            identity=identity,
        )  # fmt: skip
        return (made,)


class TestVectors(AnyInput):
    """What two control vectors are, and whether one is the exact negative of the other, or equal to it."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"a": ("CONTROL_VECTOR", {}), "b": ("CONTROL_VECTOR", {})}}

    def run(self, a, b):
        told = {**a.describe(), "width": a.width, "separability": a.separability.nan_to_num(-1).tolist()}
        told["negative"] = torch.equal(a.directions, -b.directions) and torch.equal(a.neutral, -b.positive)
        told["equal"] = a.to_plain()[0] == b.to_plain()[0] and all(
            torch.equal(x.nan_to_num(-1), b.to_plain()[1][key].nan_to_num(-1)) for key, x in a.to_plain()[1].items()
        )
        told["cosine"] = (a.directions * b.directions).sum(-1).mean().item()
        told["finite"] = bool(torch.isfinite(a.directions).all())
        return {"ui": {"text": [json.dumps(told)]}}


STEERING_NODES = (TestMakeVector, TestVectors)
