"""Feast definitions follow the card: kinds as tags, order kept, names that Feast's join would lose refused."""

import pytest
import yaml
from pydantic import ValidationError

from feature_repo.card import DatasetCard

CARD = """
name: tiny
description: A shop of a few items
source: {adapter: files, interactions: a.csv, items: b.csv}
features:
  - {name: brand, kind: categorical}
  - {name: tags, kind: multi_categorical}
  - {name: image, kind: embedding, dimension: 3}
  - {name: price, kind: numeric, varies_in_time: true}
split: {by: time}
"""


def card(**changes) -> DatasetCard:
    return DatasetCard.model_validate({**yaml.safe_load(CARD), **changes})


@pytest.fixture
def open_store(tmp_path):
    from feature_repo.store import open_store

    return lambda of: open_store(of, tmp_path / "events", tmp_path / "feast")


def test_views_and_services_are_read_back_from_the_registry(open_store, tmp_path):
    from feature_repo.store import connect

    open_store(card())
    store = connect("tiny", tmp_path / "feast")
    static = store.get_feature_view("item_static").features
    assert [field.name for field in static] == ["brand", "tags", "image"]
    assert static[2].tags == {"kind": "embedding", "varies_in_time": "false", "dimension": "3"}
    assert [str(field.dtype) for field in static][1:] == ["Array(String)", "Array(Float32)"]
    services = {
        service.name: [
            (view.name, [field.name for field in view.features]) for view in service.feature_view_projections
        ]
        for service in store.list_feature_services()
    }
    items = [("item_static", ["brand", "tags", "image"]), ("item_varying", ["price"])]
    assert services == {"training": items, "serving": [*items, ("user_history", ["history"])]}


def test_applying_again_changes_nothing(open_store, tmp_path):
    def registered(store):
        return {view.name: (view.version, view.features) for view in store.list_feature_views(allow_cache=False)}

    assert registered(open_store(card())) == registered(open_store(card()))


def test_there_is_no_varying_view_without_varying_features(open_store):
    store = open_store(card(features=[{"name": "brand", "kind": "categorical"}]))
    assert {view.name for view in store.list_feature_views()} == {"item_static", "user_history"}


@pytest.mark.parametrize("name", ["category_y", "day", "rn"])
def test_a_name_that_feasts_join_would_lose_is_refused(name):
    with pytest.raises(ValidationError, match=f"feature name '{name}' is taken by the files between the steps"):
        card(features=[{"name": name, "kind": "categorical"}])


def test_an_overlay_replaces_what_it_names_and_nothing_else(tmp_path, monkeypatch):
    from feature_repo.store import repo_config

    monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis, sql_registry")
    monkeypatch.setenv("FEAST_REGISTRY_URL", "sqlite:////srv/registry.db")
    with pytest.raises(ValueError, match=r"redis\.yaml: needs the environment variable REDIS_ADDRESS"):
        repo_config("tiny", tmp_path)
    monkeypatch.setenv("REDIS_ADDRESS", "cache:6379,db=2")
    config = repo_config("tiny", tmp_path)
    assert config.online_store.type == "redis"
    assert config.online_store.connection_string.startswith("cache:6379,db=2,")
    assert config.registry.registry_type == "sql"
    assert (config.project, config.offline_store.type) == ("tiny", repo_config("tiny", tmp_path, []).offline_store.type)
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "memcached")
    with pytest.raises(ValueError, match=r"memcached\.yaml\. Known: .*redis, .*sql_registry; or give"):
        repo_config("tiny", tmp_path)


def test_nothing_is_computed_on_demand(open_store):
    """feast#5534: an on-demand view is silently skipped offline where the source has a column of its name."""
    derived = {"name": "sold_7d", "kind": "numeric", "derive": {"by": "count", "days": 7}, "token": False}
    store = open_store(card(features=[*card().model_dump()["features"], derived]))
    assert store.list_on_demand_feature_views() == []
    (field,) = store.get_feature_view("item_derived").features
    assert (field.name, field.tags["token"]) == ("sold_7d", "false")
