"""Package: everything that serving needs of one trained model, in one archive."""

import hashlib
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from components.package import program
from components.package.goldens import askers, goldens
from components.package.index import USERS, make_index
from components.package.item_features import item_features
from components.package.item_metadata import read_shelf
from components.package.placed_goldens import placed_goldens
from components.shared import recipe_digest as recipes
from feature_repo import kinds
from feature_repo.card import DatasetCard
from heterrec.data import encoder as encoder_module
from heterrec.data.sequences import Catalogue, Sequences, read_sequences
from heterrec.inference.answers import Answers
from heterrec.memory import neighbours
from heterrec.memory.neighbour_tables import in_baskets
from heterrec.memory.neighbours import Memory, NeighbourTable
from heterrec.training.export import export_program, load_model
from heterrec.training.item_program import export_item_program
from runtime.files import digest_file
from runtime.manifest import digest_json
from serving.scoring import scorer
from serving.scoring.item_values import PROGRAM as ITEM_PROGRAM
from serving.scoring.placed import KINDS
from serving.scoring.shelves import BASKETS, offered
from serving.torchserve import archive as archives

DEFAULT_K, MAX_K = 10, 100


def run(
    *, card: DatasetCard, sequences: Path, model: Path, archive: Path, name: str, version: str | None = None
) -> dict[str, Any]:
    """Write `<name>.mar` and report.json into `archive` (docs/contracts.md, "archive").

    `model` is the folder that serves (`components/refit`), whose goldens are made here; its memory is counted anew over
    all events of `sequences`, the held-out ones too, as it will be asked about the days after them.

    Left out, `version` is the day of the data and a digest of the content, e.g. `20260105-1f0c9a7e`: the same
    model over the same catalogue has the same version and the same archive digest, wherever and whenever it is
    packaged. Raises `ValueError` where the model or the sequences cannot be read, or do not fit each other.
    """
    events = read_sequences(sequences)
    loaded = load_model(model)
    answers = Answers.to_serve(loaded, events)
    shelf = read_shelf(sequences, events, segment=card.segment_feature)
    with TemporaryDirectory(dir=archive) as folder:
        content = Path(folder)
        exported = export_program(answers)
        if exported is not None:
            program.save(exported, content / "program.pt2")
        if (items_exported := export_item_program(loaded)) is not None:
            program.save(items_exported, content / ITEM_PROGRAM)
        np.save(content / "item_matrix.npy", answers.items)
        if answers.memory is not None:
            answers.memory.save(content / "memory.npz")
            shutil.copyfile(inspect.getfile(neighbours), content / "neighbours.py")
        baskets = write_baskets(events, answers.memory, content / BASKETS)
        known = askers(events, USERS)
        of_users = answers.users(events, known), card.serving, answers.bonuses(events, known)
        retrieval, index = make_index(content, answers.items, *of_users)
        placements = offered([path.name for path in content.iterdir()], network=loaded.model is not None)
        golden = goldens(answers, events, shelf, index) + placed_goldens(answers, events, shelf, placements, baskets)
        (content / "items.json").write_text(json.dumps(shelf.items()))
        (content / "popular.json").write_text(json.dumps(shelf.popular(MAX_K)))
        (content / "goldens.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
        shutil.copyfile(model / "encoder.json", content / "encoder.json")
        shutil.copyfile(inspect.getfile(encoder_module), content / "encoder.py")
        contract = {
            "schema": scorer.SCHEMA,
            "model": name,
            "width": answers.items.shape[1],
            "network": loaded.model is not None,
            "max_history": loaded.config.model.max_history,
            "default_k": DEFAULT_K,
            "max_k": MAX_K,
            "exclude_seen": not card.repeats,
            "varying": [{"name": field.name, "kind": field.kind} for field in loaded.encoder.varying],
            "retrieval": retrieval,
            "filterable": shelf.filterable,
            "filters_not": True,
            "segment": shelf.segment,
            "parts": parts(answers),
            "placements": list(placements),
            "kinds": list(KINDS),
            "recipe_digest": recipe_digest(model, events.catalogue),
            "digests": {path.name: digest_file(path) for path in sorted(content.iterdir())},
        }
        if shelf.dates:
            contract["dates"] = shelf.dates
        if shelf.rhythm is not None:
            contract["rhythm"] = shelf.rhythm
        if types := loaded.encoder.event_types:
            contract["event_types"] = [{"name": each.name, "predict": each.predict} for each in types]
        if asking := [each for each in events.catalogue.asking if each["name"] in loaded.encoder.asking_names]:
            contract["asking"] = [{**each, "kind": kinds.KINDS[each["kind"]].request} for each in asking]
        contract |= item_features(card, sequences)
        version = version or _version(sequences, contract)
        contract["version"] = version
        (content / "serving.json").write_text(json.dumps(contract, indent=1, sort_keys=True))
        mar = archive / f"{name}.mar"
        digest = archives.build(content, mar, name=name, version=version)
    report = {
        "model": name,
        "version": version,
        "archive_digest": digest,
        "recipe_digest": contract["recipe_digest"],
        "items": len(events.catalogue),
        "golden_requests": len(golden),
        "network": contract["network"],
        "data_until": json.loads((sequences / "features.json").read_text())["as_of"],
        "bytes": mar.stat().st_size,
    }
    (archive / "report.json").write_text(json.dumps(report, indent=1))
    return report


def parts(answers: Answers) -> dict[str, int]:
    """What the numbers of a row of the item matrix are, in their order, and how many: what an item is like, and how
    much it is wanted by all, by the network and by its bucket of the memory."""
    model, memory = answers.loaded.model, {"popularity": 1} if answers.memory is not None else {}
    if model is None:
        return memory
    names = ("identity", "features") if model.channels == 2 else ("network",)
    return {**dict.fromkeys(names, model.config.width), "appeal": 1, **memory}


def write_baskets(sequences: Sequences, memory: Memory | None, path: Path) -> NeighbourTable:
    """What lies in one basket, by all events, on the scale of what `memory` has of what follows each other; no file
    where no basket has two items."""
    everything = replace(sequences, split=np.zeros_like(sequences.split))
    table = in_baskets(everything, memory.tables[0] if memory is not None else None)
    if len(table.item_N):
        arrays = {"first": table.first_V, "item": table.item_N, "weight": table.weight_N.astype(np.float16)}
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return table


def recipe_digest(model: Path, catalogue: Catalogue) -> str:
    """What makes this model the arm of an experiment that it is; see `components.shared.recipe_digest`."""
    recipe = model / "recipe.json"
    if not recipe.is_file():  # of a model trained before recipes were kept
        recipe = model / "config.json"
    return recipes.recipe_digest(json.loads(recipe.read_text()), catalogue.described)


def _version(sequences: Path, contract: dict[str, Any]) -> str:
    served_by = {entry: hashlib.sha256(source).hexdigest() for entry, source in archives.code().items()}
    as_of = json.loads((sequences / "features.json").read_text())["as_of"]
    return f"{as_of[:10].replace('-', '')}-{digest_json({'contract': contract, 'code': served_by})[:8]}"
