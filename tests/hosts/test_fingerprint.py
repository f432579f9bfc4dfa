"""The identity of native models before and after they are loaded."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from wanvideo_activation_editor.patching.hosts import comfy_native


class Block(torch.nn.Module):
    """With a parameter of its own beside layers, as Wan's `modulation`."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = torch.nn.Parameter(torch.randn(1, 6, 8).half())
        self.q = torch.nn.Linear(8, 8)


class Patcher:
    """What `fingerprint` reads of a ModelPatcher."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.model = SimpleNamespace(diffusion_model=transformer, get_dtype=lambda: torch.float32)
        self.model_options: dict = {}
        self.backup = self.patches = self.object_patches = self.wrappers = self.callbacks = {}

    def clone(self) -> Patcher:
        return self

    def remove_wrappers_with_key(self, *_: object) -> None:
        """There are none."""


def test_a_modulation_cast_when_the_model_is_loaded_is_the_same_model():
    torch.manual_seed(0)
    before = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([Block(), Block()])})
    loaded, other = copy.deepcopy(before), copy.deepcopy(before)
    for block in loaded["blocks"]:
        block.modulation.data = block.modulation.data.float()
    with torch.no_grad():
        other["blocks"][1].modulation += 1.0
    identity = comfy_native.fingerprint(Patcher(before))
    assert comfy_native.fingerprint(Patcher(loaded)) == identity != comfy_native.fingerprint(Patcher(other))
