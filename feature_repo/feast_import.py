"""Feast, imported quietly and in about half the time; every module of ours takes it from here.

Feast decorates its classes with typeguard's `typechecked`, which rewrites their source on every start (5 of
12 seconds on a laptop core). `python -O` turns that off for a whole process; here it is off for Feast alone.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typeguard
from google.protobuf.message import DecodeError

os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("DO_NOT_TRACK", "1")


@contextmanager
def _without_typeguard() -> Iterator[None]:
    original = typeguard.typechecked
    setattr(typeguard, "typechecked", lambda target=None, **_: target or (lambda each: each))  # noqa: B010
    try:
        yield
    finally:
        setattr(typeguard, "typechecked", original)  # noqa: B010


@contextmanager
def _without_shared_metrics() -> Iterator[None]:
    """Feast makes Prometheus share the metrics of all processes that inherit its environment, ours included."""
    import prometheus_client  # noqa: F401  (decides at its import how it keeps values)

    before = {name: os.environ.get(name) for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Feast imports torch to offer tensors, which nobody here asks for: 180 MiB in every gateway and consumer."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # "there is none", which Feast provides for
    try:
        yield
    finally:
        del sys.modules["torch"]


with _without_typeguard(), _without_shared_metrics(), _without_torch():
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        RepoConfig,
        ValueType,
    )
    from feast.data_format import ParquetFormat
    from feast.errors import FeatureViewNotFoundException
    from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
        SparkSource,
    )
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
    from feast.infra.offline_stores.duckdb import _write_data_source as write_data_source
    from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
    from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
    from feast.infra.provider import get_provider
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
    from feast.protos.feast.types.Value_pb2 import FloatList, StringList
    from feast.protos.feast.types.Value_pb2 import Value as ValueProto
    from feast.types import (
        Array,
        Bytes,
        Float32,
        Float64,
        String,
    )

__all__ = [
    "Array",
    "Bytes",
    "DecodeError",
    "DuckDBOfflineStore",
    "DuckDBOfflineStoreConfig",
    "Entity",
    "EntityKeyProto",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "FeatureViewNotFoundException",
    "Field",
    "FileSource",
    "Float32",
    "Float64",
    "FloatList",
    "OnDemandFeatureView",
    "ParquetFormat",
    "RegistryProto",
    "RepoConfig",
    "RetrievalJob",
    "RetrievalMetadata",
    "SavedDatasetSparkStorage",
    "SparkSource",
    "String",
    "StringList",
    "ValueProto",
    "ValueType",
    "deserialize_entity_key",
    "get_provider",
    "infer_event_timestamp_from_entity_df",
    "serialize_entity_key",
    "write_data_source",
]
