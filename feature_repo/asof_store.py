"""An offline store for Feast that joins with DuckDB's ASOF join: Feast's own answers in a fraction of its time.

Registered by its name in feature_store.yaml, Feast's documented way. Feast's DuckDB store pairs every asked row with
all earlier rows of its key before it keeps the latest; ASOF walks both sides once. Everything but the historical join,
and every request that this join does not cover, is left to Feast's store.
"""

from dataclasses import dataclass
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.feast_import import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    ParquetFormat,
    RepoConfig,
    RetrievalJob,
    RetrievalMetadata,
    infer_event_timestamp_from_entity_df,
    write_data_source,
)

MEMORY = "2GB"


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Feast finds it by the store's name followed by Config."""

    type: str = "feature_repo.asof_store.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """`get_historical_features` answers as Feast's DuckDB store does.

    `entity_df` may also be an Arrow table, which is not copied. Where several rows of a key share event and created
    time, Feast takes any of them; here it is always the one with the largest values.
    """

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if not _covered(entity_df, feature_views, on_demand):
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project,
                full_feature_names, filter_by_created_timestamp,
            )  # fmt: skip
        if not isinstance(entity_df, pa.Table):
            entity_df = pa.Table.from_pandas(entity_df, preserve_index=False)
        moment = _moment_column(entity_df)
        sides = [
            _Side.of(view, number, feature_refs, full_feature_names, filter_by_created_timestamp)
            for number, view in enumerate(feature_views)
        ]
        return _Job(entity_df, moment, sides, on_demand, full_feature_names, feature_refs, str(config.repo_path))


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One view as the right side of the join. All names but `keys` and `features` are quoted SQL."""

    alias: str
    scan: str
    keys: dict[str, str]
    """The view's key to the asked table's."""
    features: dict[str, str]
    """The view's feature to the answer's column."""
    source_name: dict[str, str]
    """Columns that the file calls otherwise."""
    event_time: str
    created: str
    ttl: timedelta | None
    by_created: bool

    @classmethod
    def of(cls, view: FeatureView, number: int, references: list[str], full: bool, by_created: bool) -> "_Side":
        source, prefix = view.batch_source, f"{view.projection.name_to_use()}:"
        shown = view.projection.name_alias or view.name
        asked = [reference.removeprefix(prefix) for reference in references if reference.startswith(prefix)]
        renamed = {new: old for old, new in source.field_mapping.items()}
        created = source.created_timestamp_column
        path = source.path.replace("'", "''")
        return cls(
            alias=f"v{number}",
            # A column named by a folder (day=2026-01-01) is none of the view's.
            scan=f"read_parquet('{path}', hive_partitioning = false)",
            keys=dict(view.projection.join_key_map) or {entity.name: entity.name for entity in view.entity_columns},
            features={name: f"{shown}__{name}" if full else name for name in asked},
            source_name=renamed,
            event_time=_quoted(renamed.get(source.timestamp_field, source.timestamp_field)),
            created=_quoted(renamed.get(created, created)) if created else "NULL",
            ttl=view.ttl or None,
            by_created=bool(by_created and created),
        )

    def prepare(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make the view or table `alias`: one row a key and moment `__known` from which it counts."""
        names = [*self.keys, *self.features]
        columns = ", ".join(f"{_quoted(self.source_name.get(name, name))} AS {_quoted(name)}" for name in names)
        late = f"SELECT 1 FROM {self.scan} WHERE {self.created} > {self.event_time} LIMIT 1"
        by_created = self.by_created and bool(db.execute(late).fetchall())
        known = f"greatest({self.event_time}, {self.created})" if by_created else self.event_time
        db.execute(
            f"CREATE VIEW {self.alias}_rows AS SELECT {columns}, {self.event_time}::TIMESTAMPTZ AS __event, "
            f"{self.created}::TIMESTAMPTZ AS __created, {known}::TIMESTAMPTZ AS __known FROM {self.scan}"
        )
        keys = [_quoted(key) for key in self.keys]
        rows = f"SELECT * FROM {self.alias}_rows"
        moment = ", ".join([*keys, "__known"])
        if db.execute(f"SELECT 1 FROM {self.alias}_rows GROUP BY {moment} HAVING count(*) > 1 LIMIT 1").fetchall():
            order = ", ".join(f"{name} DESC" for name in ["__event", "__created", *map(_quoted, self.features)])
            rows += f" QUALIFY row_number() OVER (PARTITION BY {moment} ORDER BY {order}) = 1"
        if by_created:
            # What comes to be known later counts only where it is also newer than all that was known before.
            by_key = f"PARTITION BY {', '.join(keys)}" if keys else ""
            past = f"{by_key} ORDER BY __known ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
            own = "row(__event, __created)"
            rows = f"SELECT * FROM ({rows}) QUALIFY {own} = max({own}) OVER ({past})"
        db.execute(f"CREATE VIEW {self.alias} AS {rows}")

    def join(self, moment: str) -> str:
        matches = [f"e.{_quoted(asked)} = {self.alias}.{_quoted(key)}" for key, asked in self.keys.items()]
        return f"ASOF LEFT JOIN {self.alias} ON {' AND '.join([*matches, f'e.{moment} >= {self.alias}.__known'])}"

    def columns(self, moment: str) -> list[str]:
        """The features; one whose time to live is over is missing, in the last moment of it still there."""
        alive = None
        if self.ttl:
            lives = f"to_microseconds({self.ttl // timedelta(microseconds=1)})"
            alive = f"{self.alias}.__event + {lives} >= e.{moment}"
        found = []
        for name, shown in self.features.items():
            value = f"{self.alias}.{_quoted(name)}"
            found.append(f"{f'CASE WHEN {alive} THEN {value} END' if alive else value} AS {_quoted(shown)}")
        return found


class _Job(RetrievalJob):  # type: ignore[misc]
    """The join, done when its answer is asked for."""

    def __init__(
        self,
        asked: pa.Table,
        moment: str,
        sides: list[_Side],
        on_demand: list[Any],
        full_feature_names: bool,
        references: list[str],
        repo_path: str,
    ) -> None:
        self._asked, self._moment, self._sides, self._on_demand = asked, moment, sides, on_demand
        self._full_feature_names, self._references, self._repo_path = full_feature_names, references, repo_path

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        moment = _quoted(self._moment)
        with TemporaryDirectory(prefix="duckdb-") as spill, duckdb.connect() as db:
            db.execute(f"SET TimeZone = 'UTC'; SET memory_limit = '{MEMORY}'; SET temp_directory = '{spill}'")
            # An Arrow table tells DuckDB no row count: it would take it for tiny, and pair each row with every other.
            db.execute("SET preserve_insertion_order = false; SET asof_loop_join_threshold = 0")
            db.register("entities", self._asked)
            # Times of any precision are compared in the microseconds that are stored.
            db.execute(f"CREATE VIEW asked AS SELECT * REPLACE ({moment}::TIMESTAMPTZ AS {moment}) FROM entities")
            for side in self._sides:
                side.prepare(db)
            columns = ", ".join(["e.*", *(column for side in self._sides for column in side.columns(moment))])
            joins = " ".join(side.join(moment) for side in self._sides)
            return db.execute(f"SELECT {columns} FROM asked e {joins}").to_arrow_table()

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal(timeout).to_pandas()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        import ibis

        table = ibis.memtable(self._to_arrow_internal(timeout))
        write_data_source(table, storage.to_data_source(), self._repo_path, "overwrite", allow_overwrite)

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        times = self._asked[self._moment]
        return RetrievalMetadata(
            features=self._references,
            keys=[name for name in self._asked.column_names if name != self._moment],
            min_event_timestamp=pc.min(times).as_py(),
            max_event_timestamp=pc.max(times).as_py(),
        )


def _covered(entity_df: Any, views: list[FeatureView], on_demand: list[Any]) -> bool:
    """Frames and Arrow tables over local Parquet; SQL strings, other formats and buckets are Feast's."""

    def plain(source: Any) -> bool:
        local = isinstance(source, FileSource) and "://" not in source.path
        return local and isinstance(source.file_format, ParquetFormat | None)

    return (
        entity_df is not None
        and not isinstance(entity_df, str)
        and all(plain(view.batch_source) for view in views)
        and all(view.mode != "substrait" for view in on_demand)
    )


def _moment_column(asked: pa.Table) -> str:
    """The column of the asked times, by Feast's rule: `event_timestamp`, or the only column of times."""
    return str(infer_event_timestamp_from_entity_df({f.name: f.type.to_pandas_dtype() for f in asked.schema}))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
