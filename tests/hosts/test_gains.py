"""Weights of words, and gains of the streams that blocks get."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from wanvideo_activation_editor.patching.edit import EditStack
from wanvideo_activation_editor.patching.gains import gain_edit, streams_of, word_gains
from wanvideo_activation_editor.patching.hosts.diffusers import edited, inject
from wanvideo_activation_editor.patching.operations import Scale
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.sources import Zero
from wanvideo_activation_editor.patching.tokens import TokensError, parse_tokens
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds
from .test_parts import after_block
from .test_sites import call, run

MAIN = prompt_embeds(1)
ALL = parse_selection("all")
IMAGES = {"encoder_hidden_states_image": torch.randn(3, 257, 48, generator=torch.Generator().manual_seed(6))}


@pytest.fixture(scope="module")
def model():
    return make_transformer(4)


@pytest.fixture(scope="module")
def image_model():
    return make_transformer(4, image_dim=48, added_kv_proj_dim=32)


def attention_out(model, *edits, block: int = 1, **more) -> torch.Tensor:
    """Of the cross-attention of a block, in the prompt's row."""
    seen = []
    handle = model.blocks[block].attn2.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    run(model, *edits, **more)
    handle.remove()
    return seen[0][1]


def silenced(make, *names: str):
    """The same model with zeros for weights whose names end so, in a way of its own."""
    model = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(names):
                parameter.zero_()
    return model


@pytest.mark.parametrize("stream", ["text", "clip_image"])
def test_the_contribution_is_linear_in_the_gain(image_model, stream):
    def out(gain):
        return attention_out(image_model, gain_edit(stream, gain, parse_selection("1")), **IMAGES)

    none, one = out(0.0), attention_out(image_model, **IMAGES)
    assert torch.equal(out(1.0), one)
    for gain in (0.25, 0.5, 2.0, 4.0):
        error = (out(gain) - none - gain * (one - none)).norm() / (one - none).norm()
        assert error < 1e-5 * max(gain, 1.0)


def test_a_gain_of_0_of_images_is_no_image_attention(image_model):
    """Against a model whose values of images are zero."""
    without = silenced(
        lambda: make_transformer(4, image_dim=48, added_kv_proj_dim=32), "add_v_proj.weight", "add_v_proj.bias"
    )
    gone = run(image_model, gain_edit("clip_image", 0.0, ALL, branch="both"), **IMAGES)
    expected = call(without, **IMAGES)
    plain = call(image_model, **IMAGES)
    assert torch.equal(gone[:2], expected[:2]) and torch.equal(gone[2], plain[2])
    assert not torch.equal(gone[1], plain[1]) and hook_count(image_model) == 0


def test_strength_lies_between_the_gain_and_1(model):
    half = run(model, gain_edit("text", 0.0, parse_selection("1-2:0.5")))
    assert torch.equal(half, run(model, gain_edit("text", 0.5, parse_selection("1-2"))))
    assert torch.equal(run(model, gain_edit("text", 3.0, parse_selection("all:0"))), call(model))


def test_two_gains_multiply(model):
    twice = run(model, gain_edit("text", 2.0, ALL), gain_edit("text", 0.25, ALL))
    assert torch.equal(twice, run(model, gain_edit("text", 0.5, ALL)))


def test_a_gain_of_the_control_is_that_of_vaces_own_strength():
    model = make_transformer(cls=WanVACETransformer3DModel, vace_layers=[0, 2, 4], vace_in_channels=8)
    control = torch.randn(3, 8, 2, 4, 4, generator=torch.Generator().manual_seed(8))
    for gain in (0.0, 0.5, 2.0):
        scaled = run(model, gain_edit("vace", gain, ALL, branch="both"), control_hidden_states=control)
        own = call(model, control_hidden_states=control, control_hidden_states_scale=torch.full((3,), gain))
        assert torch.equal(scaled[:2], own[:2])
    only = run(model, gain_edit("vace", 0.0, parse_selection("2")), control_hidden_states=control)
    own = call(model, control_hidden_states=control, control_hidden_states_scale=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(only[1], own[1]) and streams_of(discover(model)) == ["text", "vace"]


def test_streams_are_those_that_the_model_has(model, image_model):
    assert streams_of(discover(model)) == ["text"] and streams_of(discover(image_model)) == ["text", "clip_image"]
    sampler = Sampler(model)
    for stream in ("clip_image", "audio", "vace"):
        edit = gain_edit(stream, 0.5, ALL, label="Gain")
        with pytest.raises(ValueError, match="has no"), edited(sampler.pipe, EditStack((edit,))):
            pass
    with pytest.raises(ValueError, match="stream must be one of text, clip_image, audio"):
        gain_edit("smell", 1.0, ALL)
    with pytest.raises(ValueError, match="number from 0 on"):
        gain_edit("text", -1.0, ALL)


# A host's keyword


class Talking(torch.nn.Module):
    """A block with a stream of its own, as the wrapper's blocks have."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.attn2 = inner, inner.attn2

    def forward(self, x, encoder_hidden_states, *args, audio_proj=None, audio_scale=1.0):
        x = self.inner(x, encoder_hidden_states, *args)
        return x if audio_proj is None else x + audio_proj * audio_scale


@pytest.fixture
def talking():
    """Calls the model with sound that every block adds, and a factor."""
    model = make_transformer(4)
    for index, inner in enumerate(model.blocks):
        model.blocks[index] = Talking(inner)
    sound = torch.randn(32, generator=torch.Generator().manual_seed(9))

    def sampled(*edits, audio=True, scale=1.0, rows=None):
        def speak(module, args, kwargs):
            return args, {**kwargs, **({"audio_proj": sound} if audio else {}), "audio_scale": scale}

        handles = [block.register_forward_pre_hook(speak, with_kwargs=True) for block in model.blocks]
        try:
            with Run(EditStack(edits), discover(model)) as active:
                active.begin(rows or {"cond": [(0, 0), (1, 0), (2, 0)]}, progress=lambda clock: 0.0)
                return call(model)
        finally:
            for handle in handles:
                handle.remove()

    return sampled


def test_a_gain_multiplies_the_factor_of_a_stream(talking):
    assert torch.equal(talking(gain_edit("audio", 0.5, ALL), scale=0.6), talking(scale=0.3))
    assert torch.equal(talking(gain_edit("audio", 0.0, ALL)), talking(audio=False))
    assert torch.equal(talking(gain_edit("audio", 1.0, ALL)), talking())
    some = talking(gain_edit("audio", 0.0, parse_selection("1")))
    assert not torch.equal(some, talking()) and not torch.equal(some, talking(audio=False))


def test_a_stream_that_does_not_come_is_an_error_that_lists_those_that_do(talking):
    with pytest.raises(ValueError, match=r"Gain: .* gets no audio while sampling. It gets text\."):
        talking(gain_edit("audio", 0.5, ALL, label="Gain"), audio=False)


def test_one_factor_for_both_branches_is_refused(talking):
    with pytest.raises(ValueError, match="both guidance branches are in one call"):
        talking(gain_edit("audio", 0.5, ALL), rows={"uncond": [(0, 0)], "cond": [(1, 0), (2, 0)]})


@pytest.mark.parametrize("operation", ["blend", "add"])
def test_a_factor_takes_nothing_but_a_scale(operation):
    from wanvideo_activation_editor.patching.edit import Edit
    from wanvideo_activation_editor.patching.operations import Blend
    from wanvideo_activation_editor.patching.sources import Direction

    with pytest.raises(ValueError, match=r"only Scale changes|has no value at site audio"):
        if operation == "blend":
            Edit(Zero(), ALL, "audio", Blend())
        else:
            Edit(Direction(torch.ones(32)), ALL, "audio")


# Words


def test_weights_of_words_scale_their_part_of_the_attention(model):
    """Contributions of word groups, taken out one by one, add up to the whole."""
    whole = attention_out(model)
    nothing = attention_out(model, gain_edit("text", 0.0, parse_selection("1")))
    groups = ["0-3", "4-11", "12-511"]
    parts = [
        whole - attention_out(model, *word_gains(parse_tokens(f"{g}:0"), 512, parse_selection("1"))) for g in groups
    ]
    assert (sum(parts) - (whole - nothing)).norm() / (whole - nothing).norm() < 1e-5
    louder = attention_out(model, *word_gains(parse_tokens("4-11:3", most=4), 512, parse_selection("1")))
    assert (louder - whole - 2 * parts[1]).norm() / parts[1].norm() < 1e-4


def test_a_weight_of_1_is_no_edit_and_later_terms_win():
    assert word_gains(parse_tokens("3, real", most=4), 12, ALL) == []
    edits = word_gains(parse_tokens("real:0.5, 3:2, 4:0.5, 5:1", most=4), 6, ALL)
    chosen = [e.tokens.weights(torch.arange(8) < 6).nonzero().flatten().tolist() for e in edits]
    assert [e.operation.factor for e in edits] == [0.5, 2.0] and chosen == [[0, 1, 2, 4], [3]]
    with pytest.raises(TokensError, match="no token 12"):
        word_gains(parse_tokens("12:2", most=4), 12, ALL)


def test_weights_of_all_words_are_the_gain_of_their_tokens(model):
    by_word = run(model, *word_gains(parse_tokens("real:0.3"), 12, ALL))
    with Run(EditStack((gain_edit("text", 0.3, ALL, tokens=parse_tokens("real")),)), discover(model)) as active:
        active.begin({"uncond": [(0, 0)], "cond": [(1, 0)]}, progress=lambda clock: 0.0)
        assert torch.equal(call(model), by_word)
    assert not torch.equal(by_word, run(model, gain_edit("text", 0.3, ALL)))  # padding speaks too


def test_weights_reach_padding_and_all(model):
    """Each row has its own padding: the tokens of the prompt and of the negative one differ in number."""
    for branch in ("cond", "uncond", "both"):
        padding = run(model, *word_gains(parse_tokens("padding:0"), None, ALL, branch=branch))
        all_of_it = run(model, *word_gains(parse_tokens("all:0"), None, ALL, branch=branch))
        both = run(model, *word_gains(parse_tokens("padding:0, real:0"), None, ALL, branch=branch))
        assert torch.equal(all_of_it, both)
        assert not torch.equal(padding, run(model)) and not torch.equal(padding, all_of_it)
        assert torch.equal(all_of_it, run(model, gain_edit("text", 0.0, ALL, branch=branch)))


def test_in_python_a_gain_is_a_scale_of_zero(sampler):
    with inject(sampler.pipe, Zero(), "1-2", site="values", operation=Scale(0.5), tokens="2-3"):
        scaled = sampler(MAIN)
    with edited(sampler.pipe, EditStack(tuple(word_gains(parse_tokens("2-3:0.5"), 12, parse_selection("1-2"))))):
        assert torch.equal(sampler(MAIN), scaled)
    assert not torch.equal(scaled, sampler(MAIN))


def test_a_gain_after_the_block_is_seen_in_its_row_only(model):
    plain, changed = after_block(model), after_block(model, gain_edit("text", 2.0, parse_selection("1")))
    assert [torch.equal(a, b) for a, b in zip(plain, changed, strict=True)] == [True, False, True]


class Twice:
    """Cross-attention that reads a negative prompt too, with the same modules, as NAG does."""

    def __init__(self, inner, negative):
        self.inner, self.negative, self.seen = inner, negative, []

    def __call__(self, attn, *args, **kwargs):
        out = self.inner(attn, *args, **kwargs)
        self.seen.append((attn.to_v(self.negative), attn.to_k(self.negative)))
        return out + self.seen[-1][0].mean()


@pytest.mark.parametrize("site", ["values", "keys", "prompt at values", "gain"])
def test_a_second_call_for_nags_negative_prompt_stays_as_it_is(site):
    from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
    from wanvideo_activation_editor.patching.edit import Edit
    from wanvideo_activation_editor.patching.sources import Prompt

    from .test_sites import DIRECTION

    model, negative = make_transformer(4), torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(4))
    twice = Twice(model.blocks[1].attn2.processor, negative)
    model.blocks[1].attn2.set_processor(twice)
    at_1 = parse_selection("1")
    edit = {
        "gain": lambda: gain_edit("text", 0.0, at_1),
        "prompt at values": lambda: Edit(Prompt(read_text_embeds(prompt_embeds(2))), at_1, "values"),
    }.get(site, lambda: Edit(DIRECTION, at_1, site))()
    plain, changed = call(model), run(model, edit)
    (before, after) = twice.seen
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(plain[1], changed[1])
