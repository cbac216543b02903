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

REWRITTEN = {
    "21bf4ac4f9a5290286b856ae8c095fdbd10a8be95058d020c69556b5604e9370":
        "1f6b3a4b772b4e4bbfdd7dc32024a00838bbac3888fb5267eb2f166bb09b8791",
    "54513f17342aa600019383bce537086f41fd9343e4e667104c8270c4f30511be":
        "6286a43db1db46041e16bf6279201d34a93458f7557ea9c5f5e4c2e884e73421",
    "9190375f1073190cf186a54499dc6972a4981c183a55cbe35c1d556c5eeb93f0":
        "bce043d13b9cf8912dd99225ce2800fe57a0dc96be96f6c9feb80f4ff2e922ac",
    "9c136b89b27bba08e23f375c6013521051eabc9c554e3d5fcda8d447e6ef7b06":
        "2d7a03bf20d266146431f9411c55470e4a3949580dd58bbae5cf73deb53a9d29",
    "ce47769536dd3f7dcdc703668541dd5a1fa4916f8256043f4a01a6b86e014dd3":
        "005f371a42c6ca00ee4cafb52fe348d9c3cee0c8162865ad27b65d4b35eeb39b",
}  # fmt: skip
"""Where training was written anew and computes the same, bit for bit: its code's digest now, and the one of before.

Who rewrites so takes `recipe_digest.training_code` of every choice of settings before and after, and keeps the pairs
here while champions of before may serve; a later change of training has a digest of its own, which no line names."""


def former(module: str) -> str:
    """What `module` was called when identities were first written down."""
    return FORMER.get(module, module)
