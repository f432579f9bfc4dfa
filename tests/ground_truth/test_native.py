"""The native checkpoint: written where ComfyUI looks, under Wan's own parameter names."""

from __future__ import annotations

import subprocess
import sys

from safetensors.torch import load_file
from wanvideo_activation_editor import tiny_wan

COMMAND = [sys.executable, "-m", "wanvideo_activation_editor.tiny_wan"]


def test_the_checkpoint_is_written_into_comfyui(tmp_path):
    (tmp_path / "models").mkdir()
    subprocess.run([*COMMAND, "--comfyui", str(tmp_path)], check=True, capture_output=True)
    state = load_file(tmp_path / "models" / "diffusion_models" / "tiny_wan_shapes.safetensors")
    ours = tiny_wan.pipeline().transformer.state_dict()
    assert len(state) == len(ours)
    assert state["head.modulation"].shape == (1, 2, 128)
    assert (state["blocks.3.cross_attn.k.weight"].float() == ours["blocks.3.attn2.to_k.weight"]).all()
    assert (state["blocks.9.norm3.weight"].float() == ours["blocks.9.norm2.weight"]).all()


def test_another_folder_is_refused(tmp_path):
    result = subprocess.run([*COMMAND, "--comfyui", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "has no folder 'models'" in result.stderr
