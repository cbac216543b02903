"""The exported user program of an archive, as it is or compiled for the machine that loads it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

Program = Callable[..., torch.Tensor]
COMPILE = "HETERREC_COMPILE"
"""Set to 1 in the environment of a worker, the program is compiled when it is loaded: that takes a C++ compiler and
some 20 seconds, once for each unpacked archive; answers agree to rounding."""
_logger = logging.getLogger(__name__)


def load(root: Path, *, varying: int, asked: int = 0) -> Program:
    """Read `program.pt2`, whose histories have `varying` features that change and askers `asked` values; compiled where
    `COMPILE` is 1.

    A machine that cannot compile gets the program as it is, and a warning that says why.
    """
    exported = torch.export.load(root / "program.pt2")
    if os.environ.get(COMPILE) != "1":
        return exported.module()
    try:
        return _compiled(root, exported, varying, asked)
    except Exception as fault:  # of a compiler there are many, and the program runs without
        _logger.warning(
            "%s: cannot be compiled here, it runs as it is: %r. That takes a C++ compiler (g++); %s=0 needs none.",
            root / "program.pt2", fault, COMPILE,
        )  # fmt: skip
        return exported.module()


def _compiled(root: Path, exported: torch.export.ExportedProgram, varying: int, asked: int) -> Program:
    """By AOTInductor; a worker that is started again finds what the one before it compiled."""
    package = root / f"compiled-{torch.__version__}.pt2"
    if not package.is_file():
        batch, time = 2, 3
        exported.example_inputs = (
            (
                torch.zeros(batch, time, dtype=torch.int64),
                torch.zeros(batch, time, dtype=torch.int64),
                torch.zeros(batch, time, varying),
                torch.ones(batch, time, varying, dtype=torch.bool),
                torch.full((batch,), time, dtype=torch.int64),
                *((torch.zeros(batch, asked, dtype=torch.int64), torch.ones(batch, asked)) if asked else ()),
            ),
            {},
        )
        _linear_by_onednn(exported.graph_module)
        partial = root / f"compiling-{os.getpid()}.pt2"
        torch._inductor.aoti_compile_and_package(exported, package_path=str(partial))
        os.replace(partial, package)
    loaded: Program = torch._inductor.aoti_load_package(str(package))
    return loaded


def _linear_by_onednn(graph_module: torch.fx.GraphModule) -> None:
    """oneDNN's linear layers in place of MKL's, in the same single precision: twice as fast on large batches on
    processors of another make than MKL's own (benchmarks/NOTES.md)."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for node in graph_module.graph.nodes:
        if node.target is torch.ops.aten.linear.default:
            x, weight, *bias = node.args
            node.target = torch.ops.mkldnn._linear_pointwise.default
            node.args = (x, weight, bias[0] if bias else None, "none", [], "")
    graph_module.recompile()
