"""Several views of the same keys from Redis in one round trip: Feast's own read makes one a view.

Each trip hands the processor to the server and waits to get it back. On a busy machine that, and not the work, is
what a read takes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from feature_repo.feast_import import (
    EntityKeyProto,
    FeatureView,
    RepoConfig,
    ValueProto,
)

Values = dict[str, ValueProto] | None


def serves(online_store: Any) -> bool:
    """Whether Feast's `online_store` object is one that `read` can ask."""
    return type(online_store).__name__ == "RedisOnlineStore"


def read(
    online_store: Any,
    config: RepoConfig,
    asked: Mapping[str, tuple[FeatureView, Sequence[str]]],
    entities: Sequence[EntityKeyProto],
) -> dict[str, list[Values]]:
    """The features `asked` of each view, as the store's `online_read` gives them, an entity each.

    All views of a key lie in one hash of Redis.
    """
    from feast.infra.online_stores.redis import _versioned_fv_name

    fields: list[str | bytes] = []
    parts = {}
    for name, (view, features) in asked.items():
        stored_as = _versioned_fv_name(view, config)
        names, of_view = online_store._generate_hset_keys_for_features(view, list(features), stored_as)
        parts[name] = stored_as, names, slice(len(fields), len(fields) + len(of_view))
        fields += of_view
    keys = online_store._generate_redis_keys_for_entities(config, entities)
    rows = online_store._read_hash_fields(config, [(key, fields) for key in keys])
    return {
        name: [
            values for _, values in online_store._convert_redis_values_to_protobuf([row[part] for row in rows], *stored)
        ]
        for name, (*stored, part) in parts.items()
    }
