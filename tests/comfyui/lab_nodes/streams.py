"""Audio, faces and references as the wrapper's own loaders and encoders return them, without models of gigabytes."""

from __future__ import annotations

import sys

import torch

from .probes import AnyInput

WIDTH, DIM, BLOCKS = 32, 96, 30  # of the tokens, and of the wrapper's tiny model
TOKENS, LATENT_FRAMES, FRAMES = 5, 2, 5


def _adapter(seed: int, *names: str) -> dict[str, torch.Tensor]:
    """Weights of a projection of the tokens in every block."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name in names:
        for block in range(BLOCKS):
            weights[name.format(block)] = torch.randn(DIM, WIDTH, generator=random) / WIDTH**0.5
    return weights


def _tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestTalking(AnyInput):
    """FantasyTalking: its model, and the embeds of a sound."""

    RETURN_TYPES = ("FANTASYTALKINGMODEL", "FANTASYTALKING_EMBEDS")

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}, "optional": {"scale": ("FLOAT", {"default": 1.0})}}

    def run(self, scale=1.0):
        names = "blocks.{}.cross_attn.k_proj.weight", "blocks.{}.cross_attn.v_proj.weight"
        weights = {"proj_model.proj.weight": torch.zeros(WIDTH, 8), **_adapter(1, *names)}
        sound = _tokens(2, 1, LATENT_FRAMES, TOKENS, WIDTH)
        embeds = {"audio_proj": sound, "audio_context_lens": None, "audio_scale": scale, "audio_cfg_scale": 1.0}
        return ({"proj_model": None, "sd": weights}, embeds)


class TestPortrait(AnyInput):
    """FantasyPortrait: its model, and image embeds with a face, as WanVideoAddFantasyPortrait gives them.

    That node needs onnx, for the detector of faces beside it.
    """

    RETURN_TYPES = ("FANTASYPORTRAITMODEL", "WANVIDIMAGE_EMBEDS")

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        part = {name: ("FLOAT", {"default": v}) for name, v in (("strength", 1.0), ("start_percent", 0.0))}
        return {"required": {"embeds": ("WANVIDIMAGE_EMBEDS",)}, "optional": part}

    def run(self, embeds, strength=1.0, start_percent=0.0):
        part = "ip_adapter.blocks.{}.cross_attn.ip_adapter_single_stream_"
        weights = _adapter(3, part + "k_proj.weight", part + "v_proj.weight")
        face = {
            "adapter_proj": _tokens(4, 1, LATENT_FRAMES, TOKENS, WIDTH),
            "strength": strength,
            "start_percent": start_percent,
            "end_percent": 1.0,
            "cfg_scale": 1.0,
        }
        return ({"proj_model": None, "sd": weights}, {**embeds, "portrait_embeds": face})


class TestMultiTalk(AnyInput):
    """MultiTalk: its model, with an audio projection of a small width, and the embeds of a voice."""

    RETURN_TYPES = ("MULTITALKMODEL", "MULTITALK_EMBEDS")

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("STRING", {})}, "optional": {"scale": ("FLOAT", {"default": 1.0})}}

    def run(self, model, scale=1.0):
        import folder_paths

        own = next(m for name, m in list(sys.modules.items()) if name.endswith(".multitalk.multitalk"))
        loaded = {
            "proj_model": own.AudioProjModel(blocks=1, channels=8, intermediate_dim=16, context_tokens=4),
            "model_path": folder_paths.get_full_path_or_raise("diffusion_models", model),
            "model_type": "MultiTalk",
        }
        voice = {"audio_features": [_tokens(5, FRAMES, 1, 8)], "audio_scale": scale, "audio_cfg_scale": 1.0}
        return (loaded, voice)


class TestLynxFace(AnyInput):
    """The face embeds of Lynx."""

    RETURN_TYPES = ("LYNXIP",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def run(self):
        return ({"ip_x": _tokens(6, 1, 16, DIM), "ip_x_uncond": _tokens(7, 1, 16, DIM)},)


class TestLynxPicture(AnyInput):
    """Adds latents of a reference picture to the image embeds of Lynx; its own node draws them anew every time."""

    RETURN_TYPES = ("WANVIDIMAGE_EMBEDS",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"embeds": ("WANVIDIMAGE_EMBEDS",)}}

    def run(self, embeds):
        picture, none = _tokens(9, 1, 16, 1, 8, 8), torch.zeros(1, 16, 1, 8, 8)
        return ({**embeds, "lynx_embeds": {**embeds["lynx_embeds"], "ref_latent": picture, "ref_latent_uncond": none}},)


class ScaledEmbeds(AnyInput):
    """Base of nodes that add a stream with a strength to image embeds."""

    RETURN_TYPES = ("WANVIDIMAGE_EMBEDS",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"embeds": ("WANVIDIMAGE_EMBEDS",)},
            "optional": {"scale": ("FLOAT", {"default": 1.0})},
        }


class TestHuMoSound(ScaledEmbeds):
    """Adds the sound of HuMo to image embeds."""

    def run(self, embeds, scale=1.0):
        return ({**embeds, "humo_audio_emb": _tokens(8, 17, 5, 1280), "humo_audio_scale": scale},)


class TestOneToAllDevice(AnyInput):
    """A One-to-All model on the CPU: the wrapper's loader leaves its encoder of references a GPU and half precision."""

    RETURN_TYPES = ("WANVIDEOMODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("WANVIDEOMODEL",)}}

    def run(self, model):
        encoder = model.model.diffusion_model.refextractor
        encoder.main_device, encoder.base_dtype = torch.device("cpu"), torch.float32
        return (model,)


class TestOneToAllPicture(ScaledEmbeds):
    """Image embeds with a reference picture, as WanVideoAddOneToAllReferenceEmbeds gives them, and no pose."""

    def run(self, embeds, scale=1.0):
        picture = {
            "ref_latent_pos": _tokens(10, 1, 32, 1, 8, 8),
            "ref_latent_neg": torch.zeros(1, 32, 1, 8, 8),
            "ref_strength": scale,
            "ref_start_percent": 0.0,
            "ref_end_percent": 1.0,
            "controlnet_strength": 0.0,
        }
        return ({**embeds, "one_to_all_embeds": picture},)


STREAM_NODES = (
    TestTalking,
    TestPortrait,
    TestMultiTalk,
    TestLynxFace,
    TestLynxPicture,
    TestHuMoSound,
    TestOneToAllDevice,
    TestOneToAllPicture,
)
