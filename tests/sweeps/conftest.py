"""One sweep of the tiny trained model, with few steps."""

from __future__ import annotations

import pytest
from wanvideo_activation_editor.sweeps import Plan, sweep

FIRST, SECOND = "a red circle moving left at night", "a blue square moving right on the sea"
CALL = {"num_inference_steps": 2, "guidance_scale": 1.0}


def plan(**changes) -> Plan:
    values = {"pairs": [(FIRST, SECOND)], "blocks": ["all", "none", "7-9"], "seeds": [0, 3], "call": CALL}
    return Plan(**{**values, "readout": "tiny_wan", **changes})


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    return sweep(plan(), tmp_path_factory.mktemp("sweep"), progress=False)
