"""One cell of a sweep: what is sampled, as plain values, and sampling it with a pipeline of diffusers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..patching import steering  # noqa: F401  # puts its operations into OPERATIONS
from ..patching.arguments import chosen_blocks, given_prompt
from ..patching.edit import Edit, EditStack, Window
from ..patching.hosts.diffusers import edited
from ..patching.operations import OPERATIONS, Operation
from ..patching.plain import load_recipe
from ..probing.effects import RandomDirection
from ..probing.pipeline_calls import Pipeline

Kind = Literal["plain", "edit", "random_direction", "random_blocks"]
KINDS: tuple[Kind, ...] = ("plain", "edit", "random_direction", "random_blocks")
ATTEMPTS = 2
TINY = "tiny_wan"


@dataclass(frozen=True, eq=False)
class Model:
    """A model of a plan.

    Args:
        name: for the table.
        source: a folder of diffusers weights, `tiny_wan`, a pipeline, or a function that returns one. Ray needs one of
            the first two, or a function.
        encode: text to embeddings [1, tokens, 4096], for a pipeline without its text encoder.
        dtype, device: of a folder's pipeline.
        block_count: blocks of the transformer; needed for ComfyUI, found out elsewhere.
    """

    name: str
    source: Any = TINY
    encode: Callable[[str], torch.Tensor] | None = None
    dtype: str = "bfloat16"
    device: str = "cuda"
    block_count: int = 0


@dataclass(frozen=True)
class Cell:
    """What one clip is sampled with; `id` is the same for equal cells, in every process.

    Args:
        kind: `plain` has no edit; `random_direction` and `random_blocks` are controls, see `Plan`.
        model, prompt, seed: names of the plan's model; the main prompt; the noise.
        other: the injected prompt; or `recipe`, a file of `save_recipe` whose edits get the cell's blocks and window,
            with the SHA-256 of its content.
        blocks: a block selection, multiplied by `strength`.
        of: of random blocks, the selection that they stand for.
        operation: name, site and fields of the operation; empty for what the source has by default.
        call: further arguments of the pipeline.
    """

    kind: Kind
    model: str
    prompt: str
    seed: int
    other: str = ""
    recipe: str = ""
    recipe_sha256: str = ""
    blocks: str = "none"
    strength: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    of: str = ""
    operation: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Cell:
        values = json.loads(text)
        return cls(**{**values, "window": tuple(values["window"])})

    @property
    def id(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:20]

    @property
    def group(self) -> str:
        """The same for an edit and its controls, whatever the seed."""
        alike = replace(self, kind="edit", seed=0, blocks=self.of or self.blocks, of="")
        return alike.id

    @property
    def plain(self) -> Cell:
        """The clip without the edit, with the same prompt and seed."""
        return Cell("plain", self.model, self.prompt, self.seed, call=self.call)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a cell gave: latents, frames uint8 [frames, height, width, 3] (None without a decoder), the seconds that
    sampling and decoding took, and the identity of the model."""

    latents: torch.Tensor
    frames: torch.Tensor | None
    seconds: float
    identity: str = ""


def operation_of(values: Mapping[str, Any]) -> Operation | None:
    """The operation of plain values such as {"operation": "Blend"}; None when they name none.

    Raises:
        ValueError: an unknown operation or field.
    """
    values = {k: v for k, v in values.items() if k != "site"}
    name = values.pop("operation", None)
    if name is None:
        if values:
            raise ValueError(f"operations: {', '.join(values)} without 'operation', the name of one.")
        return None
    if name not in OPERATIONS:
        raise ValueError(f"operations: no operation {name!r}. Choose from: {', '.join(OPERATIONS)}.")
    try:
        return OPERATIONS[name](**values)
    except TypeError as error:
        raise ValueError(f"operations: {name}: {error}") from None


def read_recipe(cell: Cell) -> EditStack | None:
    """The stack of a cell that names a recipe file.

    Raises:
        ValueError: the file is not the one that the plan was made with.
    """
    if not cell.recipe:
        return None
    if hashlib.sha256(Path(cell.recipe).read_bytes()).hexdigest() != cell.recipe_sha256:
        raise ValueError(f"{cell.recipe} has changed since this cell was planned. Plan the sweep again.")
    return load_recipe(cell.recipe)


class Worker:
    """Holds a model's pipeline and samples cells with it.

    Raises:
        ValueError: no such model; see `Pipeline`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._defaults: dict[str, Any] = {}
        self._encode, source = model.encode, model.source
        if source == TINY:
            from .. import tiny_wan

            self.pipe, self._defaults = tiny_wan.pipeline(), dict(tiny_wan.CALL)
            self._encode = self._encode or tiny_wan.encode
        elif isinstance(source, str | Path):
            from diffusers import DiffusionPipeline

            if not Path(source).is_dir():
                raise ValueError(f"Model {model.name}: {source} is no folder of diffusers weights, and not {TINY!r}.")
            dtype = getattr(torch, model.dtype)
            self.pipe = DiffusionPipeline.from_pretrained(source, torch_dtype=dtype, local_files_only=True)
            self.pipe.to(model.device)
            self.pipe.set_progress_bar_config(disable=True)
        else:
            self.pipe = source if hasattr(source, "transformer") else source()
        found = Pipeline(self.pipe, {})
        self.block_count, self._identity = found.models[0].block_count, found.identity()
        if model.block_count not in (0, self.block_count):
            raise ValueError(f"Model {model.name} has {self.block_count} blocks; the plan says {model.block_count}.")

    def stack(self, cell: Cell, given: EditStack | None = None) -> EditStack:
        """The edits of a cell.

        Args:
            given: those of its recipe file, if it has one and they were read elsewhere.
        """
        if cell.kind == "plain":
            return EditStack()
        strengths = chosen_blocks(cell.blocks) * cell.strength
        changes: dict[str, Any] = {"strengths": strengths, "window": Window(*cell.window)}
        if cell.operation.get("site"):
            changes["site"] = cell.operation["site"]
        if (operation := operation_of(cell.operation)) is not None:
            changes["operation"] = operation
        if cell.recipe:
            read = given or read_recipe(cell)
            assert read is not None  # noqa: S101
            edits = tuple(replace(edit, **changes) for edit in read)
        else:
            text = self._encode(cell.other) if self._encode else cell.other
            edits = (Edit(source=given_prompt(self.pipe, text), label="sweep", **changes),)  # type: ignore[arg-type]
            read = EditStack()
        if cell.kind == "random_direction":
            edits = tuple(replace(edit, operation=RandomDirection(edit.operation, cell.seed)) for edit in edits)
        return replace(read, edits=edits)

    @torch.no_grad()
    def run(self, cell: Cell, given: EditStack | None = None) -> Outcome:
        """Sample a cell. Arguments as `stack`."""
        call = {**self._defaults, **cell.call}
        pipeline = Pipeline(self.pipe, call)
        if "negative_prompt" in call or self._encode:
            call["negative_prompt_embeds"] = self._text(pipeline, call.pop("negative_prompt", ""))
        text = self._text(pipeline, cell.prompt)
        started = time.perf_counter()
        with edited(self.pipe, self.stack(cell, given)):
            latents = pipeline.sample(text, cell.seed).cpu()
        return Outcome(latents, self._decode(latents), time.perf_counter() - started, self._identity)

    def _text(self, pipeline: Pipeline, prompt: str) -> torch.Tensor:
        return self._encode(prompt) if self._encode else pipeline.encode(prompt, "prompt")

    def _decode(self, latents: torch.Tensor) -> torch.Tensor | None:
        """What the pipeline does with finished latents."""
        vae = getattr(self.pipe, "vae", None)
        if vae is None:
            return None
        x = latents.to(vae.device, vae.dtype)
        mean, std = (
            torch.tensor(v).view(1, -1, 1, 1, 1).to(x) for v in (vae.config.latents_mean, vae.config.latents_std)
        )
        video = vae.decode(x * std + mean, return_dict=False)[0][0]
        frames = (video.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        decoded: torch.Tensor = frames.permute(1, 2, 3, 0).cpu().contiguous()
        return decoded
