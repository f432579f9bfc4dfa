"""Stored values as what hosts take: WANVIDEOTEXTEMBEDS and CONDITIONING, on a device and in a dtype."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..embeddings.text_embeds import MAX_TOKENS, is_conditioning, is_wrapper_embeds, pad_tokens, read_text_embeds
from ..storage.text import plain
from .store_access import STORE, store_path

DTYPES = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("offload", "main", "stored")


def as_wrapper_embeds(value: Any) -> dict[str, Any]:
    """WANVIDEOTEXTEMBEDS: the stored dict itself, or one made of other embeddings.

    Like the wrapper's own bridge node, a value that held no negative prompt gives `negative_prompt_embeds` None.

    Raises:
        EmbedsError: the value is no text embedding.
    """
    if is_wrapper_embeds(value):
        return dict(value)
    embeds = read_text_embeds(value, "the stored embedding")
    return {
        "prompt_embeds": list(embeds.prompts),
        "negative_prompt_embeds": list(embeds.negative) or None,
        "echoshot": embeds.echoshot,
    }


def as_conditioning(value: Any) -> list[Any]:
    """CONDITIONING: the stored one itself, or one entry [1, 512, width] for each prompt, zero-padded."""
    if is_conditioning(value) and value:
        return list(value)
    embeds = read_text_embeds(value, "the stored embedding")
    return [[pad_tokens(p, MAX_TOKENS)[None], {"pooled_output": None}] for p in embeds.prompts]


def moved(value: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The value with its floating point tensors on a device and in a dtype; None leaves them."""
    if torch.is_tensor(value):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {key: moved(item, device, dtype) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device, dtype) for item in value)
    return value


def device_of(choice: str) -> torch.device | None:
    """`main` is the device that samples, `offload` where ComfyUI parks models; the CPU outside of a running ComfyUI.

    None for `stored`: the tensors stay where the store has put them.
    """
    if choice == "stored":
        return None
    model_management: Any = sys.modules.get("comfy.model_management")
    if model_management is None:
        return torch.device("cpu")
    found = model_management.get_torch_device() if choice == "main" else model_management.unet_offload_device()
    return torch.device(found)


def stored_under(text: str, like: Any) -> Any:
    """The stored embedding whose name, else whose prompt, is this text; in the form of `like`. None if there is none.

    Of several with the prompt, the one that was stored last.
    """
    embedding_id = _id_under(text.strip())
    if embedding_id is None:
        return None
    value = STORE.open().load(embedding_id).value
    return as_wrapper_embeds(value) if is_wrapper_embeds(like) else as_conditioning(value)


def fingerprint_of(text: str) -> Any:
    """What changes when another embedding is stored under a name or a prompt: for `fingerprint_inputs`."""
    try:
        return text, _id_under(text.strip())
    except RuntimeError as error:  # the run says it, and is tried again
        return text, plain(error)


def _id_under(text: str) -> int | None:
    if not text or store_path() is None:
        return None
    store = STORE.open()
    return store.id_of(text) or store.id_of_prompt(text)
