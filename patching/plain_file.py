"""Files of plain values: safetensors with the tensors, and the JSON values in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

MAX_JSON = 1 << 22
VALUES = "values"


def file_format(what: str) -> str:
    """What the header of a file calls its kind."""
    return f"wanvideo_activation_editor {what} 1"


def write_plain(path: str | Path, what: str, values: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write one file, in whole or not at all.

    Args:
        what: kind of what it holds, for people: `recipe`.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.torch import save

    # Tensors may be views of one another.
    data = save({k: t.clone() for k, t in tensors.items()}, {"format": file_format(what), VALUES: json.dumps(values)})
    target = Path(path)
    part = target.with_name(target.name + ".part")
    part.write_bytes(data)
    part.replace(target)


def read_plain_file(path: str | Path, what: str, error: type[ValueError]) -> tuple[Any, dict[str, torch.Tensor]]:
    """The values and tensors of a file of `write_plain`; what they are worth is for the caller to check.

    Args:
        error: raised when it is no such file.

    Raises:
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    name = Path(path).name
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != file_format(what):
                raise error(f"{name} is no {what} of this version ({file_format(what)}).")
            text = metadata.get(VALUES, "")
            if len(text) > MAX_JSON:
                raise error(f"{name} holds {len(text)} characters of settings; at most {MAX_JSON} are read.")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return json.loads(text), tensors
    except (SafetensorError, ValueError, RecursionError, KeyError) as found:
        if isinstance(found, error):
            raise
        raise error(f"{name} cannot be read as {what}: {found}") from None
