"""Single breakages of a module, made by its syntax: what a slip of the hand, or of a merge, would leave behind.

A comparison takes its neighbour (`<` becomes `<=`, also in SQL), `and` becomes `or` or loses one side, `not` goes, a
branch is always or never taken, a filter is dropped, a sum becomes a difference, `min` becomes `max`, a number is one
more, a truth is turned round, a statement that only has an effect is left out.
"""

import ast
import copy
import re
from collections.abc import Callable, Iterator

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_SQL = re.compile(r"\b(SELECT|WHERE|CASE|WHEN|JOIN|OVER|AND|FROM|ORDER BY|HAVING)\b|\w (<|>|<=|>=) [\w$?]")
_IN_SQL = {">=": ">", "<=": "<", ">": ">=", "<": "<=", "AND": "OR", "OR": "AND", "NOT ": "", "min(": "max(",
           "max(": "min(", "ASC": "DESC", "DESC": "ASC", "greatest(": "least(", "least(": "greatest("}  # fmt: skip
_WORDS = re.compile(r"(?<![\w<>=!-])(>=|<=|>|<|AND\b|OR\b|NOT |ASC\b|DESC\b|(?:min|max|greatest|least)\()")

Change = Callable[[], None]


def breakages(source: str) -> Iterator[tuple[str, str]]:
    """Every breakage of the module: what it is, and the whole changed source."""
    tree = ast.parse(source)
    mute = _mute(tree)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in mute:
            continue
        for change in range(len(list(_changes(node)))):
            other = copy.deepcopy(tree)
            changed = list(ast.walk(other))[number]
            before = ast.unparse(changed)
            list(_changes(changed))[change]()
            what = f"line {getattr(node, 'lineno', '?')}: {before} -> {ast.unparse(changed)}"
            yield what, ast.unparse(other)


def _mute(tree: ast.AST) -> set[int]:
    """The nodes that decide nothing: docstrings, annotations, decorators, what an exception or a log line says."""
    found: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                silent: list[ast.AST | None] = [node]
            case ast.Raise(exc=ast.Call() as said):
                silent = [said]
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="_logger")))):
                silent = [node]
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                silent = [annotation]
            case ast.FunctionDef(returns=annotation, decorator_list=decorators):
                silent = [annotation, *decorators]
            case ast.ClassDef(decorator_list=decorators):
                silent = [*decorators]
            case _:
                silent = []
        found |= {id(each) for branch in silent if branch for each in ast.walk(branch)}
    return found


def _changes(node: ast.AST) -> Iterator[Change]:
    """What can be changed about a node, each a call that does it."""
    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                if type(op) in _SWAPS:
                    yield lambda place=place, op=op: ops.__setitem__(place, _SWAPS[type(op)]())  # type: ignore[misc]
        case ast.BoolOp(op=op, values=values):
            yield lambda: setattr(node, "op", _SWAPS[type(op)]())
            for place in range(len(values)):
                yield lambda place=place: values.pop(place)  # type: ignore[misc]
        case ast.BinOp(op=op) if type(op) in _SWAPS and not _text(node):
            yield lambda: setattr(node, "op", _SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
        case ast.UnaryOp(op=ast.USub()):
            yield lambda: setattr(node, "op", ast.UAdd())
        case ast.Constant(value=bool() as value):
            yield lambda: setattr(node, "value", not value)
        case ast.Constant(value=int() | float() as value):
            yield lambda: setattr(node, "value", value + 1 if isinstance(value, int) else value * 2 or 0.5)
        case ast.Constant(value=str() as value) if _SQL.search(value):
            for found in _WORDS.finditer(value):
                changed = value[: found.start()] + _IN_SQL[found[0]] + value[found.end() :]
                yield lambda changed=changed: setattr(node, "value", changed)  # type: ignore[misc]
        case ast.IfExp() | ast.If():
            yield lambda: setattr(node, "test", ast.Constant(True))
            yield lambda: setattr(node, "test", ast.Constant(False))
        case ast.comprehension(ifs=ifs):
            for place in range(len(ifs)):
                yield lambda place=place: ifs.pop(place)  # type: ignore[misc]
        case ast.Call(func=ast.Name(id=name) as called) if name in _CALLS:
            yield lambda: setattr(called, "id", _CALLS[name])
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign():
            yield lambda: _leave_out(node)


def _leave_out(node: ast.AST) -> None:
    """Nothing in the place of a statement: it becomes an expression that is thrown away."""
    line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
    node.__class__ = ast.Expr
    node.__dict__.clear()
    node.__dict__.update(value=ast.Constant(None), lineno=line, col_offset=column)


def _text(node: ast.BinOp) -> bool:
    return any(
        isinstance(each, ast.JoinedStr) or getattr(each, "value", None).__class__ is str for each in ast.walk(node)
    )
