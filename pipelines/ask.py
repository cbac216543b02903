"""Asks the champion for recommendations the way a shop would: history from the online store, answer from TorchServe."""

from typing import Any

import pyarrow.parquet as pq

from experiments.table import RolloutTable
from feature_repo.card import DatasetCard
from runtime import workspace
from runtime.errors import InputError
from serving.releases import Releases
from serving.torchserve.server import TorchServe


def ask(card: DatasetCard, *, user_id: str | None, k: int = 5) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request made for `user_id` (a recent shopper where none is named), and TorchServe's answer.

    Raises `InputError` where no model of the card was released yet, or the shopper is unknown.
    """
    with RolloutTable(workspace.rollout_url()) as table:
        champion = table.read(card.name).champion
    if champion is None:
        raise InputError(
            f"{card.name}: no model was released yet. Run `make run DATASET=...` with its card; where a gate blocked "
            "the model, the page of that run says why."
        )
    request = online_request(card, user_id, k=k)
    mar = Releases(card.name, workspace.archives()).fetched(champion)
    with TorchServe(workspace.home() / "torchserve" / "ask") as server:
        model, version = server.register(mar, digest=champion.archive_digest)
        reply = server.predict(model, version, request)
    if reply.status != 200:
        raise RuntimeError(f"TorchServe answered {reply.status}: {reply.body}")
    return request, reply.body


def online_request(card: DatasetCard, user_id: str | None, *, k: int) -> dict[str, Any]:
    """A request of docs/contracts.md whose history is what Feast's online store holds of the user."""
    from feature_repo.online import as_request, user_features, user_history
    from feature_repo.store import connect

    user_id = user_id or recent_user(card)
    store = connect(card.name, workspace.feature_store(card.name))
    records = user_history(store, user_id)
    if not records:
        raise InputError(f"user {user_id!r}: not in the online store of {card.name}. Give a user of the data.")
    history = as_request(records)
    asked = {"user_id": user_id, "history": history, "k": k, "exclude_seen": not card.repeats}
    features = user_features(store, user_id)
    return {**asked, "user_features": features} if features else asked


def recent_user(card: DatasetCard) -> str:
    """The shopper who came last (the first by name, where several did)."""
    from feature_repo.store import histories_path

    path = histories_path(workspace.feature_store(card.name))
    if not path.is_file():
        raise InputError(f"{path}: the online store was never filled. Run `make run DATASET=...` with its card first.")
    histories = pq.read_table(path, columns=["user_id", "event_time"])
    latest = histories.sort_by([("event_time", "descending"), ("user_id", "ascending")])
    return str(latest["user_id"][0].as_py())
