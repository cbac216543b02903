"""What a run's artifacts were made of, as a graph: each task to the right of those whose artifacts it read."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from markupsafe import Markup

from console.runs import RunView
from runtime.task import TaskRecord

_WIDE, _HIGH, _ACROSS, _DOWN = 112, 30, 36, 14
_STYLES = {"done": "good", "reused": "none", "failed": "bad", "running": "warn"}
_LETTERS = 15
Point = tuple[float, float]
Parents = Mapping[str, Sequence[tuple[str, str]]]
"""By task, (name of the input, task that made it)."""


def parents(run: RunView) -> dict[str, list[tuple[str, str]]]:
    """Which input of each task came from which task, by the digests of the artifacts."""
    made = {record.digest: task for task, record in run.records.items() if record.digest}
    return {
        task: [
            (name, made[digest])
            for name, digest in record.parents.items()
            if digest in made and made[digest] != task  # what a task is given may be what it gives back
        ]
        for task, record in run.records.items()
    }


def depths(made_of: Parents) -> dict[str, int]:
    """How many tasks stand between each and the source, by the longest way."""
    found: dict[str, int] = {}

    def depth(task: str, on_the_way: frozenset[str]) -> int:
        if task not in found:
            above = [parent for _, parent in made_of[task] if parent not in on_the_way]
            found[task] = 1 + max((depth(parent, on_the_way | {task}) for parent in above), default=-1)
        return found[task]

    for task in made_of:
        depth(task, frozenset((task,)))
    return found


def graph(records: Mapping[str, TaskRecord], made_of: Parents) -> Markup:
    """The picture; every task leads to its row of the table below."""
    place = _places(depths(made_of))
    marks = [
        _arrow(place[parent], place[task], f"{parent}: {name}")
        for task, inputs in made_of.items()
        for name, parent in inputs
    ]
    marks += [_node(records[task], at) for task, at in place.items()]
    wide, high = (2 + max(values) for values in zip(*((x + _WIDE, y + _HIGH) for x, y in place.values()), strict=True))
    head = Markup('<svg class="lineage" viewBox="0 0 {} {}" role="group" aria-label="what each task was made of">')
    return head.format(wide, high) + Markup("").join(marks) + Markup("</svg>")


def _node(record: TaskRecord, at: Point) -> Markup:
    task, (x, y) = record.task, at
    told = f"{task}: {record.status}, {record.seconds:.1f} s, {record.digest or 'no artifact'}"
    short = task if len(task) <= _LETTERS else f"{task[: _LETTERS - 1]}…"
    link = Markup('<a href="#task-{}"><title>{}</title>').format(task, told)
    box = Markup('<rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="6"/>')
    text = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text></a>').format(x + _WIDE / 2, y + 20, short)
    return link + box.format(_STYLES.get(record.status, "none"), x, y, _WIDE, _HIGH) + text


def _arrow(parent: Point, task: Point, told: str) -> Markup:
    (left, above), (right, below) = (parent[0] + _WIDE, parent[1] + _HIGH / 2), (task[0], task[1] + _HIGH / 2)
    middle = (left + right) / 2
    way = f"M{left},{above} C{middle},{above} {middle},{below} {right},{below}"
    return Markup('<path class="arrow" d="{}"><title>{}</title></path>').format(way, told)


def _places(depth: Mapping[str, int]) -> dict[str, Point]:
    """Left and upper end of each task: a column for each depth, in the middle of the height."""
    ordered = sorted(depth, key=lambda task: depth[task])
    columns = [list(tasks) for _, tasks in groupby(ordered, key=lambda task: depth[task])]
    step, most = _HIGH + _DOWN, max(map(len, columns), default=0)
    return {
        task: (2 + number * (_WIDE + _ACROSS), 2 + (most - len(tasks)) * step / 2 + row * step)
        for number, tasks in enumerate(columns)
        for row, task in enumerate(tasks)
    }
