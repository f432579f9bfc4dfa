"""Thumbnails of example_workflows: python -m tools.thumbnails

Each shows two clips of the tiny trained model, without and with an edit of the kind that the graph makes. They are
computed by the library, with prompts of the tiny model in place of the graph's.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.demo.sheet import FAINT, INK, MARGIN, PAPER, font, strip
from wanvideo_activation_editor.tiny_wan import comfyui
from wanvideo_activation_editor.tiny_wan.edits import Boost, amplify, difference_vector, inject
from wanvideo_activation_editor.tiny_wan.measure import Sampler
from wanvideo_activation_editor.vectors.applying import steer
from wanvideo_activation_editor.vectors.pipelines import control_vector

FOLDER = Path(__file__).resolve().parents[1] / "example_workflows"
FIRST, SECOND, BLUE = comfyui.SUGGESTED[:3]
SAME_MOTION = "a blue square moving left on the sea"  # two motions at part strength give broken pictures
ON_SEA = "a red circle moving left on the sea"
WORDS = 7  # of FIRST and of BLUE
HEAD, SEED = 46, 0
encode = tiny_wan.encode

Row = tuple[str, torch.Tensor, dict[str, Any] | None]
"""A heading, the prompt, and the arguments of `inject`, or of `steer`, if there is an edit."""


def injected(what: str, embeds: torch.Tensor, **options: Any) -> Row:
    return what, encode(FIRST), {"embeds": embeds, **options}


def second(text: str, blocks: str, strength: float = 1.0) -> Row:
    return injected(f'"{text}" in {blocks}, strength {strength:g}', encode(text), blocks=blocks, strength=strength)


def near() -> torch.Tensor:
    """A prompt near the first one, towards blue."""
    return torch.lerp(encode(FIRST), encode(BLUE), 0.4)


def amplified() -> torch.Tensor:
    out = torch.zeros_like(encode(FIRST))
    out[0, :WORDS] = amplify(encode(FIRST)[0, :WORDS], near()[0, :WORDS], 40, metric="relative_l2").embedding
    return out


def concept() -> torch.Tensor:
    return difference_vector(encode("a blue star growing at night"), encode("a red star growing at night"))


PLAIN: Row = (f'"{FIRST}"', encode(FIRST), None)
CURVE = "2:0.1, 3:0.55, 4:0.9, 5:0.55, 6:0.1"


def steered(pipe: Any) -> tuple[Row, Row]:
    """Along a vector of captions that differ in the background."""
    things = ("a red circle moving left", "a blue star growing", "a green ring moving up", "a white cross moving right")
    pairs = [(encode(f"{thing} on the sea"), encode(f"{thing} at night")) for thing in things]
    call = {name: tiny_wan.CALL[name] for name in ("height", "width", "num_frames")}
    vector = control_vector(pipe, pairs, site="attention", levels=8, **call)
    heading = 'set_point 1 along the control vector from "... at night" to "... on the sea"'
    return PLAIN, (heading, encode(FIRST), {"vector": vector, "strength": 1.0, "operation": "set_point"})


def examples(pipe: Any) -> dict[str, tuple[Row, Row]]:
    """What is above and below, by the name of the graph."""
    vectors = steered(pipe)
    first = (PLAIN, second(SAME_MOTION, "mid_blocks", 0.6))
    curve = f'"{SAME_MOTION}" along a curve over blocks 2 to 6'
    hidden = f'"{SECOND}": hidden states of 4 to 9, strength 0.5'
    towards = "A prompt that is near the first, towards blue, in mid_blocks"
    further = injected(
        "... amplified to a relative L2 of 40%, boosted by 2",
        amplified(),
        blocks="mid_blocks",
        transforms=[Boost(2.0, True)],
    )
    difference = '... + ("a blue star growing at night" - "a red star growing at night")'
    return {
        "tiny_model_native": (PLAIN, second(SECOND, "mid_blocks")),
        "first_injection_native": first,
        "first_injection_wrapper": first,
        "store_and_reuse_wrapper": first,
        "presets_and_strengths_wrapper": (PLAIN, injected(curve, encode(SAME_MOTION), blocks=CURVE)),
        "hidden_state_mixing_wrapper": (
            PLAIN,
            injected(hidden, encode(SECOND), blocks="4-9", strength=0.5, site="hidden"),
        ),
        "control_vector_native": vectors,
        "control_vector_wrapper": vectors,
        "debug_an_injection_wrapper": (second(SECOND, "9", 0.2), second(SECOND, "mid_blocks")),
        "amplifier_and_booster_wrapper": (injected(towards, near(), blocks="mid_blocks"), further),
        "concept_vector_wrapper": (
            (f'"{ON_SEA}"', encode(ON_SEA), None),
            (difference, encode(ON_SEA) + concept(), None),
        ),
    }


def clip(sampler: Sampler, row: Row) -> torch.Tensor:
    _, prompt, edit = row
    edits = steer if edit and "vector" in edit else inject
    editing: AbstractContextManager[object] = edits(sampler.pipe, **edit) if edit else nullcontext()
    with editing:
        return tiny_wan.decode(sampler.latents(prompt, SEED))


def picture(sampler: Sampler, rows: tuple[Row, Row]) -> Image.Image:
    """Both clips under their headings."""
    strips = [strip(clip(sampler, row)) for row in rows]
    width, height = strips[0].size
    out = Image.new("RGB", (width + 2 * MARGIN, 2 * (HEAD + height) + 44), PAPER)
    draw = ImageDraw.Draw(out)
    for i, ((heading, *_), frames) in enumerate(zip(rows, strips, strict=True)):
        y = i * (HEAD + height)
        draw.text((MARGIN, y + 18), heading, INK, font(14))
        out.paste(frames, (MARGIN, y + HEAD))
    note = "The same kind of edit on this pack's tiny model. Large models differ."
    draw.text((MARGIN, out.height - 30), note, FAINT, font(12))
    return out


def main() -> None:
    sampler = Sampler()
    for name, rows in examples(sampler.pipe).items():
        path = FOLDER / f"{name}.jpg"
        picture(sampler, rows).save(path, quality=80, optimize=True)
        sys.stdout.write(f"{path.name}: {path.stat().st_size / 1024:.0f} KB\n")


if __name__ == "__main__":
    main()
