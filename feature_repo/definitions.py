"""What Feast knows about a dataset, derived from its card: entities, views and feature services."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from feature_repo.card import DatasetCard
from feature_repo.card_features import Described, Feature
from feature_repo.feast_import import (
    Array,
    Bytes,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    Float32,
    Float64,
    String,
    ValueType,
)
from feature_repo.history import EVENT_TYPE
from feature_repo.kinds import Storage
from feature_repo.sources import parquet_source

ITEM_STATIC = "item_static"
ITEM_VARYING = "item_varying"
ITEM_DERIVED = "item_derived"
USER_STATIC = "user_static"
VIEWS = {"items": ITEM_STATIC, "varying": ITEM_VARYING, "derived": ITEM_DERIVED, "users": USER_STATIC}
USER_HISTORY = "user_history"
HISTORY_FIELD = "history"

DTYPES: dict[Storage, Any] = {
    Storage.TEXT: String,
    Storage.TEXTS: Array(String),
    Storage.NUMBER: Float64,
    Storage.VECTOR: Array(Float32),
}
# A value holds until the next one replaces it: prices do not expire. Feast reads zero as "no expiry".
NEVER_EXPIRES = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """Everything `feast apply` registers for one card."""

    entities: list[Entity]
    views: list[FeatureView]
    services: list[FeatureService]

    @property
    def objects(self) -> list[Any]:
        return [*self.entities, *self.views, *self.services]


def definitions(card: DatasetCard, *, events: Path, histories: Path, spark: bool = False) -> Definitions:
    """Entities `item` and `user`; views `item_static`, `item_varying`, `item_derived`, `user_static` (each only where
    the card has such features) and `user_history`; services `training` (read by the offline join) and `serving` (by a
    request).

    `events` is the events artifact, `histories` the Parquet file of user histories; Feast keeps both paths.
    `spark` says that the offline store is Spark, which wants sources of its own kind.
    """
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    # Globs and not folders: DuckDB opens globs, Feast would ask pyarrow about a folder.
    views = [
        _view(name, item, "item_id", features, events / "items" / files, spark)
        for name, features, files in (
            (ITEM_STATIC, card.static, "static.parquet"),
            (ITEM_VARYING, card.varying, "varying/*/*.parquet"),
            (ITEM_DERIVED, card.derived, "derived/*/*.parquet"),
        )
        if features
    ]
    if card.user_features:
        views.append(
            _view(USER_STATIC, user, "user_id", card.user_features, events / "users" / "static.parquet", spark)
        )
    history = FeatureView(
        name=USER_HISTORY,
        entities=[user],
        ttl=NEVER_EXPIRES,
        schema=[Field(name="user_id", dtype=String), Field(name=HISTORY_FIELD, dtype=Bytes)],
        source=parquet_source(USER_HISTORY, histories, key="user_id", features=[HISTORY_FIELD], spark=spark),
        description="The latest events of a user as one versioned binary value, see feature_repo/history.py",
        **({"tags": {EVENT_TYPE: "true"}} if card.typed else {}),
    )
    services = [
        FeatureService(name="training", features=list(views)),
        FeatureService(name="serving", features=[*views, history]),
    ]
    return Definitions(entities=[item, user], views=[*views, history], services=services)


def references(features: Sequence[Described]) -> list[str]:
    """Feast's names of features, e.g. `item_static:brand`."""
    return [f"{VIEWS[feature.stored_in]}:{feature.name}" for feature in features]


def _view(name: str, entity: Entity, key: str, features: Sequence[Described], files: Path, spark: bool) -> FeatureView:
    fields = [Field(name=feature.name, dtype=DTYPES[feature.storage], tags=_tags(feature)) for feature in features]
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=NEVER_EXPIRES,
        schema=[Field(name=key, dtype=String), *fields],
        source=parquet_source(name, files, key=key, features=[each.name for each in features], spark=spark),
    )


def _tags(feature: Described) -> dict[str, str]:
    """The card's facts about a feature; tags survive the registry and can be read back by a server."""
    if not isinstance(feature, Feature):
        return {"kind": feature.kind}
    tags = {"kind": feature.kind, "varies_in_time": str(feature.varies_in_time).lower()}
    if not feature.token:
        tags["token"] = "false"
    return tags if feature.dimension is None else {**tags, "dimension": str(feature.dimension)}
