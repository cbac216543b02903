"""Is the refitted model still the one that was blessed? Each breakage of a refit has to fail here: the goldens cannot
tell, as they are made by the very weights that they test.

Bounds were chosen by measuring (benchmarks/NOTES.md, "What serves has seen the last days").
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.shared.recipe_digest import recipe_digest
from heterrec.data.sequences import Sequences
from runtime.decision import Reason

if TYPE_CHECKING:
    from heterrec.inference.answers import Loaded

LOSS_ABOVE, LOSS_BELOW = 0.0, 1.0
"""Nats by which the loss on the blessed windows may rise (it has been trained on them by now), and fall: more would be
learned by heart. Measured: -.07 to -.61; shuffled targets +.04 to +1.7."""
OVERLAP, CORRELATION = 0.5, 0.8
"""Least likeness of the answers, on items that both have an ID of. Measured: .74 to .91 and .915 to .979; all item
rows shifted .02 to .21 and .00 to .60, half of them .48 and .71, shuffled targets .08 to .24 and .33 to .54."""
MOVED, ROW = 0.7, 0.3
"""Most that a weight matrix may change, and least cosine of an item's ID with what it was. Measured: .17 to .37 and .88
to .996; of a tower that is zero 1, of two swapped items -.36."""


REMEDY = (
    "the blessed weights serve, and the next run refits anew; where it comes back night by night, "
    '"refit": false in the recipe leaves it out'
)


def reasons(blessed: Path, refitted: Path, sequences: Sequences) -> list[Reason]:
    """Every check of the model folder `refitted` against `blessed`; one that cannot be read has not passed."""
    from heterrec.training.export import load_model
    from heterrec.training.likeness import likeness

    report = json.loads((refitted / "report.json").read_text())
    if "diverged" in report:
        return [_reason("it converged", False, "no", "a loss", f"The refit diverged: {report['diverged']}.")]
    found = [_recipe(blessed, refitted, sequences)]
    try:
        before, after = load_model(blessed), load_model(refitted)
    except ValueError as error:
        return [*found, _reason("it can be read", False, "no", "a model", f"The refitted model is unreadable: {error}")]
    found.append(_memory(before, after, sequences))
    try:
        alike = likeness(before, after, sequences)
    except ValueError as error:
        message = f"The refitted network answers with what is no number ({error})."
        return [*found, _reason("it answers with numbers", False, "no", "numbers", message)]
    change = alike.loss_after - alike.loss_before
    about = f"over {alike.shoppers} shoppers of the held-out windows"
    return [
        *found,
        _reason(
            "loss on the blessed windows",
            -LOSS_BELOW <= change <= LOSS_ABOVE,
            round(change, 4),
            f"{-LOSS_BELOW:+g} to {LOSS_ABOVE:+g}",
            f"The loss {about}, which the refit was trained on, changed by {change:+.3f} nats, from "
            f"{alike.loss_before:.3f} to {alike.loss_after:.3f}.",
        ),
        _reason(
            "the same best items",
            alike.overlap >= OVERLAP,
            round(alike.overlap, 4),
            f"at least {OVERLAP:g}",
            f"Of the ten best of {alike.old_items} old items {alike.overlap:.0%} are the blessed network's, {about}.",
        ),
        _reason(
            "the same order of items",
            alike.correlation >= CORRELATION,
            round(alike.correlation, 4),
            f"at least {CORRELATION:g}",
            f"The rankings of {alike.old_items} old items correlate with those of the blessed network by "
            f"{alike.correlation:.3f}, {about}.",
        ),
        _reason(
            "the same weights, moved a little",
            alike.moved <= MOVED,
            round(alike.moved, 4),
            f"at most {MOVED:g}",
            f"The weight matrix that changed most changed by {alike.moved:.0%} of its size.",
        ),
        _reason(
            "the same item behind each ID",
            alike.least_row >= ROW,
            round(alike.least_row, 4),
            f"at least {ROW:g}",
            f"The ID that turned most has a cosine of {alike.least_row:.2f} with what it was.",
        ),
    ]


def _recipe(blessed: Path, refitted: Path, sequences: Sequences) -> Reason:
    before, after = (
        recipe_digest(json.loads((folder / "recipe.json").read_text()), sequences.catalogue.described)
        for folder in (blessed, refitted)
    )
    message = f"The refitted model is of recipe {after[:12]}, the blessed one of {before[:12]}."
    return _reason("the same recipe", before == after, after[:12], before[:12], message)


def _memory(before: "Loaded", after: "Loaded", sequences: Sequences) -> Reason:
    """What was judged says how far the tables are trusted; how often an item was bought, all events do."""
    name, allowed = "the same memory, of all events", "gates as blessed, counts of all events"
    if before.memory is None or after.memory is None:
        right = before.memory is None and after.memory is None
        return _reason(name, right, "none in one of them" if not right else "none", "none in both", "Memory is gone.")
    counts = np.bincount(sequences.row, minlength=len(sequences.catalogue))
    here = after.item_ids == sequences.catalogue.item_ids
    fresh = here and np.array_equal(after.memory.count_V, counts)
    same = before.memory.about() == after.memory.about()
    found = f"gates {'as blessed' if same else 'changed'}, counts {'of all events' if fresh else 'stale'}"
    return _reason(name, fresh and same, found, allowed, f"The memory beside the refitted network has {found}.")


def _reason(check: str, held: bool, found: Any, allowed: Any, message: str) -> Reason:
    """None of them blocks: the blessed weights serve in its place, which is told."""
    return Reason(
        check=check, held=bool(held), found=found, allowed=allowed, message=message, remedy=REMEDY, level="warn"
    )
