"""Copies of an archive with planted faults: what a rollout must send back, and what must be out of traffic at once."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from heterrec.memory.neighbours import Memory
from serving.scoring.scorer import Scorer
from serving.torchserve import archive

Fault = Literal["errors", "slow", "wrong catalogue"]
FAULTS: dict[Fault, str] = {
    "errors": 'raise RuntimeError("sabotage")',
    "slow": "time.sleep(2.0)",
    "wrong catalogue": "answers = [body.replace(b'_id\":\"', b'_id\":\"x') for body in answers]",
}
"""What the handler does with its answers once the trigger is there."""


def worse(mar: Path, out: Path, *, share: float = 0.5, seed: int = 0) -> str:
    """A copy in which the vectors of a `share` of the items have changed places: sound in every part, and a bad shop.

    Its goldens are its own answers, as a training with that fault would have made them. Returns the new version.
    """
    name, version = archive.identity(mar)
    version += "-worse"
    with TemporaryDirectory() as folder:
        content = _content(mar, Path(folder))
        matrix = np.load(content / "item_matrix.npy")
        rng = np.random.default_rng(seed)
        moved = rng.permutation(len(matrix))[: int(share * len(matrix))]
        matrix[moved] = matrix[np.roll(moved, 1)]
        np.save(content / "item_matrix.npy", matrix)
        if (content / "memory.npz").is_file():
            _forgetful(content / "memory.npz", moved)
        _seal(content, version)
        lines = [json.loads(line) for line in (content / "goldens.jsonl").read_text().splitlines()]
        answers = Scorer.load(content).score([line["request"] for line in lines])
        shutil.rmtree(content / "__pycache__", ignore_errors=True)  # the encoder was imported from here
        golden = [{**line, "answer": answer} for line, answer in zip(lines, answers, strict=True)]
        (content / "goldens.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
        _seal(content, version)
        archive.build(content, out, name=name, version=version)
    return version


def _forgetful(path: Path, moved: np.ndarray) -> None:
    """The memory too takes the moved items for one another."""
    memory = Memory.load(path)
    place = np.arange(len(memory.count_V), dtype=np.int32)
    place[moved] = place[np.roll(moved, 1)]
    memory.tables = tuple(replace(table, item_N=place[table.item_N]) for table in memory.tables)
    memory.save(path)


def faulty(mar: Path, out: Path, fault: Fault, trigger: Path) -> str:
    """A copy that is sound until the file `trigger` is there, and then has the fault. Returns the new version."""
    name, version = archive.identity(mar)
    version += "-" + fault.replace(" ", "-")
    with TemporaryDirectory() as folder:
        content = _content(mar, Path(folder))
        _seal(content, version)
        archive.build(content, out, name=name, version=version)
    ending = "        return answers\n"
    with zipfile.ZipFile(out) as built:
        entries = {entry: built.read(entry) for entry in built.namelist()}
    handler = entries[archive.HANDLER].decode()
    assert handler.count(ending) == 1, "the handler has changed: say anew where a fault is planted"
    planted = f"        if Path({str(trigger)!r}).exists():\n            {FAULTS[fault]}\n{ending}"
    entries[archive.HANDLER] = handler.replace(ending, planted).encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as rebuilt:
        for entry, data in entries.items():
            rebuilt.writestr(entry, data)
    return version


def _content(mar: Path, folder: Path) -> Path:
    """The archive's own files, without the code that `build` adds."""
    with zipfile.ZipFile(mar) as packed:
        for entry in packed.namelist():
            if "/" not in entry and entry != archive.HANDLER:
                (folder / entry).write_bytes(packed.read(entry))
    return folder


def _seal(content: Path, version: str) -> None:
    """Name the version, and write the digests anew."""
    contract = json.loads((content / "serving.json").read_text())
    contract["version"] = version
    contract["digests"] = {entry: archive.digest(content / entry) for entry in contract["digests"]}
    (content / "serving.json").write_text(json.dumps(contract, indent=1, sort_keys=True))
