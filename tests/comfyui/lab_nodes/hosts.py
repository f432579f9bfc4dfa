"""What newer ComfyUIs and other packs do to a model, in the same way, for hosts that lack it."""

from __future__ import annotations

import torch

from .probes import AnyInput
from .streams import DIM, LATENT_FRAMES


class Uni3CCnetPatch:
    """Adds to the hidden state after each block, in place, as ComfyUI's Uni3C does since 0.29."""

    def __call__(self, args):
        args["img"][:, 0:] += 0.1
        return args


class TestBlockPatch(AnyInput):
    """A `double_block` patch."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def run(self, model):
        model = model.clone()
        model.set_model_patch(Uni3CCnetPatch(), "double_block")
        return (model,)


class Added(torch.nn.Module):
    """In place of a ControlNet of the wrapper: what is added to the hidden state after the first blocks."""

    dtype, device, quantized = torch.float32, torch.device("cpu"), False

    def __init__(self, width: int, wrapped: bool) -> None:
        super().__init__()
        self.states = [torch.full((1, 1, width), 0.1)] * 4
        self.wrapped = wrapped

    def forward(self, **inputs):
        return (self.states,) if self.wrapped else self.states


class TestControlNet(AnyInput):
    """A model with a ControlNet, as WanVideoControlnet gives it."""

    RETURN_TYPES = ("WANVIDEOMODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("WANVIDEOMODEL",)}}

    def run(self, model):
        model = model.clone()
        model.model_options["transformer_options"]["controlnet"] = {
            "controlnet": Added(DIM, True),
            "control_latents": torch.zeros(1),
            "controlnet_strength": 1.0,
            "control_stride": 3,
            "controlnet_start": 0.0,
            "controlnet_end": 1.0,
        }
        return (model,)


class TestUni3C(AnyInput):
    """As WanVideoUni3C_embeds gives them."""

    RETURN_TYPES = ("UNI3C_EMBEDS",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def run(self):
        embeds = {
            "controlnet": Added(DIM, False),
            "render_latent": torch.zeros(1, 16, LATENT_FRAMES, 8, 8),
            "render_mask": None,
            "camera_embedding": None,
            "controlnet_weight": 1.0,
            "start": 0.0,
            "end": 1.0,
            "offload": False,
        }
        return (embeds,)


class TestMusic(AnyInput):
    """Features of music, as WanDancerEncodeAudio gives them."""

    RETURN_TYPES = ("AUDIO_ENCODER_OUTPUT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        features = torch.randn(1, 24, 35, generator=torch.Generator().manual_seed(seed))
        return ({"audio_feature": features, "fps": 30.0, "audio_inject_scale": 1.0},)


class TestRowsInTurn(AnyInput):
    """A model that takes the rows of a guidance batch one after the other, as RES4LYF's ReWanPatcher."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def run(self, model):
        def in_turn(executor, x, timestep, context, *args, **kwargs):
            rows = zip(x.split(1), timestep.split(1), context.split(1), strict=True)
            return torch.cat([executor(*row, *args, **kwargs) for row in rows])

        model = model.clone()
        model.add_wrapper("diffusion_model", in_turn)
        return (model,)


class TestCausalSampler(AnyInput):
    """A sampler function named as that of SamplerARVideo (0.21)."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def run(self):
        from comfy.k_diffusion.sampling import sample_euler
        from comfy.samplers import KSAMPLER

        def sample_ar_video(*args, **kwargs):
            return sample_euler(*args, **kwargs)

        return (KSAMPLER(sample_ar_video),)


HOST_NODES = (TestBlockPatch, TestControlNet, TestUni3C, TestMusic, TestRowsInTurn, TestCausalSampler)
