"""What a card reads is within reach of the pods, or the server is asked for nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.ingest.source import DATA_VARIABLE, SHARED
from feature_repo.card import DatasetCard, load_card
from pipelines import __main__ as command_line
from pipelines.cluster import Cluster, Secret
from pipelines.containers import folders
from pipelines.packages import package
from pipelines.reach import placed, require_in_containers, require_within_reach
from runtime.errors import InputError
from tests.component.ingest_cards import make_card
from tests.pipeline.kfp_server import kubeflow_server

SQL = {"adapter": "sql", "sql": {"url_from": "SHOP_DATABASE", "interactions": "SELECT * FROM clicks"}}
BROUGHT = (Secret(name="shop-database", env={"url": "SHOP_DATABASE"}),)


def card(folder: Path, **source: Any) -> DatasetCard:
    told = make_card(folder).model_dump(mode="json")
    source = source or {**told["source"], "interactions": "/data/clicks.csv", "items": "s3://shop/items.parquet"}
    return DatasetCard.model_validate({**told, "source": source})


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        (Cluster(), "lies on no volume of the cluster's file (mounted: /work)"),
        (Cluster(claims={"clicks": "/dat"}), "mounted: /dat, /work"),
        (Cluster(workspace_claim="", store="s3://b", workspace_path="/data"), "mounted: none"),
        (Cluster(claims={"clicks": "/data"}), ""),
        (Cluster(workspace_path="/data"), ""),
    ],
)
def test_a_file_lies_on_a_volume_that_is_mounted(tmp_path, cluster, told):
    if not told:
        require_within_reach(card(tmp_path), cluster)
        return
    with pytest.raises(InputError, match=r"source\.interactions of card 'tiny': /data/clicks\.csv") as error:
        require_within_reach(card(tmp_path), cluster)
    assert told in str(error.value)


@pytest.mark.parametrize("dataset", ["amazon_beauty", "online_retail", "complete_journey"])
def test_data_sets_that_lie_on_a_laptop_are_refused(dataset):
    with pytest.raises(InputError, match="so no task could read it"):
        require_within_reach(load_card(dataset), Cluster(workspace_path="/var/workspace"))


def test_what_a_laptop_has_in_shared_data_lies_for_pods_where_their_environment_says():
    beauty = load_card("amazon_beauty")
    cluster = Cluster(
        workspace_path="/var/workspace", claims={"data": "/data"}, environment={DATA_VARIABLE: "/data/sets"}
    )
    moved = placed(beauty, cluster.environment[DATA_VARIABLE])
    require_within_reach(moved, cluster)
    assert (moved.source.interactions, moved.source.items) == (
        Path("/data/sets/beauty/interactions.csv.gz"),
        Path("/data/sets/beauty/items.csv.gz"),
    )
    assert placed(beauty, None) == beauty
    with pytest.raises(InputError, match=r"by `environment: \{HETERREC_DATA: …\}` of that file which mounted folder"):
        require_within_reach(beauty, cluster)
    with pytest.raises(InputError, match="/elsewhere/beauty/interactions"):
        require_within_reach(placed(beauty, "/elsewhere"), cluster)


def test_each_of_several_tables_lies_on_a_volume(tmp_path):
    several = [{"place": "/data/views.csv"}, {"place": "/mine/orders.csv"}]
    source = {"adapter": "files", "interactions": several, "items": "s3://shop/items.parquet"}
    found = card(tmp_path, **source)
    require_within_reach(found, Cluster(claims={"clicks": "/data", "orders": "/mine"}))
    with pytest.raises(InputError, match=r"source\.interactions\.1\.place of card 'tiny': /mine/orders\.csv"):
        require_within_reach(found, Cluster(claims={"clicks": "/data"}))
    tables = [{"place": str(SHARED / "views.csv")}, {"place": "/data/orders.csv"}]
    moved = placed(card(tmp_path, **{**source, "interactions": tables}), "/data/sets").source.interactions
    assert [str(each.place) for each in moved] == ["/data/sets/views.csv", "/data/orders.csv"]


def test_containers_here_read_the_workspace_and_the_data_folder_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "sets"))
    beauty = load_card("amazon_beauty")
    require_in_containers(placed(beauty, str(tmp_path / "sets")), list(folders()))
    with pytest.raises(InputError, match=r"lies on no folder that the containers see .* by \$HETERREC_DATA here"):
        require_in_containers(beauty, list(folders()))
    with pytest.raises(InputError, match=r"/data/clicks\.csv"):
        require_in_containers(card(tmp_path), list(folders()))


def test_a_server_is_told_the_paths_of_pods(tmp_path, monkeypatch):
    for kind in ("train", "serve"):
        monkeypatch.setenv(f"HETERREC_{kind.upper()}_IMAGE", f"registry.example/heterrec-{kind}@sha256:{64 * 'a'}")
    facts = tmp_path / "cluster.yaml"
    facts.write_text(yaml.safe_dump({"claims": {"d": "/data"}, "environment": {DATA_VARIABLE: "/data"}}))
    with kubeflow_server() as server:
        asked = ["--host", server.host, "--dataset", "amazon_beauty", "--cluster", str(facts), "--apply"]
        assert command_line.main(["submit", "--run", *asked]) == 0
        sent = str(server.runs)
    assert "/data/beauty/interactions.csv.gz" in sent and str(SHARED) not in sent


def test_a_source_without_files_is_always_within_reach():
    require_within_reach(load_card("marketplace"), Cluster())


@pytest.mark.parametrize(
    ("cluster", "held"),
    [
        (Cluster(), False),
        (Cluster(secrets=(Secret(name="database", env={"url": "HETERREC_ROLLOUT_URL"}),)), False),
        (Cluster(sources=BROUGHT), True),
        (Cluster(secrets=BROUGHT), True),
        (Cluster(environment={"SHOP_DATABASE": "sqlite:////work/shop.db"}), True),
    ],
)
def test_the_url_of_a_database_is_brought_by_a_secret(tmp_path, cluster, held):
    if held:
        require_within_reach(card(tmp_path, **SQL), cluster)
        return
    with pytest.raises(InputError, match=r"\$SHOP_DATABASE is brought by no secret of the cluster's file"):
        require_within_reach(card(tmp_path, **SQL), cluster)


@pytest.mark.parametrize("kind", ["training", "catalogue"])
def test_the_url_is_in_the_pods_that_read_the_source_and_in_no_other(kind):
    _, platform = yaml.safe_load_all(package(kind, Cluster(sources=BROUGHT)).text)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    having = {name for name, told in executors.items() if "SHOP_DATABASE" in str(told.get("secretAsEnv", []))}
    assert having == {"exec-ingest" if kind == "training" else "exec-prepare"}


@pytest.mark.parametrize("command", [["schedule"], ["submit", "--run"]])
def test_a_server_is_sent_nothing_that_could_not_read_its_source(tmp_path, capsys, monkeypatch, command):
    for kind in ("train", "serve"):
        monkeypatch.setenv(f"HETERREC_{kind.upper()}_IMAGE", f"registry.example/heterrec-{kind}@sha256:{64 * 'a'}")
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(card(tmp_path, **SQL).model_dump(mode="json", exclude_none=True)))
    with kubeflow_server() as server:
        asked = ["submit", "--run", "--host", server.host, "--dataset", str(path), "--apply"]
        assert command_line.main(asked) == 2
        assert "$SHOP_DATABASE" in capsys.readouterr().err
        assert server.writes == []
