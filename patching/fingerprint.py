"""Fingerprints of models and inputs by their content, to tell when a captured state can be used again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

_SAMPLES = 16


class UnidentifiedError(ValueError):
    """A value that cannot be fingerprinted; the message names it."""


def fingerprint(value: Any, sampled: bool = False) -> str:
    """sha256 (hex) of nested plain values, tensors and modules.

    Args:
        value: dicts, lists, tuples, sets, text, numbers, None, dtypes and devices, tensors, modules, weight adapters.
        sampled: of each tensor take shape, dtype and 16 elements spread over it; otherwise all of it. A change of
            few or small values, such as a weak LoRA merged in float8, may leave these as they are.

    Raises:
        UnidentifiedError: a function or another object, or a tensor without values.
    """
    digest = hashlib.sha256()
    _feed(digest, value, sampled, "")
    return digest.hexdigest()


def identity_of(host: Any, model: Any) -> str:
    """`host:digest` of a model's weights, with patches on them.

    Raises:
        UnidentifiedError: it carries something that cannot be fingerprinted.
    """
    return f"{host.NAME}:{host.fingerprint(model)[:32]}"


def known_identity(host: Any, model: Any) -> str:
    """As `identity_of`, but empty when unavailable."""
    try:
        return identity_of(host, model)
    except UnidentifiedError:
        return ""


def unwrapped(name: str) -> str:
    """A state dict's key without torch.compile's part in it."""
    return name.replace("_orig_mod.", "")


def _feed(digest: Any, value: Any, sampled: bool, path: str) -> None:
    if torch.is_tensor(value):
        _feed_tensor(digest, value, sampled, path)
    elif value is None or isinstance(value, str | bool | int | float | torch.dtype | torch.device):
        digest.update(f"{type(value).__name__} {value!r}\n".encode())
    elif isinstance(value, Mapping):
        _feed_items(digest, "dict", sorted(value.items(), key=lambda item: str(item[0])), sampled, path)
    elif isinstance(value, list | tuple):
        _feed_items(digest, "list", enumerate(value), sampled, path)
    elif isinstance(value, set | frozenset):
        _feed_items(digest, "set", enumerate(sorted(value, key=repr)), sampled, path)
    elif isinstance(value, nn.Module):
        _feed_items(digest, _class(value), sorted(value.state_dict().items()), sampled, path)
    elif hasattr(value, "weights") and hasattr(value, "loaded_keys"):  # ComfyUI's LoRA, LoHa, ... of one layer
        _feed_items(digest, _class(value), enumerate(value.weights), sampled, path)
    else:
        raise UnidentifiedError(f"{path.strip('/') or 'value'} is a {type(value).__name__}")


def _feed_items(digest: Any, kind: str, items: Iterable[tuple[Any, Any]], sampled: bool, path: str) -> None:
    digest.update(f"{kind} (\n".encode())
    for key, item in items:
        digest.update(f"{key}: ".encode())
        _feed(digest, item, sampled, f"{path}/{key}")
    digest.update(b")\n")


def _feed_tensor(digest: Any, tensor: torch.Tensor, sampled: bool, path: str) -> None:
    if tensor.is_meta:
        raise UnidentifiedError(f"{path.strip('/') or 'value'} has no values yet")
    digest.update(f"tensor {tensor.dtype} {list(tensor.shape)} ".encode())
    flat = tensor.detach().reshape(-1)
    if sampled and len(flat) > _SAMPLES:
        # An odd step, so that not all of them are of one column.
        flat = flat[:: (len(flat) // _SAMPLES) | 1]
    digest.update(flat.contiguous().cpu().view(torch.uint8).numpy().tobytes())


def _class(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
