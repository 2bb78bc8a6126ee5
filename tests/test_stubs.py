"""The type stubs of the native modules say what the modules have."""

from __future__ import annotations

import ast
import importlib
import inspect
from importlib import resources

import pytest

from tallystick import _backend


def stub(name):
    """Functions of a stub with the names of their parameters, and all other public names."""
    tree = ast.parse((resources.files("tallystick") / f"{name}.pyi").read_text())
    functions = {
        node.name: [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    others = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    others |= {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    return functions, others


@pytest.mark.parametrize("name", ["_core", "_cuda"])
def test_the_stub_names_everything_and_nothing_else(name):
    if name == "_cuda" and not _backend.cuda_built():
        pytest.skip("this build has no CUDA module")
    module = importlib.import_module(f"tallystick.{name}")
    functions, others = stub(name)
    assert {n for n in dir(module) if not n.startswith("_")} == set(functions) | others
    for function, parameters in functions.items():
        first = inspect.getdoc(getattr(module, function)).splitlines()[0]
        given = first[first.index("(") + 1 :].split(", ")
        assert len(given) >= len(parameters)
        for parameter in parameters:
            assert f"{parameter}: " in first, f"{function}: {first}"
