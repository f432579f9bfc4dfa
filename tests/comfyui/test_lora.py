"""LoRA on the text projection and on cross-attention: the injected prompt goes through it like the main one."""

from __future__ import annotations

import pytest

from . import tiny_models
from .workflows import FOX, MOON, Host, Workflow, edit


def loaders(host: Host):
    """Model loaders with a LoRA, by name."""

    def wrapper_lora(merge: bool):
        def load(flow: Workflow):
            lora = flow.add("WanVideoLoraSelect", lora=tiny_models.WRAPPER_LORA, strength=1.0, low_mem_load=False,
                            merge_loras=merge)  # fmt: skip
            return host.load(flow, lora=lora)

        return load

    def set_later(flow: Workflow):
        lora = flow.add("WanVideoLoraSelect", lora=tiny_models.WRAPPER_LORA, strength=1.0, low_mem_load=False,
                        merge_loras=False)  # fmt: skip
        return flow.add("WanVideoSetLoRAs", model=host.load(flow), lora=lora)

    def native_lora(flow: Workflow):
        return flow.add("LoraLoaderModelOnly", model=host.load(flow), lora_name=tiny_models.NATIVE_LORA,
                        strength_model=1.0)  # fmt: skip

    if host.name == "native":
        return {"loader": native_lora}
    return {"merged": wrapper_lora(True), "unmerged": wrapper_lora(False), "set later": set_later}


@pytest.mark.parametrize(
    ("host_name", "kind"),
    [("wrapper", "merged"), ("wrapper", "unmerged"), ("wrapper", "set later"), ("native", "loader")],
)
def test_every_block_at_full_strength_equals_the_injected_prompt_under_the_lora(request, host_name, kind):
    host: Host = request.getfixturevalue(host_name)
    load = loaders(host)[kind]
    other = host.digest(MOON, load=load, steps=1)
    assert other != host.reference(MOON, steps=1), "the LoRA had no effect"
    assert host.digest(FOX, edit(), load=load, steps=1) == other
    plain = host.digest(FOX, load=load, steps=1)
    assert host.digest(FOX, edit(FOX, injection_strength=0.5), load=load, steps=1) == plain
    left = host.leftovers(load)
    assert left["hooks"] == left["forwards"] == []


def test_an_edited_model_may_get_its_lora_after_the_editor(native: Host):
    def lora(flow: Workflow, model):
        return flow.add("LoraLoaderModelOnly", model=model, lora_name=tiny_models.NATIVE_LORA, strength_model=1.0)

    assert native.digest(FOX, edit(), after=lora, steps=1) == native.digest(MOON, after=lora, steps=1)
