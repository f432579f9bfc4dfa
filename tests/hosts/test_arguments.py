"""What Python callers may write for blocks and prompts."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from wanvideo_activation_editor.patching.arguments import chosen_blocks
from wanvideo_activation_editor.patching.hosts.diffusers import inject

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
    with pytest.raises(ValueError, match=r"^blocks: the mapping"):
        chosen_blocks({"a": 1.0})


def test_a_block_by_number_is_that_block(main, other):
    sampler = Sampler(make_transformer())
    with inject(sampler.pipe, other, "1"):
        wanted = sampler(main)
    for same in (1, [1], {1}, range(1, 2), {1: 1.0}):
        with inject(sampler.pipe, other, same):
            assert torch.equal(sampler(main), wanted)


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


def test_a_prompt_as_text_needs_a_text_encoder(sampler):
    for target in (sampler.pipe, sampler.pipe.transformer):
        with pytest.raises(ValueError, match="needs a pipeline with its text encoder"), inject(target, "a red fox"):
            pass


def test_what_is_no_prompt_is_named(sampler):
    with pytest.raises(ValueError, match="embeds"), inject(sampler.pipe, prompt_embeds(1).numpy()):
        pass
