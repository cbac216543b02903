"""What changes the meaning of code changes its identity, and nothing else does."""

import ast
from pathlib import Path

import pytest

from components.shared import recipe_digest
from components.shared.former_names import FORMER, REWRITTEN
from runtime import code_digest
from runtime.code_digest import ROOT, canonical

MODULES = sorted(
    path
    for room in ("runtime", "heterrec", "components", "experiments", "events", "serving", "pipelines")
    for path in (ROOT / room).rglob("*.py")
)
CHOSEN = {"block": "softmax", "tokens": "flatten", "token_causality": "plain"}
SYNTAX = '''
"""Told."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import pandas
class Shop[T]:
    """Told."""
    price: float = 1.5
    """Told."""
    async def buy(self, *, n=1, **more):
        """Told."""  # told
        async with self as (a, b):
            return f"a{n!r:>{10}}" f"{{b" "c" if n else await more["x"][::2]
def nothing(x):
    """Told."""
match {"a": 1}:
    case {"a": int() as x, **rest} if x > 0: pass
    case _: raise ValueError
try: x = lambda: (yield)
except* OSError: del x
'''
MEANT = (
    "Module(body=[ImportFrom(module='typing',names=[alias(name='TYPE_CHECKING')],level=0),ClassDef(name='Shop',body=["
    "AnnAssign(target=Name(id='price'),annotation=Name(id='float'),value=1.5,simple=1),AsyncFunctionDef(name='buy',"
    "args=arguments(args=[arg(arg='self')],kwonlyargs=[arg(arg='n')],kw_defaults=[1],kwarg=arg(arg='more')),body=["
)


def replaced(source: str, told: str) -> str:
    """The source once more, every docstring another, and a comment at its end."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = told
    return ast.unparse(tree) + "\n# told differently\n"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_telling_it_differently_is_the_same_code(path: Path) -> None:
    """Layout, comments and docstrings of every module that a key or an identity can reach."""
    source = path.read_text()
    assert canonical(ast.parse(replaced(source, "Otherwise."))) == canonical(ast.parse(source))


@pytest.mark.parametrize(
    "path", [path for path in MODULES if {"heterrec", "evaluate"} & set(path.relative_to(ROOT).parts)], ids=str
)
def test_every_change_of_a_value_a_name_or_an_operator_is_other_code(path: Path) -> None:
    for statement in code_digest.run_of(ast.parse(path.read_text()).body):
        before = canonical(statement)
        for node in code_digest.statements(statement):
            if isinstance(node, ast.Constant):
                kept, node.value = node.value, "another" if node.value != "another" else "yet another"
                assert canonical(statement) != before, ast.unparse(node)
                node.value = kept
            elif isinstance(node, ast.Compare):
                kept, node.ops[0] = node.ops[0], ast.Is() if isinstance(node.ops[0], ast.Lt) else ast.Lt()
                assert canonical(statement) != before, ast.unparse(node)
                node.ops[0] = kept


def test_the_text_is_the_same_on_every_python() -> None:
    """Pinned, for 3.11 and 3.12 alike: neither fields that one of them has nor its way with f-strings may show."""
    source = SYNTAX.replace("[T]", "")  # syntax of 3.12
    assert canonical(ast.parse(source)).startswith(MEANT)
    for cut in (["a{", "b"], ["a{b"], ["", "a", "{b", ""]):
        joined = ast.JoinedStr(values=[ast.Constant(value=part) for part in cut])
        assert canonical(joined) == "JoinedStr(values=['a{b'])"
    of_312 = ast.parse("def f(): return 1").body[0]
    told = canonical(of_312)
    of_312._fields = (*of_312._fields, "type_params")  # type: ignore[attr-defined]
    of_312.type_params = []  # type: ignore[attr-defined]
    assert canonical(of_312) == told == "FunctionDef(name='f',args=arguments(),body=[Return(value=1)])"


def shop(root: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> str:
    """Digest of shop.step where the modules of the package `shop` are these."""
    package = root / "shop"
    package.mkdir(exist_ok=True)
    for name, text in {"__init__": "", "step": "from shop import law\n", "law": "X = 1\n", **sources}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(code_digest, "ROOT", root)
    code_digest.tree.cache_clear()
    code_digest._imports.cache_clear()
    try:
        return code_digest.code_digest("shop.step")
    finally:
        code_digest.tree.cache_clear()
        code_digest._imports.cache_clear()


def test_an_edit_in_an_imported_module_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shop(tmp_path, monkeypatch)
    assert shop(tmp_path, monkeypatch, other="X = 2\n") == before, "nobody imports it"
    assert shop(tmp_path, monkeypatch, law='"""Told."""\nX = 1  # told\n') == before
    assert shop(tmp_path, monkeypatch, law="X = 2\n") != before
    (tmp_path / "shop" / "page.html").write_text("<p>")
    templated = shop(tmp_path, monkeypatch)
    assert templated != before, "a template is what the page is made of"
    (tmp_path / "shop" / "page.css").write_text("p { color: red }")
    assert shop(tmp_path, monkeypatch) != templated, "and so is a style sheet"


def test_a_recipe_is_what_its_training_can_run() -> None:
    """Definitions by name: another recipe's block, the tables to compare with and the recipes' names are none of it."""
    reached = {f"{module}:{name}" for module, name in recipe_digest.reach(CHOSEN)}
    assert {
        "heterrec.training.loop:train",
        "heterrec.loss.lmp:LMP",
        "heterrec.model.transformer:CausalBlock",
        "heterrec.model.htfl:HTFL",
        "heterrec.training.optimiser:Optimiser",
        "heterrec.evaluation.metrics:rank",
        "heterrec.recipes:sized",
        "heterrec.training.weight_average:Average",
        "components.features.splits:ordered_events",
        "components.ingest.derive:derived_sql",
        "heterrec.training.inputs:ALWAYS",
        "heterrec.training.refit:budget",
        "components.features.join:slices",
        "components.features.splits:SLICES",
    } <= reached
    others = {"heterrec.model.transformer:HSTUBlock", "heterrec.recipes:hstu", "heterrec.recipes:RECIPES"}
    assert not others & reached
    assert not [
        name
        for name in reached
        if name.startswith(
            ("heterrec.evaluation.baselines", "heterrec.evaluation.comparison", "heterrec.training.likeness")
        )
    ]
    hstu = {f"{module}:{name}" for module, name in recipe_digest.reach({**CHOSEN, "block": "hstu"})}
    assert hstu - reached == {"heterrec.model.transformer:HSTUBlock"}


def test_an_edit_of_training_is_none_of_the_tables_alone() -> None:
    """And the other way round: what stands behind the return of a branch that is taken never runs."""
    tables, network = ({f"{m}:{name}" for m, name in recipe_digest.reach({"network": each})} for each in (False, True))
    fitted = {"heterrec.memory.neighbour_tables:soonest_after", "heterrec.memory.gates:fit"}
    assert {"heterrec.training.loop:_tables_alone", *fitted} <= tables
    trained = {"heterrec.training.loop:Training", "heterrec.loss.lmp:LMP", "heterrec.training.optimiser:Optimiser"}
    assert not trained & tables
    assert "heterrec.training.refit:refit" in network - tables, "tables have no refit"
    assert "heterrec.training.loop:_tables_alone" not in network and "heterrec.training.loop:Training" in network


@pytest.mark.parametrize(
    ("module", "old", "new", "same"),
    [
        ("heterrec.model.transformer", "class HSTUBlock", "TOLD = 1\n\n\nclass HSTUBlock", True),
        ("heterrec.recipes", "patience=8", "patience=9", True),  # of fast(): the settings say what was asked for
        ("heterrec.loss.lmp", "DAY = ", "DAY = 1 + ", False),
        ("heterrec.training.refit", "SHARE = ", "SHARE = 1 + ", False),  # what serves is of it, too
        ("heterrec.training.weight_average", "EVERY = ", "EVERY = 1 + ", False),
        ("components.features.splits", "ORDER = ", "ORDER = () or ", False),
        ("heterrec.model.network", 'config.block == "hstu"', 'config.block != "hstu"', False),
    ],
)
def test_an_edit_changes_the_recipes_that_can_run_it(
    module: str, old: str, new: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = recipe_digest.training_code(CHOSEN), code_digest.source
    text = real(module).read_text()
    assert old in text
    (tmp_path / "edited.py").write_text(text.replace(old, new))
    monkeypatch.setattr(code_digest, "source", lambda name: tmp_path / "edited.py" if name == module else real(name))
    try:
        forget()
        assert (recipe_digest.training_code(CHOSEN) == before) == same
    finally:
        forget()


def forget() -> None:
    """What a process remembers of the sources."""
    for kept in (code_digest.tree, recipe_digest._module, recipe_digest._pruned, recipe_digest._training_code):
        kept.cache_clear()


def test_a_module_that_was_moved_is_known_by_its_former_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move makes no candidate: the identity names modules as they were called when identities were first kept."""
    assert [name for name in FORMER if code_digest.source(name) is None] == [], "moved again: correct its line"
    assert not [old for old in FORMER.values() if (path := code_digest.source(old)) and path.name != "__init__.py"]
    assert len(set(FORMER.values())) == len(FORMER)
    followed = {each.module for each in recipe_digest.reach(CHOSEN)}
    assert {"heterrec.training.loop", "heterrec.loss.lmp", "components.shared.tables"} <= followed
    before = recipe_digest.training_code(CHOSEN)
    recipe_digest._training_code.cache_clear()
    monkeypatch.delitem(FORMER, "heterrec.loss.lmp")
    assert recipe_digest.training_code(CHOSEN) != before
    recipe_digest._training_code.cache_clear()


def test_what_was_written_anew_and_computes_the_same_is_the_recipe_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not set(REWRITTEN) & set(REWRITTEN.values()) and len(set(REWRITTEN.values())) == len(REWRITTEN)
    forget()
    now = recipe_digest.training_code(CHOSEN)
    found = next((new for new, old in REWRITTEN.items() if old == now), now)
    monkeypatch.setitem(REWRITTEN, found, "before")
    forget()
    assert recipe_digest.training_code(CHOSEN) == "before"
    forget()
