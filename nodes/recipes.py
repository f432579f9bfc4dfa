"""Nodes that keep a model's edits in a file and give them to another model."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..patching.checks import check_stack
from ..patching.edit import stack_of
from ..patching.hosts import host_of
from ..patching.plain import load_recipe, save_recipe
from .sockets import CATEGORY, errors_named, passed_on_sockets, shown_schema, transformer_options
from .store_access import user_folder

log = logging.getLogger("wanvideo_activation_editor")

FAMILY = f"{CATEGORY}/Recipes"
NO_RECIPES = "(no recipes)"
SUFFIX = ".safetensors"
METADATA = "wan_activation_editor_recipe"
"""Key of the recipe in the metadata of saved images and videos, beside ComfyUI's `workflow`."""

_NAME = re.compile(r"[\w-]([\w -]*[\w-])?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # by Windows, whatever the suffix
_MAX_BYTES = 100


def recipes_folder() -> Path:
    """`recipes` in the pack's part of ComfyUI's user folder."""
    return user_folder() / "recipes"


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: the name is no file name on every system.
    """
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or len(name.encode()) > _MAX_BYTES:
        raise ValueError(
            f"name: {name[:40]!a} cannot be a recipe's name. Use letters, digits, spaces, - and _, at most "
            f"{_MAX_BYTES} bytes, and no name that Windows reserves (con, nul, ...)."
        )
    return recipes_folder() / f"{name}{SUFFIX}"


def recipe_names() -> list[str]:
    """Recipes in the folder that Save Recipe could have written."""
    folder = recipes_folder()
    found = folder.glob(f"*{SUFFIX}") if folder.is_dir() else ()
    return sorted(f.stem for f in found if f.is_file() and _NAME.fullmatch(f.stem))


class WanVideoSaveRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoSaveRecipe",
            display_name="WanVideo Save Recipe",
            category=FAMILY,
            description="Keeps the edits that a model carries, with their prompts, in a file: a recipe.",
            is_output_node=True,
            inputs=[
                passed_on.inputs[0],
                io.String.Input(
                    "name",
                    default="recipe",
                    tooltip="Name of the recipe: letters, digits, spaces, - and _. One of that name is replaced.",
                ),
            ],
            outputs=[passed_on.outputs[0], io.String.Output(id="recipe", display_name="recipe")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        with errors_named("WanVideo Save Recipe"):
            host_of(model)
            stack = stack_of(transformer_options(model))
            if not len(stack):
                raise ValueError("model carries no edits. Connect it behind an editor or injector that is switched on.")
            path = recipe_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_recipe(path, stack)
            text = json.dumps(stack.to_plain()[0])
            if isinstance(cls.hidden.extra_pnginfo, dict):
                cls.hidden.extra_pnginfo[METADATA] = text
            log.info("WanVideo Save Recipe: %d edit(s) in %s", len(stack), path)
            report = f"Saved recipe {name}: {len(stack)} edit(s), {path.stat().st_size / 1e6:.2f} MB."
        return io.NodeOutput(model, text, ui={"text": (report,)})


class WanVideoLoadRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoLoadRecipe",
            display_name="WanVideo Load Recipe",
            category=FAMILY,
            description="Adds the edits of a recipe to a model, after those that it carries.",
            inputs=[
                passed_on.inputs[0],
                io.Combo.Input(
                    "name",
                    options=recipe_names() or [NO_RECIPES],
                    tooltip="Saved recipes. Press R in the graph editor to read the list again.",
                ),
                io.String.Input(
                    "recipe",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What Save Recipe gave as recipe. When it is not empty, a file that differs is refused.",
                ),
            ],
            outputs=[passed_on.outputs[0]],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str, **kwargs: Any) -> Any:
        if name not in recipe_names():
            return name
        status = recipe_path(name).stat()
        return name, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, model: Any, name: str, recipe: str = "") -> io.NodeOutput:
        with errors_named("WanVideo Load Recipe"):
            if name not in recipe_names():
                raise ValueError(f"name: there is no recipe {name[:40]!a}. Save one with WanVideo Save Recipe.")
            stack = load_recipe(recipe_path(name))
            if recipe.strip():
                _check_same(recipe, stack.to_plain()[0], name)
            host = host_of(model)
            check_stack(stack, host.wan_model(model))
            edited = host.with_stack(model, stack_of(transformer_options(model)).extend(stack))
        return io.NodeOutput(edited)


def _check_same(recipe: str, values: Any, name: str) -> None:
    try:
        given = json.loads(recipe)
    except (ValueError, RecursionError):
        raise ValueError("recipe is not what WanVideo Save Recipe gives. Connect its output, or clear it.") from None
    if given != json.loads(json.dumps(values)):
        raise ValueError(
            f"The recipe {name} has been saved again since with other edits. Clear the input recipe to use it as it is "
            "now, or save the edits that you want under another name."
        )


NODES = [WanVideoSaveRecipe, WanVideoLoadRecipe]
