"""Fuzzing of what reads other people's bytes: `make fuzz`, or `python -m fuzz [TARGET …]`.

A target is a function of `fuzz.targets` that takes bytes, and raises what nobody documented or
an AssertionError where something that always holds does not. Its seeds, and the inputs that once
broke it, lie in `fuzz/corpus/<target>/`; `tests/fuzz` runs every target over them without atheris.
"""

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""A folder of inputs for each target."""
