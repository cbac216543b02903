"""Saves an exported program without what belongs to the machine that exported it."""

from pathlib import Path

import torch
from torch.export import ExportedProgram

_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def save(program: ExportedProgram, path: Path) -> None:
    """Write `program` to `path`; the same model gives the same bytes wherever the project lies.

    Stack traces name the files of this checkout, and the example inputs are a pickle that no reader needs.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for trace in _TRACES:
                    node.meta.pop(trace, None)
    program.example_inputs = None
    torch.export.save(program, path)
