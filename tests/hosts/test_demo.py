"""The demo, on its own model and on pipeline weights read from a folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import WanPipeline
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from .conftest import Sampler, make_transformer

DEMO = [sys.executable, "-m", "wanvideo_activation_editor.commands", "demo"]


def run(*arguments: str, output: Path) -> dict[str, float]:
    """Distance from the plain result per case, as the demo's table gives it."""
    command = [*DEMO, "--output", str(output), *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert Image.open(output / "presets_and_patterns.png").width > 800
    rows = re.findall(r"^(\w+) +\d+/\d+ +[\d.]+ +([\d.]+) +[\d.]+$", text, re.MULTILINE)
    yardstick = re.search(r"^second prompt +([\d.]+)", text, re.MULTILINE)
    assert yardstick is not None
    return {"text": text, "second": float(yardstick[1]), **{name: float(distance) for name, distance in rows}}


def test_random_weights(tmp_path):
    table = run(
        "--random", "--steps", "1", "--size", "32", "32", "5", "--only", "all", "none", "mid_blocks", output=tmp_path
    )
    assert "Weights are random" in table["text"]
    assert table["all"] == table["second"] > 0
    assert table["none"] == 0
    assert table["mid_blocks"] > 0


def test_the_tiny_model_gives_a_table_and_pictures(tmp_path):
    command = [*DEMO, "--output", str(tmp_path), "--seeds", "1", "--only", "block_8"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "red circle moving left at night" in text and "blue square moving right on the sea" in text
    _, _, motion, background = map(float, re.findall(r"(-?[\d.]+) \+-", text))
    assert background > 0.8
    assert abs(motion) < 0.2
    assert Image.open(tmp_path / "contact_sheet.png").width > 800
    assert Image.open(tmp_path / "side_by_side.webp").n_frames == 5


def test_settings_of_the_other_models_are_refused(tmp_path):
    command = [*DEMO, "--output", str(tmp_path), "--steps", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "--steps goes with --random or --model" in result.stderr


def save_pipeline(folder: Path) -> None:
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "lighthouse", "meadow", "kites"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=16, d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=2, is_encoder_decoder=False)
    )
    pipe = Sampler(make_transformer(4)).pipe
    WanPipeline(fast, encoder, pipe.vae, pipe.scheduler, pipe.transformer).save_pretrained(folder)


def test_weights_from_a_folder_give_videos(tmp_path):
    torch.manual_seed(0)
    save_pipeline(tmp_path / "model")
    table = run(
        *(
            "--model",
            str(tmp_path / "model"),
            "--steps",
            "1",
            "--size",
            "32",
            "32",
            "5",
            "--only",
            "all",
            "late_blocks",
        ),
        *("--prompt", "a lighthouse", "--inject", "a meadow kites"),
        output=tmp_path / "out",
    )
    assert table["all"] == table["second"] > 0
    videos = sorted(p.name for p in (tmp_path / "out").glob("*.mp4"))
    assert videos == ["all.mp4", "late_blocks.mp4", "plain.mp4", "second_prompt.mp4"]
