"""The embedding nodes against the contract, and what they hand to samplers."""

from __future__ import annotations

import re

import pytest
import torch
from wanvideo_activation_editor.embeddings.amplification import amplify, measure
from wanvideo_activation_editor.embeddings.arithmetic import difference_vector
from wanvideo_activation_editor.embeddings.difference import difference
from wanvideo_activation_editor.embeddings.interpolation import slerp
from wanvideo_activation_editor.patching.edit import KEY
from wanvideo_activation_editor.patching.strengths import Explicit
from wanvideo_activation_editor.patching.transforms import Boost, ForceDifference

from .test_nodes import SamplingPatcher, conditioning, edit, model, nodes, stack

__all__ = ["model", "nodes"]  # fixtures

MAIN, OTHER = conditioning(1), conditioning(2)

CONTRACT = {
    "WanVideoEmbeddingAnalyzer": (
        ["text_embeds", ("analysis_type", "all"), ("store_in_db", True)],
        ["analysis_report", "text_embeds"],
    ),
    "WanVideoVectorDifference": (
        ["text_embeds_a", "text_embeds_b", ("normalize", False), ("scale", 1.0)],
        ["difference_vector"],
    ),
    "WanVideoVectorArithmetic": (
        ["base_embeds", ("operation", "add"), "operand_1", ("weight_1", 1.0), "operand_2", ("weight_2", 1.0),
         "operand_3", ("weight_3", 1.0)],
        ["result_embeds"],
    ),
    "WanVideoVectorInterpolation": (
        ["start_embeds", "end_embeds", ("steps", 5), ("method", "linear"), ("include_endpoints", True)],
        ["interpolated_sequence"],
    ),
    "WanVideoSequenceSelect": (["sequence", ("step", 0)], ["text_embeds", "all_steps"]),
    "WanVideoEmbeddingAmplifier": (
        ["main_embeds", "injection_embeds", ("target_difference", 60.0), ("amplification_mode", "push_apart"),
         ("metric", "changed_share")],
        ["amplified_injection", "info"],
    ),
    "WanVideoProjectionBooster": (
        ["model", "text_embeds", "injection_embeds", ("boost_factor", 10.0), ("preserve_norm", True)],
        ["model", "text_embeds", "info"],
    ),
    "WanVideoDirectInjector": (
        ["model", "text_embeds", ("injection_prompt", ""), ("difference_target", 50.0), ("injection_mode", "blend"),
         ("block_activations", "mid_blocks"), "injection_embeds"],
        ["model", "text_embeds"],
    ),
}  # fmt: skip

OPTIONS = {
    ("WanVideoEmbeddingAnalyzer", "analysis_type"): ["statistics", "shape", "pca_preview", "all"],
    ("WanVideoVectorArithmetic", "operation"): ["add", "weighted_sum", "multiply", "normalize"],
    ("WanVideoVectorInterpolation", "method"): ["linear", "spherical", "cubic"],
    ("WanVideoEmbeddingAmplifier", "amplification_mode"): ["push_apart", "maximize_diff", "orthogonalize"],
    ("WanVideoEmbeddingAmplifier", "metric"): ["changed_share", "relative_l2", "cosine"],
    ("WanVideoDirectInjector", "injection_mode"): ["additive", "replace", "blend"],
}

RANGES = {
    ("WanVideoVectorDifference", "scale"): (-10, 10),
    ("WanVideoVectorArithmetic", "weight_3"): (-10, 10),
    ("WanVideoVectorInterpolation", "steps"): (2, 20),
    ("WanVideoEmbeddingAmplifier", "target_difference"): (30, 90),
    ("WanVideoProjectionBooster", "boost_factor"): (1, 50),
    ("WanVideoDirectInjector", "difference_target"): (10, 90),
}


@pytest.mark.parametrize("node_id", CONTRACT)
def test_ids_inputs_order_and_defaults_are_the_contract(nodes, node_id):
    schema = nodes[node_id].define_schema()
    inputs, outputs = CONTRACT[node_id]
    actual = [(i.id, i.default) if getattr(i, "default", None) is not None else i.id for i in schema.inputs]
    assert actual[: len(inputs)] == inputs
    assert all(i.optional for i in schema.inputs[len(inputs) :]), "new inputs are optional"
    assert [o.id for o in schema.outputs] == outputs


def test_options_and_ranges_are_the_contract(nodes):
    found = {(n, i.id): i for n in CONTRACT for i in nodes[n].define_schema().inputs}
    assert {key: found[key].options for key in OPTIONS} == OPTIONS
    assert {key: (found[key].min, found[key].max) for key in RANGES} == RANGES


def embeds(seed: int, tokens: int = 6, prompts: int = 1, dtype=torch.float32, scale: float = 1.0, **keys) -> dict:
    """WANVIDEOTEXTEMBEDS as the wrapper's encoder returns them, with more keys beside."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [(torch.randn(tokens, 4096, generator=generator) * scale).to(dtype) for _ in range(prompts)]
    return {"prompt_embeds": tensors, "negative_prompt_embeds": [torch.ones(2, 4096)], "echoshot": False, **keys}


def run(nodes, node_id, *args, **kwargs):
    return nodes[node_id].execute(*args, **kwargs).args


NAG = {"nag_prompt_embeds": [torch.ones(3, 4096)], "nag_params": {"nag_scale": 11}}


# Vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_keep_the_bases_other_keys_and_dtype(nodes, dtype):
    a, b = embeds(1, dtype=dtype, prompt="a castle", **NAG), embeds(2, 9, prompt="a beach")
    (difference,) = run(nodes, "WanVideoVectorDifference", a, b, False, 2.0)
    (added,) = run(nodes, "WanVideoVectorArithmetic", a, "add", b, 0.5)
    (sequence,) = run(nodes, "WanVideoVectorInterpolation", a, b, 3, "linear", True)
    for result in (difference, added, sequence):
        assert all(result[key] is a[key] for key in a if key not in ("prompt_embeds", "prompt"))
        assert {t.dtype for t in result["prompt_embeds"]} == {dtype}
        assert all(t.shape == (9, 4096) for t in result["prompt_embeds"])
    assert difference["prompt"] == '2 * ("a castle" - "a beach")'
    assert added["prompt"] == '"a castle" + 0.5 * "a beach"'
    assert sequence["prompt"] == '"a castle" to "a beach" in 3 steps (linear)'
    expected = difference_vector(a["prompt_embeds"][0], b["prompt_embeds"][0], scale=2.0)
    assert torch.equal(difference["prompt_embeds"][0], expected)
    assert a["prompt"] == "a castle", "the input is not changed"


def test_conditioning_stays_padded_conditioning(nodes):
    (result,) = run(nodes, "WanVideoVectorDifference", MAIN, OTHER, True, 1.0)
    ((tensor, extra),) = result
    assert tensor.shape == (1, 512, 4096)
    assert torch.allclose(tensor[0, :6].norm(dim=-1), torch.ones(6))
    assert not tensor[0, 6:].any()
    assert extra == {"pooled_output": None, "prompt": "unit(text_embeds_a - text_embeds_b)"}


def test_the_bridges_padded_tensor_stays_one(nodes):
    bridge = {"prompt_embeds": MAIN[0][0], "negative_prompt_embeds": OTHER[0][0]}
    (result,) = run(nodes, "WanVideoVectorArithmetic", bridge, "weighted_sum", OTHER, 1.0)
    assert result["prompt_embeds"].shape == (1, 512, 4096)
    assert torch.allclose(result["prompt_embeds"], (MAIN[0][0] + OTHER[0][0]) / 2)


@pytest.mark.parametrize(
    ("operation", "weights", "text"),
    [
        ("add", (1.0, -0.5), "base_embeds + operand_1 - 0.5 * operand_3"),
        ("weighted_sum", (3.0, -1.0), "(base_embeds + 3 * operand_1 - operand_3) / 5"),
        ("multiply", (2.0, 1.0), "base_embeds x 2 * operand_1 x operand_3"),
        ("normalize", (1.0, 1.0), "unit(base_embeds + operand_1 + operand_3)"),
    ],
)
def test_arithmetic_takes_any_operands_and_says_what_it_did(nodes, operation, weights, text):
    a, b, c = embeds(1), embeds(2), embeds(3)
    (result,) = run(
        nodes, "WanVideoVectorArithmetic", a, operation, b, weights[0], None, 7.0, operand_3=c, weight_3=weights[1]
    )
    x, y, z = (e["prompt_embeds"][0] for e in (a, b, c))
    total = x + weights[0] * y + weights[1] * z
    expected = {
        "add": total,
        "weighted_sum": total / (1 + sum(map(abs, weights))),
        "multiply": x * (weights[0] * y) * (weights[1] * z),
        "normalize": total / total.norm(dim=-1, keepdim=True),
    }[operation]
    assert torch.allclose(result["prompt_embeds"][0], expected, atol=1e-5)
    assert result["prompt"] == text


def test_prompts_are_combined_one_by_one(nodes):
    a, b = embeds(1, prompts=3), embeds(2, prompts=3)
    (result,) = run(nodes, "WanVideoVectorDifference", a, b, False, 1.0)
    for x, y, z in zip(a["prompt_embeds"], b["prompt_embeds"], result["prompt_embeds"], strict=True):
        assert torch.equal(z, x - y)


def test_descriptions_nest(nodes):
    a, b, beach = embeds(1, prompt="dusk"), embeds(2, prompt="day"), embeds(3, prompt="beach")
    (style,) = run(nodes, "WanVideoVectorDifference", a, b, False, 1.0)
    (result,) = run(nodes, "WanVideoVectorArithmetic", beach, "add", style, 0.5)
    assert result["prompt"] == '"beach" + 0.5 * ("dusk" - "day")'


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (embeds(1), embeds(2, prompts=2), r"text_embeds_a has 1 prompt, text_embeds_b has 2 prompts"),
        (
            embeds(1),
            {"prompt_embeds": [torch.ones(3, 5120)]},
            r"text_embeds_a is 4096 wide \(raw T5 embeddings\), text_embeds_b is 5120 wide \(projected",
        ),
        (embeds(1), "a cat", r"text_embeds_b: expected text embeddings .* got str"),
        (embeds(1), {"prompt_embeds": [torch.ones(0, 4096)]}, r"text_embeds_b, prompt 1: holds no token"),
        (embeds(1), embeds(2, dtype=torch.float8_e4m3fn), "text_embeds_b, prompt 1: is torch.float8_e4m3fn"),
        (embeds(1), {"prompt_embeds": [torch.full((2, 4096), float("nan"))]}, r"text_embeds_b, prompt 1: holds NaN"),
        (
            embeds(1, dtype=torch.float16, scale=1e4),
            embeds(2, scale=1e4),
            "text_embeds_a, prompt 1: holds values up to",
        ),
    ],
)
def test_bad_inputs_are_named(nodes, a, b, message):
    with pytest.raises((ValueError, TypeError), match=f"^WanVideo Vector Difference: {message}"):
        run(nodes, "WanVideoVectorDifference", a, b, False, 4.0)


def test_more_than_512_tokens_are_cut_with_a_warning(nodes, caplog):
    (result,) = run(nodes, "WanVideoVectorDifference", embeds(1, 520), embeds(2, 4), False, 1.0)
    assert result["prompt_embeds"][0].shape == (512, 4096)
    assert "text_embeds_a, prompt 1: has 520 tokens; those after the first 512 are cut" in caplog.text


def test_a_cut_prompt_is_not_padded_beyond_what_the_wrapper_reads(nodes):
    padded = {"prompt_embeds": embeds(1, 600)["prompt_embeds"][0][None]}
    (result,) = run(nodes, "WanVideoVectorDifference", padded, embeds(2, 4), False, 1.0)
    assert result["prompt_embeds"].shape == (1, 512, 4096)


def test_interpolation_plays_in_the_wrapper_and_a_step_can_be_selected(nodes):
    a, b = embeds(1, prompts=2, prompt="dusk", **NAG), embeds(2, prompts=2, prompt="day")
    (sequence,) = run(nodes, "WanVideoVectorInterpolation", a, b, 4, "spherical", True)
    assert len(sequence["prompt_embeds"]) == 8
    assert len(sequence["interpolated_sequence"]) == 8
    for step in range(4):
        chosen, every = run(nodes, "WanVideoSequenceSelect", sequence, step)
        assert len(every) == 4
        assert chosen["prompt"] == f'spherical("dusk", "day", {step / 3:.3g})'
        assert set(chosen) == {*a, "prompt"}
        for p in range(2):
            expected = slerp(a["prompt_embeds"][p], b["prompt_embeds"][p], step / 3)
            assert torch.equal(chosen["prompt_embeds"][p], expected)
    assert torch.equal(sequence["prompt_embeds"][1], a["prompt_embeds"][1])
    assert torch.equal(sequence["prompt_embeds"][-1], b["prompt_embeds"][1])


def test_interpolated_conditioning_divides_sampling(nodes):
    (sequence,) = run(nodes, "WanVideoVectorInterpolation", MAIN, OTHER, 2, "cubic", False)
    assert [(e["start_percent"], e["end_percent"]) for _, e in sequence] == [(0.0, 0.5), (0.5, 1.0)]
    chosen, every = run(nodes, "WanVideoSequenceSelect", sequence, 1)
    assert chosen is every[1]
    assert set(chosen[0][1]) == {"pooled_output", "prompt"}
    assert torch.equal(chosen[0][0], sequence[1][0])


def test_combined_sequences_are_refused(nodes):
    sequences = [run(nodes, "WanVideoVectorInterpolation", MAIN, OTHER, n, "linear", True)[0] for n in (3, 5)]
    for combined in (sequences[0] + sequences[1], sequences[1] + sequences[0]):
        with pytest.raises(ValueError, match=r"^WanVideo Sequence Select: sequence: holds several sequences"):
            run(nodes, "WanVideoSequenceSelect", combined, 0)


def test_selecting_beyond_the_sequence_or_from_none_is_an_error(nodes):
    (sequence,) = run(nodes, "WanVideoVectorInterpolation", MAIN, OTHER, 2, "linear", True)
    with pytest.raises(ValueError, match=r"^WanVideo Sequence Select: step is 2, but .* 2 steps \(0 to 1\)"):
        run(nodes, "WanVideoSequenceSelect", sequence, 2)
    with pytest.raises(ValueError, match="Connect the output of WanVideo Vector Interpolation"):
        run(nodes, "WanVideoSequenceSelect", MAIN, 0)
    with pytest.raises(ValueError, match=r"^WanVideo Vector Interpolation: EchoShot"):
        run(nodes, "WanVideoVectorInterpolation", embeds(1) | {"echoshot": True}, embeds(2), 3, "linear", True)


# Analyzer


def test_the_analyzer_passes_the_embeds_on_and_reports(nodes):
    value = embeds(1, 9, prompt="a castle")
    report, passed = run(nodes, "WanVideoEmbeddingAnalyzer", value, "all", True)
    assert passed is value
    for part in ("a castle", "9 tokens x 4096, float32 on cpu", "L2 norm", "effective rank"):
        assert part in report
    for kind, part in (("shape", "6 tokens"), ("statistics", "Near zero"), ("pca_preview", "95%")):
        report, _ = run(nodes, "WanVideoEmbeddingAnalyzer", MAIN, kind, False)
        assert part in report
        assert len(report.splitlines()) <= 4
        assert "store" not in report
    with pytest.raises(ValueError, match="analysis_type must be one of"):
        run(nodes, "WanVideoEmbeddingAnalyzer", value, "everything", False)


# Amplifier


def test_the_amplifier_reaches_its_target_and_says_so(nodes):
    main, injection = embeds(1, scale=0.2), embeds(1, scale=0.2, **NAG)
    injection["prompt_embeds"][0] = injection["prompt_embeds"][0] + 0.05 * embeds(2, scale=0.2)["prompt_embeds"][0]
    result, info = run(nodes, "WanVideoEmbeddingAmplifier", main, injection, 60.0, "push_apart")
    a, b = main["prompt_embeds"][0], result["prompt_embeds"][0]
    reached = 100 * ((a - b).abs() > 0.01).float().mean().item()
    assert reached == pytest.approx(60, abs=0.5)
    assert f"{reached:.2f}% after, moved away from the main prompt" in info
    assert torch.allclose(b.norm(dim=-1), injection["prompt_embeds"][0].norm(dim=-1))
    assert result["nag_params"] is NAG["nag_params"]
    assert result["prompt"] == "injection_embeds, push_apart to 60% (changed_share)"
    same, info = run(nodes, "WanVideoEmbeddingAmplifier", main, result, 60.0, "push_apart")
    assert same is result
    assert "already at the target" in info


def test_the_amplifier_works_prompt_by_prompt_on_conditioning_and_on_wrapper_embeds(nodes):
    main, other = embeds(1, prompts=2), embeds(2, prompts=2)
    result, info = run(nodes, "WanVideoEmbeddingAmplifier", main, other, 80.0, "orthogonalize", "cosine")
    for a, b in zip(main["prompt_embeds"], result["prompt_embeds"], strict=True):
        assert measure(a, b, "cosine") == pytest.approx(80, abs=0.5)
    assert "Prompt 2: 100" in info
    (tensor, _), *_ = run(nodes, "WanVideoEmbeddingAmplifier", MAIN, OTHER, 80.0, "push_apart", "relative_l2")[0]
    assert tensor.shape == (1, 512, 4096)
    expected = amplify(MAIN[0][0][0, :6], OTHER[0][0][0, :6], 80, "push_apart", "relative_l2").embedding
    assert torch.equal(tensor[0, :6], expected)


def test_the_amplifier_names_what_is_wrong(nodes):
    name = "^WanVideo Embedding Amplifier: "
    with pytest.raises(ValueError, match=name + "main_embeds and injection_embeds are identical"):
        run(nodes, "WanVideoEmbeddingAmplifier", MAIN, MAIN, 60.0, "push_apart")
    with pytest.raises(ValueError, match=name + "injection_embeds has 1 prompt, main_embeds has 2 prompts"):
        run(nodes, "WanVideoEmbeddingAmplifier", embeds(1, prompts=2), embeds(2), 60.0, "push_apart")
    half = embeds(1, prompts=2)
    half["prompt_embeds"] = [half["prompt_embeds"][0].clone(), half["prompt_embeds"][1].clone()]
    half["prompt_embeds"][0][0] += 1
    with pytest.raises(ValueError, match=name + r"prompt 1: the target of 60% .* at most 16\.\d%"):
        run(nodes, "WanVideoEmbeddingAmplifier", embeds(1, prompts=2), half, 60.0, "push_apart")


# Booster


@pytest.mark.parametrize("first", ["booster", "editor"])
def test_the_booster_reaches_every_edit_on_either_side(nodes, model, first):
    if first == "booster":
        boosted, passed, info = run(nodes, "WanVideoProjectionBooster", SamplingPatcher(model), MAIN, OTHER, 10.0, True)
        assert "an editor has to follow" in info
        edited, described = edit(nodes, boosted, text_embeds=passed)
    else:
        edited, passed = edit(nodes, model)
        edited, described, info = run(
            nodes, "WanVideoProjectionBooster", SamplingPatcher(edited), passed, OTHER, 10.0, True
        )
        assert "1 so far" in info
    assert stack(edited).transforms == (Boost(10.0, True),)
    assert len(stack(edited)) == 1
    assert described[0][1][KEY]["transforms"] == ["boost 10, norms kept"]
    assert KEY not in model.model_options["transformer_options"]
    (text,) = run(nodes, "WanVideoBlockActivationViewer", edited, False)
    assert "after projection: boost 10, norms kept" in text


def test_hidden_edits_are_not_counted_or_reported_as_boosted(nodes, model):
    edited, passed = edit(nodes, model, injection_mode="hidden_states")
    boosted, _, info = run(nodes, "WanVideoProjectionBooster", SamplingPatcher(edited), passed, OTHER, 10.0, True)
    assert "0 so far; an editor has to follow" in info
    assert "after projection" not in run(nodes, "WanVideoBlockActivationViewer", boosted, False)[0]


def test_a_boost_of_one_passes_everything_on(nodes, model):
    boosted, passed, info = run(nodes, "WanVideoProjectionBooster", model, MAIN, OTHER, 1.0, False)
    assert boosted is model
    assert passed is MAIN
    assert "changes nothing" in info


def test_booster_info_measures_with_the_models_own_projection(nodes, model):
    _, _, info = run(nodes, "WanVideoProjectionBooster", SamplingPatcher(model), MAIN, OTHER, 8.0, False)
    project = model.model.diffusion_model.condition_embedder.text_embedder
    a, b = (project(x[0][0])[0, :6].detach() for x in (MAIN, OTHER))
    for line, expected in (("projection", difference(a, b)), ("boosted", difference(a, a + 8 * (b - a)))):
        (found,) = [x for x in info.splitlines() if f"After projection{', boosted' * (line == 'boosted')}:" in x]
        share = float(re.search(r"0.01: ([\d.]+)%", found).group(1))
        assert share == pytest.approx(100 * expected.changed_share, abs=0.1)
        assert float(re.search(r"relative L2 ([\d.]+)", found).group(1)) == pytest.approx(
            expected.relative_l2, rel=1e-2
        )


def test_unreadable_weights_are_measured_while_sampling(nodes, model):
    patcher = SamplingPatcher(model)
    meta = torch.nn.Sequential(torch.nn.Linear(4096, 8, device="meta"), torch.nn.GELU(), torch.nn.Linear(8, 8))
    object.__setattr__(patcher.model.diffusion_model, "text_embedding", meta)
    _, _, info = run(nodes, "WanVideoProjectionBooster", patcher, MAIN, OTHER, 8.0, False)
    assert "at the first sampled step" in info


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"injection_embeds": embeds(1, prompts=2)}, "injection_embeds has 2 prompts, text_embeds 1"),
        ({"injection_embeds": {"prompt_embeds": [torch.ones(2, 64)]}}, "injection_embeds is 64 wide, .* 4096"),
        ({"boost_factor": float("nan")}, "boost_factor must be a number above 0, not nan"),
        ({"text_embeds": embeds(1)}, "Connect CONDITIONING"),
    ],
)
def test_booster_errors(nodes, model, changes, message):
    arguments = {"text_embeds": MAIN, "injection_embeds": OTHER, "boost_factor": 10.0, "preserve_norm": True, **changes}
    with pytest.raises(ValueError, match=f"^WanVideo Projection Booster: .*{message}"):
        run(nodes, "WanVideoProjectionBooster", model, **arguments)


# Direct injector


def force(nodes, model, **changes):
    arguments = {
        "text_embeds": MAIN,
        "injection_prompt": "",
        "difference_target": 40.0,
        "injection_mode": "blend",
        "block_activations": "1-3:0.5",
        "injection_embeds": OTHER,
        **changes,
    }
    return run(nodes, "WanVideoDirectInjector", model, **arguments)


def test_the_direct_injector_adds_a_forced_edit(nodes, model):
    edited, passed = force(nodes, model, start_percent=0.1, branch="both", block_strengths=Explicit((1.0, 0.5, 0.5)))
    (only,) = stack(edited)
    assert only.transforms == (ForceDifference("blend", 0.4),)
    assert only.strengths.resolve(6) == (0, 0.25, 0.25, 0, 0, 0)
    assert (only.window.start, only.branch) == (0.1, "both")
    assert passed[0][1][KEY]["edits"][0]["transforms"] == ["force 40% (blend)"]
    again, _ = edit(nodes, edited, block_activations="5")
    assert [len(e.transforms) for e in stack(again)] == [1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"injection_embeds": None, "injection_prompt": "moon"},
            r"Connect injection_embeds .* or store an embedding under injection_prompt \('moon'\)",
        ),
        ({"injection_embeds": MAIN}, "text_embeds and injection_embeds are identical"),
        ({"block_activations": "6"}, r"Block 6 .* has 6 blocks"),
        ({"block_activations": "1, x"}, "position 4: 'x'"),
        ({"difference_target": 100.0}, "difference_target must be above 0% and below 100%"),
        ({"injection_mode": "lerp"}, "injection_mode must be one of additive, replace, blend"),
        ({"injection_embeds": embeds(1, prompts=2)}, "injection_embeds has 2 prompts, text_embeds 1"),
        ({"start_percent": 0.5, "end_percent": 0.2}, "window runs from 0.5 to 0.2"),
    ],
)
def test_direct_injector_errors(nodes, model, changes, message):
    with pytest.raises(ValueError, match=f"^WanVideo Direct Injector.*{message}"):
        force(nodes, model, **changes)


def test_the_direct_injector_compares_every_prompt(nodes, model):
    with pytest.raises(ValueError, match="identical, prompt 2"):
        force(nodes, model, text_embeds=OTHER + MAIN, injection_embeds=conditioning(3) + MAIN)


def test_malformed_selections_fail_validation(nodes):
    assert nodes["WanVideoDirectInjector"].validate_inputs("3-") == nodes["WanVideoActivationEditor"].validate_inputs(
        "3-"
    )
    assert nodes["WanVideoDirectInjector"].validate_inputs("3-4:0.5") is True
