"""The graph of a run's lineage."""

import re

from hypothesis import given
from hypothesis import strategies as st

from console.lineage import depths, graph, parents
from console.runs import RunView
from runtime.task import TaskRecord


def _run(edges: dict[int, set[int]]) -> RunView:
    """Tasks by number, each made of others."""
    return RunView(
        name="shop-1",
        records={
            f"t{task}": TaskRecord(
                task=f"t{task}",
                status="done",
                started="2026-01-01T00:00:00+00:00",
                digest=f"d{task}",
                parents={f"input{n}": f"d{parent}" for n, parent in enumerate(sorted(of))} | {"elsewhere": "unknown"},
            )
            for task, of in edges.items()
        },
    )


@given(st.lists(st.sets(st.integers(0, 30), max_size=5), min_size=1, max_size=15))
def test_every_task_stands_to_the_right_of_what_it_was_made_of(drawn: list[set[int]]):
    edges = {task: {parent % task for parent in of} if task else set() for task, of in enumerate(drawn)}
    run = _run(edges)
    made_of = parents(run)
    depth = depths(made_of)
    assert {task: {parent for _, parent in inputs} for task, inputs in made_of.items()} == {
        f"t{task}": {f"t{parent}" for parent in of} for task, of in edges.items()
    }
    assert all(depth[task] > depth[parent] for task, inputs in made_of.items() for _, parent in inputs)
    drawing = str(graph(run.records, made_of))
    assert drawing.count("<rect") == len(edges) and drawing.count("<path") == sum(map(len, edges.values()))
    places = re.findall(r'<rect class="box good" x="([\d.]+)" y="([\d.]+)"', drawing)
    assert len(set(places)) == len(edges)  # none lies over another


def test_artifacts_that_name_each_other_or_themselves_still_make_a_picture():
    run = _run({0: {1}, 1: {0}, 2: {2}})
    assert str(graph(run.records, parents(run))).count("<rect") == 3
