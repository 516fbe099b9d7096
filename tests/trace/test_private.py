"""The private names of torch, all in ``gradlint/trace/private.py``: that they are there, and what breaks without them."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlint
from gradlint.trace import private

PACKAGE = Path(gradlint.__file__).parent


def test_no_other_file_uses_a_private_name_of_torch():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "trace" / "private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute) and re.match(r"(torch|nn|F|fx)\.[\w.]+$", ast.unparse(node)):
                names = ast.unparse(node).split(".")
            hidden = isinstance(node, ast.Attribute) and node.attr in TENSORS and ast.unparse(node.value) != "self"
            if hidden or any(re.fullmatch(r"_(?!_)\w+", name) for name in names):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


TENSORS = ("_version", "_cdata", "_is_view", "_schema", "_orig_mod")
"""Private attributes of tensors, storages, operators and modules, which no chain of names gives away."""


def test_every_name_of_the_file_has_a_test():
    tested = {node.attr for node in ast.walk(ast.parse(Path(__file__).read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert set(private.__all__) <= tested


def test_version_counts_writes():
    """Else writes in place are missed, and the graph has the value from before."""
    tensor = torch.zeros(3)
    before = private.version(tensor)
    tensor[:2].add_(1)
    assert private.version(tensor) == before + 1
    with torch.inference_mode():
        assert private.version(torch.zeros(3)) is None


def test_storage_key_is_that_of_memory():
    """Else views of one tensor are taken for tensors of their own, and writes to one do not reach the other."""
    tensor = torch.zeros(3, 3)
    assert private.storage_key(tensor[0]) == private.storage_key(tensor.data) == private.storage_key(tensor)
    assert private.storage_key(tensor.clone()) != private.storage_key(tensor)
    assert private.storage_key(torch.eye(3).to_sparse()) is None


def test_hold_keeps_an_address_and_no_memory():
    """Else the address of a tensor that is gone is given to another, which is then taken for it."""
    tensor = torch.zeros(8)
    held = private.hold(tensor)
    assert isinstance(held, private.StorageWeakRef)
    assert not held.expired()
    key = private.storage_key(tensor)
    del tensor
    assert held.expired()
    assert all(private.storage_key(made) != key for made in [torch.zeros(8) for _ in range(50)])


def test_view_base_is_what_was_viewed():
    """Else a view of an intermediate result is a tensor of its own, and what is written to it is lost."""
    tensor = torch.zeros(3, 3)
    assert private.view_base(tensor.t()[0]) is tensor
    assert private.view_base(tensor) is None
    with torch.inference_mode():
        assert private.view_base(torch.zeros(3)[:1]) is None


def test_is_functorch_wrapped_tells_what_vmap_sees():
    """Else what runs within ``torch.func`` is recorded by tensors that exist only there."""
    seen = []
    torch.func.vmap(lambda x: seen.append(private.is_functorch_wrapped(x)) or x)(torch.zeros(2))
    assert (seen, private.is_functorch_wrapped(torch.zeros(2))) == ([True], False)


def test_global_hooks_are_all_tables_that_torch_calls():
    """Else hooks that a model's code registers for all modules stay behind."""
    before = [dict(table) for table in private.global_hooks()]
    module = torch.nn.modules.module
    handles = [
        module.register_module_forward_pre_hook(lambda *_: None),
        module.register_module_forward_hook(lambda *_: None),
        module.register_module_full_backward_pre_hook(lambda *_: None),
        module.register_module_full_backward_hook(lambda *_: None),
        module.register_module_buffer_registration_hook(lambda *_: None),
        module.register_module_module_registration_hook(lambda *_: None),
        module.register_module_parameter_registration_hook(lambda *_: None),
    ]
    changed = sum(a != b for a, b in zip(before, private.global_hooks(), strict=True))
    for handle in handles:
        handle.remove()
    assert changed == len(handles)
    tables = [name for name in vars(module) if name.startswith("_global_") and isinstance(vars(module)[name], dict)]
    known = {id(table) for table in private.global_hooks()}
    assert [name for name in tables if id(vars(module)[name]) not in known] == []


def test_operator_names_and_views():
    """Else what compiled code and exported programs call is not known by the function that it stands for."""
    assert private.operator_name(torch.ops.aten.add_.Tensor) == "add_"
    assert private.operator_name(torch.ops.aten.add_) == "add_"
    assert private.operator_name(torch.add) == ""
    assert private.is_view_operator(torch.ops.aten.view.default)
    assert not private.is_view_operator(torch.ops.aten.add.Tensor)


def test_unscripted_leaves_functions_as_they_are():
    """Else scripted code is compiled, and its calls are seen as operators, without modules and lines."""

    def double(x):
        return 2 * x

    with private.unscripted():
        assert torch.jit.script(double) is double
    assert torch.jit.script(double) is not double


def test_unoptimised_scripts_are_differentiated_by_torch():
    """Else a script that has run before is differentiated by itself, and its operators are not seen."""
    from torch._C import _get_graph_executor_optimize

    with private.unoptimised():
        assert not _get_graph_executor_optimize()
    assert _get_graph_executor_optimize()


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


def test_applying_meets_functions_that_were_bound_before():
    """Else a function with a backward of its own is recorded by its forward, and the gradient is wrong."""
    bound, seen = Double.apply, []

    def call(original, cls, args, kwargs):
        seen.append(cls)
        return original(cls, *args, **kwargs)

    x = torch.ones(2, requires_grad=True)
    with private.applying(call):
        bound(x).sum().backward()
    assert (seen, x.grad.tolist()) == ([Double], [3.0, 3.0])
    Double.apply(x)
    assert seen == [Double]


def test_dispatch_mode_does_not_import_the_compiler():
    """Else every run of gradlint takes 1.7 s longer."""
    assert issubclass(private.DispatchMode, torch.utils._python_dispatch.TorchDispatchMode)
    program = (
        "import sys, torch\nfrom gradlint.trace import private\n"
        "class Mode(private.DispatchMode):\n"
        "    def __torch_dispatch__(self, func, types, args=(), kwargs=None):\n"
        "        return func(*args, **(kwargs or {}))\n"
        "with Mode():\n    torch.zeros(2) + 1\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_original_is_what_was_compiled():
    """Else the modules of a compiled model have other paths than the user knows."""
    model = nn.Linear(2, 2)
    assert private.original(torch.compile(model)) is model
    assert private.original(model) is model


@pytest.mark.parametrize(("kind", "made"), [("BATCH_NORM", nn.BatchNorm2d(3)), ("CONVOLUTION", nn.ConvTranspose1d(2, 2, 3))])
def test_classes_that_others_derive_from(kind, made):
    """Else inputs are not guessed from such a layer."""
    assert isinstance(made, {"BATCH_NORM": private.BATCH_NORM, "CONVOLUTION": private.CONVOLUTION}[kind])
    assert not isinstance(nn.LayerNorm(3), private.BATCH_NORM | private.CONVOLUTION)


def test_functions_below_their_public_ones():
    """Else calls from modules in C and old weight_norm are sampled instead of known."""
    x, weight, sizes = torch.randn(2, 3), torch.randn(4, 3), torch.ones(4, 1)
    assert torch.equal(private.LINEAR(x, weight), F.linear(x, weight))
    assert torch.equal(private.PAD(x, (1, 1)), F.pad(x, (1, 1)))
    expected = weight / weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(private.WEIGHT_NORM(copy.deepcopy(weight), sizes, 0), expected)
