"""Recipes: the edits of one graph in another, bit for bit."""

from __future__ import annotations

import itertools
import json

import pytest
from safetensors import safe_open

from .server import RejectedError, RunFailedError
from .test_sites import at
from .workflows import FOX, MOON, SHARP, Host, Workflow, edit, output

names = (f"recipe {n}" for n in itertools.count(1))


def saving(name: str, recipes: list | None = None):
    """For `after`: a Save Recipe between the editors and the sampler."""

    def save(flow: Workflow, model):
        saved = flow.add("WanVideoSaveRecipe", model=model, name=name)
        if recipes is not None:
            recipes.append(flow.add("TestShow", value=output(saved, 1))[0])
        return saved

    return save


def loading(name: str, recipe: str = ""):
    return lambda flow, model: flow.add("WanVideoLoadRecipe", model=model, name=name, recipe=recipe)


EDITS = {
    "context": (edit(block_activations="even:0.6"), edit(SHARP, branch="uncond", end_percent=0.5)),
    "hidden states": (edit(injection_mode="both", block_activations="2-4", injection_strength=0.7),),
    "site": (at("attention", MOON, blocks="1-3"),),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_recipe_gives_the_latents_of_its_nodes(host: Host, kind):
    name = next(names)
    wanted = host.digest(FOX, *EDITS[kind], after=saving(name))
    host.server.free()
    assert host.digest(FOX, after=loading(name)) == wanted != host.reference()


def test_a_captured_difference_is_kept(host: Host):
    name = next(names)
    add = host.adding(3, injection_strength=0.5)
    wanted = host.digest(FOX, after=lambda flow, model: saving(name)(flow, add(flow, model)))
    assert host.digest(FOX, after=loading(name)) == wanted != host.reference()


def test_a_recipe_comes_after_the_edits_of_the_model(host: Host):
    name = next(names)
    first, second = edit(SHARP, block_activations="1-3:0.5"), edit(block_activations="2:0.5")
    host.digest(FOX, second, after=saving(name))
    assert host.digest(FOX, first, after=loading(name)) == host.digest(FOX, first, second)


def test_a_recipe_of_one_host_serves_the_other(native: Host, wrapper: Host):
    name = next(names)
    native.digest(FOX, edit(), after=saving(name))
    source = native.server.base / "user" / "__wanvideo_activation_editor" / "recipes" / f"{name}.safetensors"
    target = wrapper.server.base / "user" / "__wanvideo_activation_editor" / "recipes"
    target.mkdir(parents=True, exist_ok=True)
    (target / source.name).write_bytes(source.read_bytes())
    assert wrapper.digest(FOX, after=loading(name)) == wrapper.reference(MOON)


def test_a_workflow_can_insist_on_its_recipe(host: Host):
    name, probes = next(names), []
    flow = Workflow()
    latents = host.branch(flow, FOX, edit(block_activations="1"), after=saving(name, probes))
    flow.add("TestDigest", samples=latents)
    text = host.server.run(flow).checked().output(probes[0], "text")[0]
    assert json.loads(text)["edits"][0]["site"] == "context"
    assert host.digest(FOX, after=loading(name, text)) == host.digest(FOX, edit(block_activations="1"))
    host.digest(FOX, edit(block_activations="2"), after=saving(name))
    with pytest.raises(RunFailedError, match="has been saved again since with other edits"):
        host.digest(FOX, after=loading(name, text))


def test_what_is_saved_of_a_run_has_the_recipe(host: Host):
    name, flow = next(names), Workflow()
    latents = host.branch(flow, FOX, edit(block_activations="3"), after=saving(name))
    flow.add("SaveLatent", samples=latents, filename_prefix=name)
    host.server.run(flow, page=True).checked()
    (saved,) = (host.server.base / "output").glob(f"{name}*")
    with safe_open(str(saved), "pt") as file:
        recipe = json.loads(json.loads(file.metadata()["wan_activation_editor_recipe"]))
    assert recipe["edits"][0]["strengths"]


def test_what_cannot_be_saved_or_loaded_is_said(host: Host):
    with pytest.raises(RunFailedError, match="model carries no edits"):
        host.digest(FOX, after=saving("nothing"))
    for bad in ("../up", "a/b", "", ".hidden", "con", "a" * 101, "tab\t"):
        with pytest.raises(RunFailedError, match="cannot be a recipe's name"):
            host.digest(FOX, edit(), after=saving(bad))
    with pytest.raises(RejectedError, match="never saved"):  # by ComfyUI: it is not in the list
        host.digest(FOX, after=loading("never saved"))
