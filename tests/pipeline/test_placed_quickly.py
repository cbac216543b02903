"""To put a cluster's facts on tasks reads no source: Kubeflow would, of every frame on the stack, for each setting."""

import inspect

import pytest
from kfp import dsl

from components.resolve.component import resolve
from pipelines.cluster import Cluster
from pipelines.packages import BUILDERS


@pytest.mark.parametrize("kind", BUILDERS)
def test_no_source_is_looked_for_while_a_pipeline_is_built(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: object, **__: object) -> None:
        raise AssertionError("looks for the source of a frame")

    monkeypatch.setattr(inspect, "getframeinfo", looked)
    assert BUILDERS[kind](Cluster()).pipeline_spec.pipeline_info.name == f"heterrec-{kind}"


@pytest.mark.parametrize("setting", ["set_env_variable", "set_cpu_request"])
def test_a_setting_where_there_is_no_container_is_still_named(setting: str) -> None:
    @dsl.pipeline
    def inner() -> None:
        events = dsl.importer(artifact_uri="s3://b/e", artifact_class=dsl.Dataset).output
        resolve(run_id="", card="", as_of="", new_reference=False, events=events)

    with pytest.raises(ValueError, match=f"^{setting} can only be used on single-step"):

        @dsl.pipeline
        def outer() -> None:
            asked = ("name", "value") if setting == "set_env_variable" else ("1",)
            getattr(inner(), setting)(*asked)
