"""Thumbnails of example_workflows: python -m tools.thumbnails [NAME ...]

Each shows two clips of the tiny trained model, without and with an edit of the kind that the graph makes. They are
computed by the library, with prompts of the tiny model in place of the graph's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.demo.sheet import FAINT, INK, MARGIN, PAPER, font, strip
from wanvideo_activation_editor.patching.edit import EditStack
from wanvideo_activation_editor.patching.gains import word_gains
from wanvideo_activation_editor.patching.hosts.diffusers import edited
from wanvideo_activation_editor.patching.mask import Box
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import PRESETS
from wanvideo_activation_editor.patching.tokens import parse_tokens
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
HEAD, LINE, SEED = 48, 18, 0
encode = tiny_wan.encode

Row = tuple[str, torch.Tensor, Callable[[Any], AbstractContextManager[object]]]
"""A heading, the prompt, and what edits a pipeline."""


def injected(what: str, embeds: torch.Tensor, **options: Any) -> Row:
    return what, encode(FIRST), lambda pipe: inject(pipe, embeds, **options)


def second(text: str, blocks: str, strength: float = 1.0) -> Row:
    where = blocks if blocks in PRESETS else f"block {blocks}"
    return injected(f'"{text}" in {where}, strength {strength:g}', encode(text), blocks=blocks, strength=strength)


def near() -> torch.Tensor:
    """A prompt near the first one, towards blue."""
    return torch.lerp(encode(FIRST), encode(BLUE), 0.4)


def amplified() -> torch.Tensor:
    out = torch.zeros_like(encode(FIRST))
    out[0, :WORDS] = amplify(encode(FIRST)[0, :WORDS], near()[0, :WORDS], 40, metric="relative_l2").embedding
    return out


def concept() -> torch.Tensor:
    return difference_vector(encode("a blue star growing at night"), encode("a red star growing at night"))


PLAIN: Row = (f'"{FIRST}"', encode(FIRST), nullcontext)
CURVE = "2:0.1, 3:0.55, 4:0.9, 5:0.55, 6:0.1"


def steered(pipe: Any) -> tuple[Row, Row]:
    """Along a vector of captions that differ in the background."""
    things = ("a red circle moving left", "a blue star growing", "a green ring moving up", "a white cross moving right")
    pairs = [(encode(f"{thing} on the sea"), encode(f"{thing} at night")) for thing in things]
    call = {name: tiny_wan.CALL[name] for name in ("height", "width", "num_frames")}
    vector = control_vector(pipe, pairs, site="attention", levels=8, **call)
    heading = 'set_point 1 along the control vector from "... at night" to "... on the sea"'
    return PLAIN, (heading, encode(FIRST), lambda pipe: steer(pipe, vector, 1.0, operation="set_point"))


@contextmanager
def two_regions(pipe: Any) -> Iterator[None]:
    with (
        inject(pipe, encode(ON_SEA), mask=Box(right=0.5)),
        inject(pipe, encode(FIRST.replace("at night", "in fog")), mask=Box(left=0.5)),
    ):
        yield


def silent(pipe: Any) -> AbstractContextManager[object]:
    """The word red says nothing in the block that takes most of the colour from it, and in its neighbours."""
    return edited(pipe, EditStack(tuple(word_gains(parse_tokens("1:0"), WORDS, parse_selection("3-5")))))


def examples(pipe: Any) -> dict[str, tuple[Row, Row]]:
    """What is above and below, by the name of the graph."""
    vectors = steered(pipe)
    first = (PLAIN, second(SAME_MOTION, "mid_blocks", 0.6))
    curve = f'"{SAME_MOTION}" along a curve over blocks 2 to 6'
    hidden = f'"{SECOND}": hidden states of 4 to 9, strength 0.5'
    towards = "A prompt that is near the first, towards blue, in mid_blocks"
    further = injected(
        "... amplified to 40% relative L2, boosted by 2",
        amplified(),
        blocks="mid_blocks",
        transforms=[Boost(2.0, True)],
    )
    difference = '... + ("a blue star growing at night" - "a red star growing at night")'
    return {
        "01 Tiny model (native)": (PLAIN, second(SECOND, "mid_blocks")),
        "03 Inject a second prompt (native)": first,
        "02 Inject a second prompt (wrapper)": first,
        "10 Store and reuse prompts (wrapper)": first,
        "04 Presets and strengths (wrapper)": (PLAIN, injected(curve, encode(SAME_MOTION), blocks=CURVE)),
        "05 Mix hidden states (wrapper)": (
            PLAIN,
            injected(hidden, encode(SECOND), blocks="4-9", strength=0.5, site="hidden"),
        ),
        "08 Control vector (native)": vectors,
        "07 Control vector (wrapper)": vectors,
        "11 Debug an injection (wrapper)": (second(SECOND, "9", 0.2), second(SECOND, "mid_blocks")),
        "09 Amplify a close prompt (wrapper)": (injected(towards, near(), blocks="mid_blocks"), further),
        "06 Add and subtract prompts (wrapper)": (
            (f'"{ON_SEA}"', encode(ON_SEA), nullcontext),
            (difference, encode(ON_SEA) + concept(), nullcontext),
        ),
        "12 Two prompts in two regions (native)": (
            PLAIN,
            ('"... on the sea" on the left, "... in fog" on the right', encode(FIRST), two_regions),
        ),
        "13 Weight of a word by block (native)": (
            PLAIN,
            ('Weight 0 for "red" in blocks 3 to 5 of 10', encode(FIRST), silent),
        ),
        "14 Which block does what (native)": (PLAIN, second(ON_SEA, "8")),
    }


def clip(sampler: Sampler, row: Row) -> torch.Tensor:
    _, prompt, editing = row
    with editing(sampler.pipe):
        return tiny_wan.decode(sampler.latents(prompt, SEED))


def picture(sampler: Sampler, rows: tuple[Row, Row]) -> Image.Image:
    """Every other frame of both clips, under their headings; the template browser shows it about 300 pixels wide."""
    strips = [strip(clip(sampler, row)[::2]) for row in rows]
    width, height = strips[0].size
    out = Image.new("RGB", (width + 2 * MARGIN, 2 * (HEAD + height) + 34), PAPER)
    draw = ImageDraw.Draw(out)
    for i, ((heading, *_), frames) in enumerate(zip(rows, strips, strict=True)):
        y = i * (HEAD + height)
        lines = wrapped(heading, width)
        draw.multiline_text((MARGIN, y + HEAD - 4 - LINE * len(lines)), "\n".join(lines), INK, font(14), spacing=3)
        out.paste(frames, (MARGIN, y + HEAD))
    draw.text((MARGIN, out.height - 26), "On this pack's tiny model. Large models differ.", FAINT, font(12))
    return out


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font(14).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def main() -> None:
    sampler = Sampler()
    for name, rows in examples(sampler.pipe).items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        path = FOLDER / f"{name}.jpg"
        picture(sampler, rows).save(path, quality=80, optimize=True, progressive=True)
        sys.stdout.write(f"{path.name}: {path.stat().st_size / 1024:.0f} KB\n")


if __name__ == "__main__":
    main()
