"""The tiny random models and pipelines of tests/hosts."""

from ..hosts.conftest import main, other, sampler  # noqa: F401
