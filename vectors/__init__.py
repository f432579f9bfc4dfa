"""Control vectors: directions learned from pairs of prompts, their arithmetic and their file."""

from .arithmetic import add, orthogonalise, project, scale, subtract
from .control_vector import ControlVector, ControlVectorError
from .files import load_control_vector, save_control_vector

__all__ = [
    "ControlVector",
    "ControlVectorError",
    "add",
    "load_control_vector",
    "orthogonalise",
    "project",
    "save_control_vector",
    "scale",
    "subtract",
]
