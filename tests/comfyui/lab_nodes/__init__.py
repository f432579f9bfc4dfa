"""Nodes for tests: embeddings without a text encoder, read-outs for /history, and ways to end a run early."""

from .contexts import CONTEXT_NODES
from .hidden import HIDDEN_NODES
from .hosts import HOST_NODES
from .inputs import INPUT_NODES
from .probes import PROBE_NODES
from .probing import PROBING_NODES
from .sites import SITE_NODES
from .steering import STEERING_NODES
from .streams import STREAM_NODES

NODES = (
    *INPUT_NODES, *PROBE_NODES, *CONTEXT_NODES, *HIDDEN_NODES, *HOST_NODES, *SITE_NODES, *PROBING_NODES,
    *STEERING_NODES, *STREAM_NODES,
)  # fmt: skip
NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in NODES}
