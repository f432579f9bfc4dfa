"""Node schemas against the contract of shared workflow files, and what the nodes do outside of sampling.

The editors run here on a minimal model patcher around a real Wan transformer; tests/comfyui has the real hosts.
"""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import wanvideo_activation_editor
from diffusers import WanTransformer3DModel
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.nodes.replacements import REPLACEMENTS
from wanvideo_activation_editor.patching.edit import KEY, stack_of
from wanvideo_activation_editor.patching.hosts import wan_video_wrapper
from wanvideo_activation_editor.patching.strengths import PATTERNS, PRESETS, Explicit, Pattern
from wanvideo_activation_editor.patching.transforms import Boost

ZEROS, FRESH = "0" * 40, "mid_blocks"


@pytest.fixture(scope="module")
def nodes() -> dict:
    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    return {cls.define_schema().node_id: cls for cls in asyncio.run(extension.get_node_list())}


WINDOW = [("start_percent", 0.0), ("end_percent", 1.0), ("branch", "cond"), ("log_level", "off")]

# (input, default); sockets have no default. Extra inputs may follow; these never change.
CONTRACT = {
    "WanVideoActivationEditor": (
        ["model", "text_embeds", ("injection_strength", 0.5), ("block_activations", FRESH), ("enable_patching", True),
         ("log_level", "off"), ("injection_mode", "context"), "injection_embeds", "block_strengths"],
        ["model", "text_embeds"],
    ),
    "WanVideoBlockActivationBuilder": (
        [("preset", "custom"), *((f"block_{i}", False) for i in range(40))],
        ["block_activations"],
    ),
    "WanVideoBlockActivationViewer": (
        ["model", ("show_visual", True), ("block_activations", ""), "text_embeds"],
        ["visualization"],
    ),
    "WanVideoComparison": (
        ["images_a", "images_b", ("label_a", "plain"), ("label_b", "edited")],
        ["images", "report"],
    ),
    "WanVideoInjectionTester": (["model", "text_embeds", ("show_details", True)], ["test_results"]),
    "WanVideoBlockStrengthBuilder": (
        [("pattern", "custom"), ("base_strength", 0.5), ("peak_block", 20), ("spread", 5.0), ("step_size", 5),
         *((f"block_{i}_strength", 0.0) for i in range(40))],
        ["block_strengths", "strength_visualization"],
    ),
    "WanVideoStrengthVisualizer": (
        ["block_strengths", ("show_numbers", True), ("graph_height", 10)],
        ["text_visualization", "graph_image"],
    ),
    "WanVideoAdvancedActivationEditor": (
        ["model", "text_embeds", ("block_activations", FRESH), ("enable_patching", True), "injection_embeds",
         "block_strengths", ("uniform_strength", 0.5)],
        ["model", "text_embeds"],
    ),
    "WanVideoLatentEncoder": (
        ["model", "text_embeds", ("capture_after_blocks", 3), ("use_cache", True)],
        ["latent_embeds", "info"],
    ),
    "WanVideoLatentInjector": (
        ["model", "main_latent", "injection_latent", ("injection_strength", 0.5), ("block_activations", FRESH)],
        ["model"],
    ),
    "WanVideoPromptWeight": (
        ["model", "text_embeds", ("weights", ""), ("block_activations", "all"), "block_strengths", ("schedule", ""),
         *WINDOW],
        ["model", "text_embeds", "info"],
    ),
    "WanVideoConditioningGain": (
        ["model", "text_embeds", ("stream", "text"), ("gain", 1.0), ("block_activations", "all"), "block_strengths",
         ("schedule", ""), *WINDOW],
        ["model", "text_embeds"],
    ),
    "WanVideoImageInjection": (
        ["model", "text_embeds", "clip_vision_output", ("injection_strength", 0.5), ("block_activations", "all"),
         "block_strengths", ("schedule", ""), *WINDOW],
        ["model", "text_embeds"],
    ),
    "WanVideoBlockMap": (
        ["model", "text_embeds", "injection_embeds", ("injection_strength", 1.0), ("block_activations", "all"),
         ("noise_levels", "0.8, 0.6, 0.4"), ("seeds", 4), ("seed", 0), "image_embeds", ("width", 832), ("height", 480),
         ("num_frames", 81), "control_vector", ("branch", "cond"), ("verify", 0), ("use_cache", True),
         ("store_in_db", True), ("other_model", False)],
        ["block_map", "info"],
    ),
    "WanVideoBlockMapViewer": (
        ["block_map", ("quantity", "share"), ("top", 6), ("base_strength", 1.0)],
        ["graph_image", "report", "block_strengths"],
    ),
    "WanVideoTokenReading": (
        ["model", "text_embeds", ("words", "each"), ("noise_levels", "0.6"), ("seed", 0), ("block_activations", "all"),
         "image_embeds", ("width", 832), ("height", 480), ("num_frames", 81), ("use_cache", True)],
        ["heat_map", "report"],
    ),
    "WanVideoControlVector": (
        ["model", "positive_embeds", "negative_embeds", ("site", "attention"), ("method", "mean_difference"),
         ("block_activations", "all"), ("steps", 8), ("seeds", 1), ("seed", 0), "image_embeds", ("width", 832),
         ("height", 480), ("num_frames", 81), ("use_cache", True), ("store_in_db", True)],
        ["control_vector", "info", "graph_image"],
    ),
    "WanVideoControlVectorApply": (
        ["model", "text_embeds", "control_vector", ("operation", "add"), ("strength", 1.0),
         ("block_activations", "all"), ("unit", "relative"), ("one_sided", True), ("angle", 20.0), ("radius", 1.0),
         ("tokens", "real"), "mask", "block_strengths", ("schedule", ""), ("start_percent", 0.0), ("end_percent", 1.0),
         ("branch", "cond"), ("log_level", "off")],
        ["model", "text_embeds"],
    ),
    "WanVideoControlVectorArithmetic": (
        ["base_vector", ("operation", "add"), "operand_1", ("weight_1", 1.0), "operand_2", ("weight_2", 1.0),
         "operand_3", ("weight_3", 1.0)],
        ["control_vector"],
    ),
    "WanVideoControlVectorTurn": (
        ["model", "text_embeds", "from_vector", "to_vector", ("angle", 0.0), ("block_activations", "all"),
         ("tokens", "real"), "mask", "block_strengths", ("schedule", ""), ("start_percent", 0.0), ("end_percent", 1.0),
         ("branch", "cond"), ("log_level", "off")],
        ["model", "text_embeds"],
    ),
    "WanVideoStoreControlVector": (["control_vector", ("name", ""), ("tags", ""), ("note", "")], ["control_vector"]),
    "WanVideoLoadControlVector": (["name"], ["control_vector", "info"]),
    "WanVideoCalibrateStrength": (
        ["model", "text_embeds", "control_vector", "injection_embeds", ("operation", "add"),
         ("block_activations", "all"), ("levels", 5), ("limit", 0.5)],
        ["strengths", "graph_image", "info"],
    ),
    "WanVideoLearnedTokens": (
        ["text_embeds", "name", ("position", "append"), ("weight", 1.0)],
        ["text_embeds"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("node_id", CONTRACT)
def test_ids_inputs_order_and_defaults_are_the_contract(nodes, node_id):
    schema = nodes[node_id].define_schema()
    inputs, outputs = CONTRACT[node_id]
    actual = [(i.id, i.default) if getattr(i, "default", None) is not None else i.id for i in schema.inputs]
    assert actual[: len(inputs)] == inputs
    assert all(i.optional for i in schema.inputs[len(inputs) :]), "new inputs are optional"
    assert [o.id for o in schema.outputs] == outputs


def test_combo_options_hold_every_name_of_the_contract(nodes):
    options = {
        (n, i.id): i.options for n, cls in nodes.items() for i in cls.define_schema().inputs if hasattr(i, "options")
    }
    assert options["WanVideoBlockActivationBuilder", "preset"] == ["custom", *PRESETS]
    assert options["WanVideoBlockStrengthBuilder", "pattern"] == ["custom", *PATTERNS]
    assert options["WanVideoActivationEditor", "log_level"] == ["off", "basic", "verbose", "trace"]
    assert options["WanVideoActivationEditor", "injection_mode"] == ["context", "hidden_states", "both"]


def test_texts_are_complete_and_plain(nodes):
    for node_id, cls in nodes.items():
        schema = cls.define_schema()
        assert schema.category.startswith("WanVideo/Activation Editor/")
        assert schema.display_name.startswith("WanVideo ")
        assert not re.search(r"Enhanced|Advanced|Ultimate", schema.display_name)
        assert schema.description, node_id
        for i in schema.inputs:
            assert i.tooltip, f"{node_id}.{i.id} has no tooltip"
            assert i.tooltip.isascii()


def test_forty_toggles_and_sliders_are_optional(nodes):
    for node_id in ("WanVideoBlockActivationBuilder", "WanVideoBlockStrengthBuilder"):
        required = [i.id for i in nodes[node_id].define_schema().inputs if not i.optional]
        assert required in (["preset"], ["pattern", "base_strength"])


def test_old_id_is_deprecated_but_there(nodes):
    assert nodes["WanVideoAdvancedActivationEditor"].define_schema().is_deprecated


# Builders


def test_builder_presets_win_over_toggles(nodes):
    build = nodes["WanVideoBlockActivationBuilder"].execute
    assert build("custom").args == (ZEROS,)
    assert build("custom", block_3=True, block_39=True, block_5=None).args == ("0001" + "0" * 35 + "1",)
    for preset in PRESETS:
        assert build(preset, block_3=True).args == (preset,)


def test_strength_builder(nodes):
    build = nodes["WanVideoBlockStrengthBuilder"].execute
    strengths, text = build("custom", 0.5, block_2_strength=0.25).args
    assert strengths == Explicit((0.0, 0.0, 0.25) + (0.0,) * 37)
    assert "1 of 40 blocks active, strength 0.25" in text
    strengths, _ = build("gaussian_peak", 0.7, 12, 3.0, 4, block_2_strength=0.25).args
    assert strengths == Pattern("gaussian_peak", 0.7, 12, 3.0, 4)
    with pytest.raises(ValueError, match=r"WanVideo Block Strength Builder: base strength .* not 1.5"):
        build("uniform", 1.5)


def test_strength_visualizer(nodes, monkeypatch, real_node_api):
    module = __import__("sys").modules[nodes["WanVideoStrengthVisualizer"].__module__]
    monkeypatch.setattr(module, "ui", SimpleNamespace(PreviewImage=lambda image, cls: {"images": image.shape}))
    text, image = nodes["WanVideoStrengthVisualizer"].execute(Pattern("linear_decay", 1.0), True, 6).args
    assert image.shape == (1, 400, 960, 3)
    assert len(text.splitlines()) == 6 + 3 + 4
    text, _ = nodes["WanVideoStrengthVisualizer"].execute([0.5] * 30, False, 6, block_count=30).args
    assert text.splitlines()[-1] == "30 of 30 blocks active, strength 0.5, preset all"
    with pytest.raises(ValueError, match="must come from WanVideo Block Strength Builder"):
        nodes["WanVideoStrengthVisualizer"].execute("0.5", True, 6)


# Editors


class Patcher:
    """What the nodes need of ComfyUI's ModelPatcher: shared model, options deep-copied by clone, wrappers."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.model = SimpleNamespace(diffusion_model=transformer, model_sampling=None)
        self.model_options: dict = {"transformer_options": {"other": [1]}}
        self.wrappers: dict = {}

    def clone(self) -> Patcher:
        new = Patcher(self.model.diffusion_model)
        new.model, new.model_options = self.model, copy.deepcopy(self.model_options)
        new.wrappers = copy.deepcopy(self.wrappers)
        return new

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)


@pytest.fixture(scope="module")
def model() -> Patcher:
    return Patcher(
        WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=8, text_dim=4096, ffn_dim=8, num_layers=6, freq_dim=8
        )
    )


def conditioning(seed: int, tokens: int = 6) -> list:
    cond = torch.zeros(1, 512, 4096)
    cond[0, :tokens] = torch.randn(tokens, 4096, generator=torch.Generator().manual_seed(seed))
    return [[cond, {"pooled_output": None}]]


MAIN, OTHER = conditioning(1), conditioning(2)


def edit(nodes, model, **changes):
    arguments = {
        "model": model,
        "text_embeds": MAIN,
        "injection_strength": 0.5,
        "block_activations": "1-3",
        "enable_patching": True,
        "log_level": "off",
        "injection_mode": "context",
        "injection_embeds": OTHER,
        **changes,
    }
    return nodes["WanVideoActivationEditor"].execute(**arguments).args


def stack(model):
    return stack_of(model.model_options["transformer_options"])


@pytest.mark.parametrize("level", ["off", "verbose", "trace"])
def test_what_the_editor_leaves_on_a_model_can_be_pickled(nodes, model, level):
    edited, _ = edit(nodes, model, log_level=level)
    options, wrappers = pickle.loads(pickle.dumps((edited.model_options, edited.wrappers)))  # noqa: S301
    assert stack_of(options["transformer_options"]).describe() == stack(edited).describe()
    assert wrappers == edited.wrappers


def test_the_editor_writes_the_stack_into_a_clone(nodes, model):
    edited, embeds = edit(nodes, model, start_percent=0.2, end_percent=0.8, branch="both", log_level="basic")
    assert edited is not model
    assert KEY not in model.model_options["transformer_options"]
    assert edited.model_options["transformer_options"]["other"] == [1]
    (only,) = stack(edited)
    assert only.strengths.resolve(6) == (0, 0.5, 0.5, 0.5, 0, 0)
    assert (only.window.start, only.window.end, only.branch, only.log_level) == (0.2, 0.8, "both", "basic")
    assert torch.equal(only.text.prompts[0], OTHER[0][0][0, :6])
    assert embeds[0][0] is MAIN[0][0]
    assert KEY not in MAIN[0][1]
    assert json.dumps(embeds[0][1][KEY]) == json.dumps(stack(edited).describe())
    assert {kind: list(keys) for kind, keys in edited.wrappers.items()} == {
        kind: [KEY] for kind in ("outer_sample", "calc_cond_batch", "apply_model")
    }


def test_the_schedule_of_the_editor_and_what_is_wrong_with_it(nodes, model):
    (only,) = stack(edit(nodes, model, schedule="0:0.2, 1:1")[0])
    assert only.schedule.points == ((0, 0.2), (1, 1))
    assert stack(edit(nodes, model)[0]).edits[0].schedule.is_constant
    for node in ("WanVideoActivationEditor", "WanVideoLatentInjector"):
        validate = nodes[node].validate_inputs
        assert validate(block_activations="all", schedule="0:1") is True and validate(schedule=None) is True
        assert "position 6: '2:1'" in validate(block_activations="all", schedule="0:1, 2:1")


def test_the_parts_of_the_editor_and_what_is_wrong_with_them(nodes, model):
    (only,) = stack(edit(nodes, model, tokens="real, 2:0.5", mask=torch.ones(1, 8, 8))[0])
    assert str(only.tokens) == "real, 2:0.5" and only.mask.values.shape == (1, 8, 8)
    assert "position 1: 'red'" in nodes["WanVideoActivationEditor"].validate_inputs(tokens="red")
    with pytest.raises(ValueError, match=r"WanVideo Activation Editor: tokens: .* Connect text_encoder and prompt"):
        edit(nodes, model, tokens="word 2")
    with pytest.raises(ValueError, match="Connect text_encoder, or give"):
        edit(nodes, model, tokens="word 2", prompt="a red fox")
    with pytest.raises(ValueError, match="tokens are of the text"):
        edit(nodes, model, tokens="2", injection_mode="both")


@pytest.mark.parametrize(
    ("mode", "sites"), [("context", ["context"]), ("hidden_states", ["hidden"]), ("both", ["context", "hidden"])]
)
def test_the_mode_chooses_what_is_edited(nodes, model, mode, sites):
    edits = stack(edit(nodes, model, injection_mode=mode)[0]).edits
    assert [e.site for e in edits] == sites
    assert all(e.strengths.resolve(6) == (0, 0.5, 0.5, 0.5, 0, 0) for e in edits)


def test_two_editors_append_and_install_one_wrapper(nodes, model):
    first, embeds = edit(nodes, model)
    second, _ = edit(nodes, first, text_embeds=embeds, block_activations="0")
    assert len(stack(first)) == 1
    assert [e.strengths.active_blocks(6) for e in stack(second)] == [[1, 2, 3], [0]]
    assert all(len(wrappers[KEY]) == 1 for wrappers in second.wrappers.values())


@pytest.mark.parametrize(
    "changes",
    [{"enable_patching": False, "block_activations": "9"}, {"block_activations": ZEROS}, {"injection_strength": 0.0}],
)
def test_what_changes_nothing_hands_back_the_inputs(nodes, model, changes):
    edited, embeds = edit(nodes, model, **changes)
    assert edited is model
    assert embeds is MAIN


def test_block_strengths_alone_choose_the_blocks_and_a_selection_masks_them(nodes, model):
    curve = Explicit((0.2, 0.4, 0.6))
    (alone,) = stack(edit(nodes, model, block_activations=ZEROS, block_strengths=curve, injection_strength=1.0)[0])
    assert alone.strengths.resolve(6) == (0.2, 0.4, 0.6, 0, 0, 0)
    assert edit(nodes, model, block_activations="none", block_strengths=curve)[0] is model
    (masked,) = stack(edit(nodes, model, block_activations="1:0.5, 5", block_strengths=curve)[0])
    assert masked.strengths.resolve(6) == (0, 0.4 * 0.5 * 0.5, 0, 0, 0, 0)


def test_the_per_block_editor_takes_its_strength_from_block_strengths_else_uniform(nodes, model):
    execute = nodes["WanVideoAdvancedActivationEditor"].execute
    (uniform,) = stack(execute(model, MAIN, "1", True, OTHER, uniform_strength=0.3).args[0])
    assert uniform.strengths.resolve(6) == (0, 0.3, 0, 0, 0, 0)
    (curve,) = stack(execute(model, MAIN, ZEROS, True, OTHER, Explicit((0.9,)), uniform_strength=0.3).args[0])
    assert curve.strengths.resolve(6) == (0.9, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_activations": "1, 2-"}, r"position 4: '2-'"),
        ({"block_activations": "6"}, r"Block 6 .* has 6 blocks \(0 to 5\)"),
        ({"block_strengths": [0.1] * 7, "block_activations": ZEROS}, "Block 6"),
        ({"injection_strength": 1.2}, "from 0 to 1"),
        ({"injection_strength": float("nan")}, "from 0 to 1"),
        ({"injection_embeds": None}, "injection_embeds is not connected"),
        ({"injection_embeds": torch.ones(1, 4, 64)}, "64 wide, but .* 4096"),
        ({"injection_embeds": torch.ones(1, 513, 4096)}, "injection_embeds.* 513 tokens"),
        ({"injection_embeds": [*OTHER, *OTHER]}, "2 prompts are injected into 1"),
        ({"text_embeds": [[torch.ones(1, 4, 768), {}]]}, "text_embeds is 768 wide, but .* 4096"),
        ({"text_embeds": {"prompt_embeds": [MAIN[0][0][0]]}}, "Connect CONDITIONING"),
        ({"start_percent": 0.5, "end_percent": 0.2}, "window runs from 0.5 to 0.2"),
    ],
)
def test_bad_input_names_the_node_and_the_remedy(nodes, model, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"^WanVideo Activation Editor.*{message}"):
        edit(nodes, model, **changes)


def test_no_wan_model(nodes):
    with pytest.raises(ValueError, match="Linear is not a Wan model"):
        edit(nodes, Patcher(torch.nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"expected WANVIDEOMODEL .* got str"):
        edit(nodes, "model")


def test_echoshot_prompts_of_other_lengths_are_refused():
    def check(echoshot: bool, main: list[int], injected: list[int]) -> None:
        embeds = [read_text_embeds([torch.randn(n, 64) for n in counts]) for counts in (main, injected)]
        wan_video_wrapper.check_prompts(replace(embeds[0], echoshot=echoshot), embeds[1], "Edit")

    check(True, [4, 5], [4, 5])
    check(True, [4, 4], [4])
    check(False, [4, 5], [9])
    with pytest.raises(ValueError, match=r"token counts \[4, 5\], but the injected prompt has \[4, 6\]"):
        check(True, [4, 5], [4, 6])


def test_prompts_that_are_alike_are_told(nodes, model, caplog):
    edit(nodes, model, injection_embeds=[[MAIN[0][0] * 1.001, {}]])
    assert "nearly alike" in caplog.text
    caplog.clear()
    edit(nodes, model)
    assert caplog.text == ""


def test_malformed_selections_fail_validation_before_anything_runs(nodes):
    for node_id in ("WanVideoActivationEditor", "WanVideoAdvancedActivationEditor", "WanVideoBlockActivationViewer"):
        validate = nodes[node_id].validate_inputs
        assert validate("10-29:0.6") is True
        assert validate(None) is True, "linked"
        assert "position 3: 'x'" in validate("1 x")


def test_viewer(nodes, model):
    view = nodes["WanVideoBlockActivationViewer"].execute
    edited, embeds = edit(nodes, model, block_activations="first_half")
    (text,) = view(edited, True, text_embeds=embeds).args
    assert "6 blocks" in text
    assert "3 of 6 blocks active, strength 0.5, preset first_half" in text
    assert "▒ ▒ ▒ □ □ □" in text
    assert "1 edit(s) described" in text
    assert "▒" not in view(edited, False).args[0]
    assert "preset alternating" in view(model, True, "even").args[0]
    assert "carries no edit" in view(model, True).args[0]


def test_injection_tester_without_edits_says_what_to_connect(nodes, model):
    (text,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(model), MAIN, True).args
    assert "carries no edit" in text


class SamplingPatcher(Patcher):
    """Gives the transformer the name of ComfyUI's projection, whose layout the tester reads."""

    def __init__(self, model: Patcher) -> None:
        super().__init__(model.model.diffusion_model)
        embedder = self.model.diffusion_model.condition_embedder.text_embedder
        layers = torch.nn.Sequential(embedder.linear_1, torch.nn.GELU("tanh"), embedder.linear_2)
        object.__setattr__(self.model.diffusion_model, "text_embedding", layers)
        self.model_options = copy.deepcopy(model.model_options)


def test_injection_tester_measures_before_and_after_the_model_s_own_projection(nodes, model):
    from wanvideo_activation_editor.embeddings.difference import difference

    edited, _ = edit(nodes, model)
    (text,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(edited), MAIN, True).args
    project = model.model.diffusion_model.condition_embedder.text_embedder
    a, b = project(MAIN[0][0])[0].detach(), project(OTHER[0][0])[0].detach()
    for line, expected in (
        ("Before projection, real tokens", difference(MAIN[0][0][0, :6], OTHER[0][0][0, :6])),
        ("After projection, real tokens", difference(a[:6], b[:6])),
        ("After projection, all 512 rows", difference(a, b)),
    ):
        (found,) = [x for x in text.splitlines() if line in x]
        l2, share = re.search(r"relative L2 ([\d.]+), .* 0.01: ([\d.]+)%", found).groups()
        assert float(l2) == pytest.approx(expected.relative_l2, abs=2e-4)
        assert float(share) == pytest.approx(100 * expected.changed_share, abs=0.1)
    (short,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(edited), MAIN, False).args
    assert "different enough" in short
    assert "After" not in short


def test_injection_tester_tells_what_the_blocks_read(nodes, model):
    """After transforms and strength, and with the dimensions that differ most; the answer is computed by hand."""
    from wanvideo_activation_editor.embeddings.difference import difference

    project = model.model.diffusion_model.condition_embedder.text_embedder
    main, other = MAIN[0][0][0, :6], OTHER[0][0][0, :6]
    a, b = project(main).detach(), project(other).detach()
    edited, _ = edit(nodes, model, injection_strength=0.5)
    (text,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(edited), MAIN, True).args
    (line,) = [x for x in text.splitlines() if "Read by the blocks at strength 0.5, real" in x]
    wanted = difference(a, torch.lerp(a, b, 0.5)).relative_l2
    assert float(re.search(r"relative L2 ([\d.]+)", line)[1]) == pytest.approx(wanted, abs=2e-4)
    (line,) = [x for x in text.splitlines() if "Dimensions that differ most" in x]
    most = int((other - main).abs().mean(dim=0).argmax())
    assert re.search(r": (\d+) ", line)[1] == str(most)


def test_the_injection_tester_measures_a_boost(nodes, model):
    edited, _ = edit(nodes, model)
    stack = edited.model_options["transformer_options"][KEY]
    edited.model_options["transformer_options"][KEY] = replace(stack, transforms=(Boost(10.0, False),))
    (text,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(edited), MAIN, True).args
    found = [float(re.search(r"relative L2 ([\d.]+)", x)[1]) for x in text.splitlines() if "real tokens: " in x]
    assert found[-1] == pytest.approx(0.5 * 10 * found[-2], rel=1e-3)


def test_the_verdict_is_of_what_is_left_after_transforms_and_schedule(nodes, model):
    """Prompts that are nearly alike, forced apart, are told as what the blocks read; a low schedule as little."""
    alike = [[MAIN[0][0] * 1.01, {}]]
    edited, _ = edit(nodes, model, injection_embeds=alike)
    stack = edited.model_options["transformer_options"][KEY]

    def told(stack) -> str:
        edited.model_options["transformer_options"][KEY] = stack
        (text,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(edited), MAIN, True).args
        return next(line for line in text.splitlines() if "Verdict" in line)

    assert "nearly alike" in told(stack)
    assert "different enough" in told(replace(stack, transforms=(Boost(50.0, False),)))
    edited, _ = edit(nodes, model, schedule="0:0.01, 1:0.02")
    assert "expect a small effect: strength 0.0" in told(edited.model_options["transformer_options"][KEY])


def test_the_tester_counts_the_tokens_that_are_edited(nodes, model):
    found = []
    for tokens in ("real", "1", "7"):
        edited, _ = edit(nodes, model, tokens=tokens)
        (text,) = nodes["WanVideoInjectionTester"].execute(SamplingPatcher(edited), MAIN, True).args
        (line,) = [x for x in text.splitlines() if "Read by the blocks" in x]
        found.append(float(re.search(r"relative L2 ([\d.]+)", line)[1]))
    assert found[0] > found[1] > found[2] == 0


def test_replacements_name_inputs_and_outputs_that_exist(nodes):
    for replacement in REPLACEMENTS:
        assert replacement["old_node_id"] not in nodes
        schema = nodes[replacement["new_node_id"]].define_schema()
        inputs = {i.id for i in schema.inputs}
        required = {i.id for i in schema.inputs if not i.optional}
        mapped = {m["new_id"] for m in replacement["input_mapping"]}
        assert required <= mapped <= inputs
        assert {m["new_idx"] for m in replacement["output_mapping"]} <= set(range(len(schema.outputs)))
