"""What Python callers may write for blocks and prompts."""

from __future__ import annotations

import re

import pytest
import torch
import wanvideo_activation_editor as wae
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from wanvideo_activation_editor import inject
from wanvideo_activation_editor.patching.arguments import chosen_blocks
from wanvideo_activation_editor.patching.grid import Size

from ..control_vectors.conftest import make_vector
from .conftest import TEXT_WIDTH, Sampler, make_transformer, prompt_embeds

BLOCKS = {
    "3": (3,),
    3: (3,),
    (1, 2): (1, 2),
    range(1, 4): (1, 2, 3),
    frozenset({5, 0}): (0, 5),
    "all": (0, 1, 2, 3, 4, 5),
    (): (),
}


@pytest.mark.parametrize(("given", "active"), BLOCKS.items(), ids=map(str, BLOCKS))
def test_blocks_by_number(given, active):
    wanted = [1.0 if i in active else 0.0 for i in range(6)]
    assert list(chosen_blocks(given).resolve(6)) == wanted
    if isinstance(given, tuple):
        assert list(chosen_blocks(list(given)).resolve(6)) == wanted
        assert list(chosen_blocks(torch.tensor(given, dtype=torch.int64).numpy()).resolve(6)) == wanted


def test_strengths_by_block():
    assert list(chosen_blocks({1: 0.5, 4: 1}).resolve(6)) == [0, 0.5, 0, 0, 1, 0]


@pytest.mark.parametrize("bad", [[0.5, 1.0], 1.0, [True], None, [[1]], ["1"]])
def test_a_list_of_strengths_is_refused_with_what_to_write(bad):
    with pytest.raises(ValueError, match=r"does not name blocks by their numbers.*Strengths go into a mapping"):
        chosen_blocks(bad)


@pytest.mark.parametrize("bad", [-1, [0, -2], [5000]])
def test_blocks_that_no_model_has_are_refused(bad):
    with pytest.raises(ValueError, match="names a block that no model has"):
        chosen_blocks(bad)


def test_messages_name_the_python_argument():
    with pytest.raises(ValueError, match=r"^blocks must map"):
        chosen_blocks({"a": 1.0})


def test_a_block_by_number_is_that_block(main, other):
    sampler = Sampler(make_transformer())
    with inject(sampler.pipe, other, "1"):
        wanted = sampler(main)
    for same in (1, [1], {1}, range(1, 2), {1: 1.0}):
        with inject(sampler.pipe, other, same):
            assert torch.equal(sampler(main), wanted)


@pytest.mark.parametrize("blank", [[], (), {}, "", " , ", "000000", range(0)], ids=repr)
def test_a_blank_choice_of_blocks_changes_nothing_and_says_so_once(sampler, main, other, caplog, blank):
    states = [wae.capture(sampler.pipe, text, 1, size=SIZE) for text in (main, other)]
    plain = sampler(main)
    for opened, given in ((wae.inject, (other,)), (wae.inject_hidden, states), (wae.steer, (VECTOR,))):
        caplog.clear()
        with opened(sampler.pipe, *given, blocks=blank):
            assert torch.equal(sampler(main), plain)
        said = f"{opened.__name__}: no block is chosen, so nothing changes."
        assert [record.message for record in caplog.records if "no block" in record.message] == [said]


def test_none_and_a_strength_of_0_are_silent(sampler, main, other, caplog):
    plain = sampler(main)
    for chosen in ({"blocks": "none"}, {"blocks": {1: 0.0}}, {"blocks": "!0-5"}, {"strength": 0.0}):
        with inject(sampler.pipe, other, **chosen):
            assert torch.equal(sampler(main), plain)
    assert "no block" not in caplog.text


@pytest.fixture
def with_encoder(main) -> Sampler:
    """A pipeline with a random text encoder and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "castle", "at", "dusk"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sampler = Sampler(make_transformer())
    config = UMT5Config(vocab_size=len(words), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    sampler.pipe.register_modules(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"),
        text_encoder=UMT5EncoderModel(config).eval(),
    )
    return sampler


def test_a_prompt_as_text_is_the_prompt_that_the_pipeline_encodes(with_encoder, main):
    pipe = with_encoder.pipe
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt("a castle at dusk", do_classifier_free_guidance=False, max_sequence_length=512)
    with inject(pipe, embeds, "1-3"):
        wanted = with_encoder(main)
    with inject(pipe, "a castle at dusk", "1-3"):
        assert torch.equal(with_encoder(main), wanted)
    assert not torch.equal(with_encoder(main), wanted)


def test_words_are_those_of_the_prompt_as_the_pipeline_cleans_it(with_encoder, main):
    pipe, raw = with_encoder.pipe, "a&nbsp;red   &amp;amp; fox"
    for prompt in ("a red & fox", raw):
        found = wae.read_words(pipe, prompt, ["fox", "red"], blocks=[0], **CALL)
        assert found.tokens["fox"] == (3,) and found.tokens["red"] == (1,)
    for word in ("a&nbsp;red", "a  red", "a red"):
        assert wae.read_words(pipe, raw, [word], blocks=[0], **CALL).tokens[word] == (0, 1)
    found = wae.read_words(pipe, "a red fox\u2019s castle", ["fox\u2019s"], blocks=[0], **CALL)
    assert set(found.tokens["fox\u2019s"]) >= {2}
    latents = []
    for prompt in ("a red & fox", raw):
        with inject(pipe, prompt_embeds(1), "1-3", tokens='"fox"', prompt=prompt):
            latents.append(with_encoder(main))
    with inject(pipe, prompt_embeds(1), "1-3", tokens='"f&#111;x"', prompt=raw):
        latents.append(with_encoder(main))
    assert torch.equal(latents[0], latents[1]) and torch.equal(latents[0], latents[2])
    blank = inject(pipe, prompt_embeds(1), "1-3", tokens='"&nbsp;"', prompt=raw)
    with pytest.raises(ValueError, match="does not have"), blank:
        pass


@pytest.mark.parametrize(
    ("of", "instead"),
    [
        (lambda pipe: pipe, r"this pipeline has no text encoder.*tiny_wan\.encode\(text\)"),
        (lambda pipe: pipe.transformer, "Give the pipeline instead of its transformer"),
    ],
    ids=["pipeline", "transformer"],
)
def test_a_prompt_as_text_needs_a_text_encoder(sampler, of, instead):
    with pytest.raises(ValueError, match=instead), inject(of(sampler.pipe), "a red fox"):
        pass


def test_what_is_no_prompt_is_named(sampler):
    with pytest.raises(ValueError, match="embeds"), inject(sampler.pipe, prompt_embeds(1).numpy()):
        pass


def test_what_goes_elsewhere_than_into_inject_is_told_where(sampler, main):
    states = wae.capture(sampler.pipe, main, 1, size=SIZE)
    with inject(sampler.pipe, main) as stack:
        pass
    elsewhere = {
        r"steer\(": VECTOR,
        r"inject_hidden\(": states,
        r"edited\(pipe, stack": stack,
        "EditStack": stack.edits[0],
    }
    for function, given in elsewhere.items():
        with pytest.raises(ValueError, match=rf"^embeds: .*got {type(given).__name__}\. .*{function}"):
            inject(sampler.pipe, given).__enter__()


def test_what_is_no_control_vector_is_named_with_what_to_give(sampler, main):
    pipe, tensor = sampler.pipe, torch.ones(32)
    calls = {
        "vector": (wae.steer, (tensor,)),
        "first": (wae.turn, (tensor, VECTOR)),
        "second": (wae.turn, (VECTOR, tensor)),
    }
    for name, (opened, given) in calls.items():
        with pytest.raises(wae.ControlVectorError, match=rf"^{name}: .*load_control_vector.*got Tensor.*Direction"):
            opened(pipe, *given).__enter__()
    with pytest.raises(wae.ControlVectorError, match="got str") as caught:
        wae.steer(pipe, "night.safetensors").__enter__()
    assert "Direction" not in str(caught.value)
    with pytest.raises(wae.ControlVectorError, match=r"^vector: expected a ControlVector"):
        wae.calibrate(pipe, main, tensor, **CALL)


@pytest.mark.parametrize(
    ("operation", "options", "wrong"),
    [
        ("add", {"strength": "0.4"}, "strength must be a number of at most 100, not '0.4'"),
        ("add", {"strength": None}, "strength must be a number"),
        ("add", {"strength": torch.ones(2)}, "strength must be a number"),
        ("add", {"unit": "norms"}, "unit must be one of relative, absolute, not 'norms'"),
        ("rotate", {"angle": "90"}, "angle must lie in 0 to 180 degrees, not '90'"),
        ("rotate", {"radius": 0}, "radius must be above 0"),
        ("rotate", {"angle": 90, "unit": "relative"}, "has the options angle, radius, not unit"),
        ("transport", {"angle": 90}, "has the options none, not angle"),
    ],
)
def test_a_value_that_an_operation_does_not_take_is_named(sampler, operation, options, wrong):
    with pytest.raises(ValueError, match=wrong):
        wae.steer(sampler.pipe, VECTOR, operation=operation, **options).__enter__()


def test_a_strength_may_be_a_tensor_of_one_number(sampler, main):
    with wae.steer(sampler.pipe, VECTOR, 0.5):
        wanted = sampler(main)
    with wae.steer(sampler.pipe, VECTOR, torch.tensor(0.5)):
        assert torch.equal(sampler(main), wanted)


CALL = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0}
CASTLE, FOX = "a castle at dusk", "a red fox"
SIZE = Size(32, 32, 5)
VECTOR = make_vector(blocks=tuple(range(6)), block_count=6, identity="")


def test_blocks_are_indices_in_every_function(sampler, main, other):
    """[0, 2] are blocks 0 and 2, where a list of strengths would be block 0 at 0 and block 1 at 2."""
    pipe, chosen = sampler.pipe, [0, 2]
    assert wae.block_map(pipe, main, other, (0.8,), [0], blocks=chosen, **CALL).blocks == chosen
    assert wae.read_words(pipe, main, {"one": [0]}, (0.8,), blocks=chosen, **CALL).blocks == chosen
    found = wae.control_vector(pipe, [(main, other)], levels=1, blocks=chosen, height=32, width=32, num_frames=5)
    assert found.blocks == (0, 2)
    states = [wae.capture(pipe, text, 3, every=True, size=SIZE) for text in (main, other)]
    for opened, arguments, options in (
        (wae.steer, (VECTOR, 0.5), {}),
        (wae.inject_hidden, states, {"reduce": "mean"}),
    ):
        with opened(pipe, *arguments, blocks="0, 2", **options):
            wanted = sampler(main)
        with opened(pipe, *arguments, blocks=chosen, **options):
            assert torch.equal(sampler(main), wanted)


def test_prompts_are_text_or_embeddings_in_every_function(with_encoder):
    """Text gives what its 512 rows give, as the pipeline itself encodes it."""
    pipe = with_encoder.pipe
    with torch.no_grad():
        castle, fox = (
            pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=512)[0]
            for text in (CASTLE, FOX)
        )
    size = {name: CALL[name] for name in ("height", "width", "num_frames")}
    values = {
        "block_map": lambda a, b: wae.block_map(pipe, a, b, (0.8,), [0], **CALL).effect,
        "capture": lambda a, b: wae.capture(pipe, b, 2, size=SIZE).states[0],
        "control_vector": lambda a, b: wae.control_vector(pipe, [(a, b)], levels=1, **size).directions,
        "calibrate": lambda a, b: wae.calibrate(pipe, a, VECTOR, seeds=1, levels=2, **CALL).strengths,
        "learn_tokens": lambda a, b: wae.learn_tokens(pipe, b, a, 2, steps=1, latents=1, **CALL).tokens,
    }
    for name, measure in values.items():
        texts, tensors = (torch.as_tensor(measure(*pair)) for pair in ((CASTLE, FOX), (castle, fox)))
        assert torch.equal(texts, tensors), name


@pytest.mark.parametrize(
    "levels", [(2,), (0.5, 0.0), (-0.1,), (float("nan"),), ("0.8",), "0.8", 0.8, (), None], ids=str
)
def test_noise_levels_are_numbers_from_0_to_1_before_anything_is_sampled(sampler, main, other, levels):
    for measure in (
        lambda: wae.block_map(sampler.pipe, main, other, levels),
        lambda: wae.read_words(sampler.pipe, main, noise_levels=levels),
    ):
        with pytest.raises(ValueError, match=r"^noise_levels: .*numbers above 0 and at most 1"):
            measure()


def test_guidance_without_a_text_encoder_needs_the_negative_prompt(sampler, main, other):
    call = {name: value for name, value in CALL.items() if name != "guidance_scale"}
    for more in ({}, {"guidance_scale": 2.0}, {"negative_prompt": "blurry"}):
        with pytest.raises(ValueError, match=r"^guidance_scale is [25], .*Give negative_prompt_embeds"):
            wae.block_map(sampler.pipe, main, other, (0.8,), [0], **call, **more)
    assert wae.block_map(sampler.pipe, main, other, (0.8,), [0], **call, negative_prompt_embeds=other).blocks
    assert wae.block_map(sampler.pipe, main, other, (0.8,), [0], **CALL).blocks


NODE_WORDS = re.compile(
    r"\b([Nn]odes?|[Cc]onnect|[Dd]isconnect|socket|widget|editor|graph|WANVIDEO\w*|CONDITIONING|WanVideo [A-Z]\w*|"
    r"block_activations|block_strengths|injection_\w+|start_percent|end_percent)\b"
)


def bad_calls(pipe, main):
    """Name of the argument that is wrong, and a call with it."""
    vector, other = VECTOR, prompt_embeds(2)

    def enter(opened, *args, **kwargs):
        with opened(pipe, *args, **kwargs):
            pass

    yield "blocks", lambda: enter(wae.inject, other, "5-")
    yield "blocks", lambda: enter(wae.inject, other, [0.5])
    yield "blocks", lambda: enter(wae.inject, other, {"a": 1})
    yield "blocks", lambda: enter(wae.steer, vector, blocks="x")
    yield "blocks", lambda: enter(wae.steer, vector, blocks=[0.5])
    yield "blocks", lambda: wae.block_map(pipe, main, other, blocks="x", **CALL)
    yield "blocks", lambda: wae.block_map(pipe, main, other, blocks=[0.5], **CALL)
    yield "blocks", lambda: wae.read_words(pipe, main, blocks="x", **CALL)
    yield "blocks", lambda: wae.control_vector(pipe, [(main, other)], blocks="x")
    yield "blocks", lambda: wae.calibrate(pipe, main, vector, blocks=[0.5], **CALL)
    yield "window", lambda: enter(wae.inject, other, window=(0.5, 0.2))
    yield "window", lambda: enter(wae.inject, other, window=0.5)
    yield "window", lambda: enter(wae.steer, vector, window=(0, 2))
    yield "window", lambda: enter(wae.turn, vector, make_vector(1, blocks=(0, 1), identity=""), window=(0, 2))
    yield "strength", lambda: enter(wae.inject, other, strength=2.0)
    yield "branch", lambda: enter(wae.inject, other, branch="positive")
    yield "site", lambda: enter(wae.inject, other, site="nowhere")
    yield "schedule", lambda: enter(wae.inject, other, schedule="0:x")
    yield "tokens", lambda: enter(wae.inject, other, tokens="12-")
    yield "tokens", lambda: enter(wae.inject, other, tokens='"red"')
    yield "mask", lambda: enter(wae.inject, other, mask=torch.ones(2))
    yield "embeds", lambda: enter(wae.inject, other.numpy())
    yield "embeds", lambda: enter(wae.inject, [])
    yield "embeds", lambda: enter(wae.inject, torch.zeros(2, 600, TEXT_WIDTH) + 1)
    yield "embeds", lambda: enter(wae.inject, CASTLE)
    yield "text_embeds", lambda: wae.capture(pipe, CASTLE, 2)
    yield "text_embeds", lambda: wae.capture(pipe, None, 2)
    yield "prompt", lambda: wae.block_map(pipe, CASTLE, other, **CALL)
    yield "other", lambda: wae.block_map(pipe, main, {}, **CALL)
    yield "noise_levels", lambda: wae.block_map(pipe, main, other, (2.0,), **CALL)
    yield "prompt", lambda: wae.read_words(pipe, 3, **CALL)
    yield "pair 1", lambda: wae.control_vector(pipe, [(CASTLE, FOX)])
    yield "pairs", lambda: wae.control_vector(pipe, [])
    yield "target", lambda: wae.learn_tokens(pipe, FOX, main)
    yield "count", lambda: wae.learn_tokens(pipe, other, main, 0)


def test_errors_name_the_argument_and_no_input_of_a_node(sampler, main):
    for name, call in bad_calls(sampler.pipe, main):
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        text = str(error.value)
        assert re.search(rf"(?i)\b{name}\b", text), (name, text)
        assert not NODE_WORDS.search(text), text
