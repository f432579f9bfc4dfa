"""Arithmetic of control vectors, and keeping them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..vectors import ControlVector, ControlVectorError, add, orthogonalise, project, scale
from .control_vectors import FAMILY, VALUE, ControlVectorType, info_of, read_vector, stored_form, vector_input
from .sockets import errors_named, operand_inputs, schema
from .store import checked_name, load_named, split_words
from .store_access import STORE
from .store_values import fingerprint_of

NOTHING = "(nothing is stored)"
OPERATIONS = ("add", "subtract", "scale", "project", "orthogonalise")


class WanVideoControlVectorArithmetic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        operands = operand_inputs(vector_input, ", of the same model, site and blocks.")
        return schema(
            node_id="WanVideoControlVectorArithmetic",
            display_name="WanVideo Control Vector Arithmetic",
            category=FAMILY,
            description="Combines control vectors of one model.",
            inputs=[
                vector_input("base_vector", "What is combined."),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default="add",
                    tooltip="add, subtract: base plus or minus weight times operand. scale: base times weight_1. "
                    "project: what the base shares with the operands. orthogonalise: the base without that.",
                ),
                *operands,
            ],
            outputs=[ControlVectorType.Output(id="control_vector", display_name="control_vector")],
        )

    @classmethod
    def execute(
        cls,
        base_vector: Any,
        operation: str,
        operand_1: Any = None,
        weight_1: float = 1.0,
        operand_2: Any = None,
        weight_2: float = 1.0,
        operand_3: Any = None,
        weight_3: float = 1.0,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Control Vector Arithmetic"):
            base = read_vector(base_vector, "base_vector")
            given = ((operand_1, weight_1), (operand_2, weight_2), (operand_3, weight_3))
            pairs = [(read_vector(v, f"operand_{n}"), w) for n, (v, w) in enumerate(given, 1) if v is not None]
            return io.NodeOutput(_combined(base, operation, pairs, weight_1))


def _combined(base: ControlVector, operation: str, pairs: list[tuple[ControlVector, float]], factor: float) -> Any:
    if operation == "scale":
        if pairs:
            raise ControlVectorError("scale multiplies the base by weight_1. Disconnect the operands.")
        return scale(base, factor)
    if not pairs:
        raise ControlVectorError(f"{operation} needs an operand. Connect operand_1.")
    vectors, weights = [vector for vector, _ in pairs], [weight for _, weight in pairs]
    if operation in ("add", "subtract"):
        sign = 1.0 if operation == "add" else -1.0
        return add(base, *vectors, weights=[1.0, *(sign * weight for weight in weights)])
    return (project if operation == "project" else orthogonalise)(base, vectors)


class WanVideoStoreControlVector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoStoreControlVector",
            display_name="WanVideo Store Control Vector",
            category=FAMILY,
            description="Keeps a control vector under a name in the embedding store, bit for bit.",
            is_output_node=True,
            inputs=[
                vector_input("control_vector", "What is kept."),
                io.String.Input("name", default="", tooltip="Name to load it by. A name in use moves to this vector."),
                io.String.Input("tags", default="", tooltip="Words to find it by, separated by commas."),
                io.String.Input("note", default="", multiline=True, tooltip="Free text, kept with the name."),
            ],
            outputs=[ControlVectorType.Output(id="control_vector", display_name="control_vector")],
        )

    @classmethod
    def execute(cls, control_vector: Any, name: str, tags: str, note: str) -> io.NodeOutput:
        with errors_named("WanVideo Store Control Vector"):
            name = checked_name(name)
            vector = read_vector(control_vector, "control_vector")
            from ..storage.records import Description

            STORE.open().put(
                stored_form(vector),
                Description(name=name, kind="other", form=VALUE, tags=split_words(tags), note=note),
                exact=True,
            )
        return io.NodeOutput(vector, ui={"text": (f"Stored as {name}.\n{info_of(vector)}",), "wan_store": (True,)})


class WanVideoLoadControlVector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoLoadControlVector",
            display_name="WanVideo Load Control Vector",
            category=FAMILY,
            description="Gives back a stored control vector.",
            inputs=[
                io.Combo.Input("name", options=STORE.names() or [NOTHING], tooltip="Stored values, by name."),
            ],
            outputs=[
                ControlVectorType.Output(id="control_vector", display_name="control_vector"),
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str, **kwargs: Any) -> Any:
        return fingerprint_of(name)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        with errors_named("WanVideo Load Control Vector"):
            value = load_named(name).value
            if not isinstance(value, dict) or not isinstance(value.get(VALUE), dict) or "tensors" not in value:
                raise ControlVectorError(
                    f"What is stored as {name} is no control vector. Load it with WanVideo Load Embedding."
                )
            vector = ControlVector.from_plain(value[VALUE], value["tensors"])
        return io.NodeOutput(vector, info_of(vector))


NODES = [WanVideoControlVectorArithmetic, WanVideoStoreControlVector, WanVideoLoadControlVector]
