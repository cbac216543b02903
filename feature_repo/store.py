"""Opening the feature store of a card: configuration from a template, definitions applied."""

import contextlib
import importlib.util
import io
import logging
import os
import sqlite3
import string
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from feature_repo.card import DatasetCard
from feature_repo.definitions import Definitions, definitions
from feature_repo.feast_import import (
    DecodeError,
    FeatureStore,
    RegistryProto,
    RepoConfig,
)
from runtime.service_log import quieten

EMBEDDED = Path(__file__).parent / "feature_store.yaml"
OVERLAYS = Path(__file__).parent / "overlays"
_READS, _PAUSE = 5, 0.05
VARIABLE = "HETERREC_FEATURE_STORE"
_logger = logging.getLogger(__name__)


def overlays() -> list[Path]:
    """What `$HETERREC_FEATURE_STORE` lays over feature_store.yaml: names in feature_repo/overlays or paths, by commas.

    Raises `ValueError` for one that is not there.
    """
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    paths = [Path(name) if name.endswith((".yaml", ".yml")) else OVERLAYS / f"{name}.yaml" for name in named]
    if missing := [str(path) for path in paths if not path.is_file()]:
        known = ", ".join(sorted(path.stem for path in OVERLAYS.glob("*.yaml")))
        raise ValueError(f"{VARIABLE}: no file {', '.join(missing)}. Known: {known}; or give the path of a .yaml file.")
    return paths


def repo_config(project: str, root: Path, over: Sequence[Path] | None = None) -> RepoConfig:
    """Feast's configuration: feature_store.yaml, each of whose keys the files `over` may replace (see `overlays`).

    `${FEAST_PROJECT}` and `${FEAST_ROOT}` become `project` and `root`; every other `${NAME}` is read from
    the environment (hosts and passwords of shared stores). Raises `ValueError` where one is not set.
    """
    root = root.resolve()
    values = {**os.environ, "FEAST_PROJECT": project, "FEAST_ROOT": str(root)}
    settings: dict[str, Any] = {}
    for path in (EMBEDDED, *(overlays() if over is None else over)):
        try:
            settings |= yaml.safe_load(string.Template(path.read_text()).substitute(values))
        except KeyError as error:
            raise ValueError(f"{path}: needs the environment variable {error.args[0]}, which is not set.") from error
    if settings["offline_store"]["type"] == "spark" and importlib.util.find_spec("pyspark") is None:
        raise ValueError(
            f"{VARIABLE}: the Spark offline store needs pyspark, which is not installed: "
            "scripts/setup.sh train serve gateway dev spark"
        )
    config = RepoConfig(**settings)
    config.repo_path = root
    return config


def open_store(card: DatasetCard, events: Path, root: Path, over: Sequence[Path] | None = None) -> FeatureStore:
    """The store of `card` on the `events` artifact, kept under `root`; safe to call again.

    Views that the card no longer has are taken out of the registry and of the online store.
    """
    root.mkdir(parents=True, exist_ok=True)
    config = repo_config(card.name, root, over)
    _set_aside_damaged(config)
    store = FeatureStore(config=config)
    if config.online_store.type == "sqlite":
        # Readers and one writer beside each other: otherwise a materialise holds up every read.
        with contextlib.closing(sqlite3.connect(config.online_store.path)) as database:
            database.execute("PRAGMA journal_mode = WAL")
    paths = {"events": events.resolve(), "histories": histories_path(root).resolve()}
    with quiet():
        wanted = definitions(card, **paths, spark=config.offline_store.type == "spark")
        store.apply(wanted.objects, objects_to_delete=_outdated(store, wanted), partial=False)
    return store


def connect(project: str, root: Path, over: Sequence[Path] | None = None) -> FeatureStore:
    """The store as it was last applied, for readers: nothing is registered and no events are needed.

    Raises `ValueError` where its registry cannot be read, or was never written.
    """
    config = repo_config(project, root, over)
    if _in_file(config) and not Path(config.registry.path).is_file():  # Feast would make an empty one
        raise ValueError(
            f"{config.registry.path}: no such file, so the feature store of {project!r} was never filled: run the "
            "pipeline."
        )
    for _ in range(_READS):
        damage = _damage(config)
        if damage is None:
            return FeatureStore(config=config)
        time.sleep(_PAUSE)  # Feast writes the file in place: a reader may meet half of it
    raise ValueError(
        f"{config.registry.path}: the feature registry cannot be read ({damage}). It holds declarations only, which "
        "the next materialise writes anew: run the pipeline, or `python -m pipelines catalogue`."
    )


def _in_file(config: RepoConfig) -> bool:
    return bool(getattr(config.registry, "registry_type", "file") == "file")


def _damage(config: RepoConfig) -> str | None:
    """Why the registry file cannot be read; None where it can, does not exist yet, or is no file."""
    path = Path(config.registry.path)
    if not _in_file(config) or not path.is_file():
        return None
    try:
        RegistryProto.FromString(path.read_bytes())
    except DecodeError as error:
        return str(error)
    return None


def _set_aside_damaged(config: RepoConfig) -> None:
    """Make room for a new registry where the old one is damaged; it is kept as registry.db.damaged."""
    if (damage := _damage(config)) is not None:
        path = Path(config.registry.path)
        os.replace(path, path.with_name(path.name + ".damaged"))
        _logger.warning("%s: damaged (%s), written anew; the old one is kept", path, damage)


def histories_path(root: Path) -> Path:
    """The offline copy of the user histories that the online store was filled with."""
    return root / "user_history.parquet"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's progress bars and coloured prints off the console; errors still raise."""
    quieten("feast")
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        # ibis calls a name that DuckDB is about to retire; Feast calls its Spark parts experimental at every use.
        # Nothing a user could act on.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"The spark .* experimental", category=RuntimeWarning)
        yield


def _outdated(store: FeatureStore, wanted: Definitions) -> list[Any]:
    names = {view.name for view in wanted.views}
    return [view for view in store.list_feature_views() if view.name not in names]
