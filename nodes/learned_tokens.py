"""The node that adds learned tokens to a prompt: WanVideo Learned Tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..embeddings.promptwise import write_text_embeds
from ..embeddings.text_embeds import read_text_embeds
from ..vectors import ControlVectorError
from ..vectors.learned_tokens import POSITIONS, load_learned_tokens
from ..vectors.pairs import real_rows
from .control_vectors import FAMILY
from .sockets import embeds_template, errors_named, schema

FOLDER = "embeddings"
NOTHING = "(no files in models/embeddings)"


def file_names() -> list[str]:
    """Safetensors files in ComfyUI's folder for embeddings."""
    try:
        import folder_paths
    except ImportError:  # outside of ComfyUI
        return []
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]


def file_of(name: str) -> Path:
    """Raises ControlVectorError when there is none of this name."""
    import folder_paths

    if name not in file_names() or (path := folder_paths.get_full_path(FOLDER, name)) is None:
        raise ControlVectorError(f"models/embeddings has no {name!r}. Put the file there, and choose it from the list.")
    return Path(path)


class WanVideoLearnedTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
            node_id="WanVideoLearnedTokens",
            display_name="WanVideo Learned Tokens",
            category=FAMILY,
            description="Adds tokens that were learned from clips or from another prompt to a prompt.",
            inputs=[
                io.MatchType.Input("text_embeds", template=embeds, tooltip="The prompt."),
                io.Combo.Input(
                    "name", options=file_names() or [NOTHING], tooltip="File of learn_tokens, in models/embeddings."
                ),
                io.Combo.Input(
                    "position",
                    options=list(POSITIONS),
                    default="append",
                    tooltip="After the prompt's tokens, before them, or in their place; best as they were learned.",
                ),
                io.Float.Input(
                    "weight", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="Factor on the learned tokens."
                ),
            ],
            outputs=[embeds_output(embeds)],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str, **kwargs: Any) -> Any:
        try:
            state = file_of(name).stat()
        except (ControlVectorError, OSError, ImportError) as error:
            return str(error)
        return name, state.st_mtime_ns, state.st_size

    @classmethod
    def execute(cls, text_embeds: Any, name: str, position: str, weight: float) -> io.NodeOutput:
        with errors_named("WanVideo Learned Tokens"):
            learned = load_learned_tokens(file_of(name))
            read = read_text_embeds(text_embeds, "text_embeds")
            prompts = [learned.added_to(real_rows(prompt), position, weight) for prompt in read.prompts]  # type: ignore[arg-type]
            return io.NodeOutput(
                write_text_embeds(text_embeds, tuple(prompts), f"{read.prompt or ''} <{name}>".strip())
            )


def embeds_output(template: Any) -> Any:
    return io.MatchType.Output(template=template, id="text_embeds", display_name="text_embeds")


NODES = [WanVideoLearnedTokens]
