"""Modules that were moved, by the name under which recipes know them.

A recipe's identity names the modules of its definitions. To move a file changes no number, so it must not make each
champion's recipe a new candidate: who moves one adds a line, and the identity stays.
"""

FORMER = {
    "components.shared.tables": "components.features.tables",
    "heterrec.data.asking": "heterrec.asking",
    "heterrec.data.encoder": "heterrec.encoder",
    "heterrec.data.frames": "heterrec.frames",
    "heterrec.data.prepare": "heterrec.prepare",
    "heterrec.data.sequence_files": "heterrec.sequence_files",
    "heterrec.data.sequences": "heterrec.sequences",
    "heterrec.data.slices": "heterrec.slices",
    "heterrec.evaluation.baselines": "heterrec.baselines",
    "heterrec.evaluation.comparison": "heterrec.comparison",
    "heterrec.evaluation.metrics": "heterrec.metrics",
    "heterrec.inference.answers": "heterrec.inference",
    "heterrec.inference.best": "heterrec.best",
    "heterrec.inference.filtering": "heterrec.filtering",
    "heterrec.kernels.embedding_bag": "heterrec.look_up",
    "heterrec.kernels.matmul": "heterrec.products",
    "heterrec.kernels.ragged": "heterrec.ranges",
    "heterrec.loss.batches": "heterrec.batches",
    "heterrec.loss.fixed_lmp": "heterrec.fixed_lmp",
    "heterrec.loss.lmp": "heterrec.lmp",
    "heterrec.loss.objective": "heterrec.objective",
    "heterrec.loss.padded_batches": "heterrec.rectangles",
    "heterrec.memory.gates": "heterrec.gates",
    "heterrec.memory.neighbour_tables": "heterrec.neighbour_tables",
    "heterrec.memory.neighbours": "heterrec.neighbours",
    "heterrec.model.dropout": "heterrec.dropout",
    "heterrec.model.htfl": "heterrec.htfl",
    "heterrec.model.network": "heterrec.model",
    "heterrec.model.towers": "heterrec.towers",
    "heterrec.model.transformer": "heterrec.transformer",
    "heterrec.progress_bar": "heterrec.bar",
    "heterrec.training.checkpoint": "heterrec.checkpoint",
    "heterrec.training.export": "heterrec.export",
    "heterrec.training.fixed_step": "heterrec.fixed_step",
    "heterrec.training.likeness": "heterrec.likeness",
    "heterrec.training.loop": "heterrec.training",
    "heterrec.training.optimiser": "heterrec.optimiser",
    "heterrec.training.refit": "heterrec.refit",
    "heterrec.training.sharded": "heterrec.sharded",
    "heterrec.training.warm_start": "heterrec.warm_start",
    "heterrec.training.weight_average": "heterrec.average",
}


def former(module: str) -> str:
    """What `module` was called when identities were first written down."""
    return FORMER.get(module, module)
