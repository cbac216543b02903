"""What a kind of feature is stands in two tables, one of data and one of the model, and nowhere else."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from components.shared.columns import _MISSING, _READABLE
from components.shared.tables import _ARROW
from components.validate.skew import _EQUAL
from feature_repo.definitions import DTYPES
from feature_repo.kinds import KINDS, Name, Storage
from feature_repo.online import _VALUE
from heterrec.data import encoder
from heterrec.data.sequence_files import arrow_type
from serving.scoring.forms import FORMS

ROOT = Path(__file__).parents[3]
TABLES = {"feature_repo/kinds.py", "heterrec/data/encoder.py"}
OTHERS = {
    "serving/scoring/forms.py": "the forms of requests, which have names of their own in every archive",
    "pipelines/guess.py": "proposes a kind for a column of a file",
    "heterrec/data/prepare.py": "proposes a kind for a column of a frame",
    "components/shared/announcement.py": "a chat system's field is called text",
}
ROOMS = ("runtime", "feature_repo", "heterrec", "marketplace", "events", "experiments", "serving", "components",
         "pipelines", "console")  # fmt: skip


def named(source: str) -> set[str]:
    """The kinds whose names stand in the code, as strings of their own."""
    if not any(f'"{name}"' in source for name in KINDS):
        return set()
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)} & set(KINDS)


def test_no_other_file_names_a_kind() -> None:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in paths if named(path.read_text())}
    assert len(paths) > 300 and found == TABLES | set(OTHERS)


def test_a_kind_is_in_both_tables_and_is_stored_alike() -> None:
    assert list(KINDS) == list(encoder.KINDS) == list(get_args(Name))
    for name, kind in KINDS.items():
        model = encoder.KINDS[name]
        assert arrow_type(model) == _ARROW[kind.storage], name
        assert (model.form == encoder.NUMBER) == (kind.storage is Storage.NUMBER), name
        assert (model.form == encoder.VECTOR) == (kind.storage is Storage.VECTOR), name
        assert (model.form == encoder.BAG) == (kind.says is not None), name
        assert model.category == kind.category, name
        assert kind.request is None or FORMS[kind.request].several == kind.storage.several, name
        assert kind.measure is not None or kind.says is not None, f"{name}: the gate has nothing to hold drift against"


@pytest.mark.parametrize("table", [_ARROW, DTYPES, _VALUE, _MISSING, _READABLE, _EQUAL])
def test_every_way_of_storing_a_value_is_read_written_and_compared(table: dict[Storage, object]) -> None:
    assert set(table) == set(Storage)
