"""Is what a dataset card reads within reach of a cluster's pods? The card travels to them; what it names does not."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from components.ingest.source import DATA_VARIABLE, SHARED
from feature_repo.card import DatasetCard
from feature_repo.card_source import CardSource
from pipelines.cluster import Cluster
from runtime.errors import InputError


def placed(card: DatasetCard, data: str | None) -> DatasetCard:
    """The card with what lies in ../shared/data at `data`, where that is set: the card travels to others, who know
    neither this folder nor what $HETERREC_DATA is here."""
    if not data:
        return card

    def at(place: Any) -> Any:
        shared = isinstance(place, Path) and place.is_relative_to(SHARED)
        return Path(data).expanduser() / place.relative_to(SHARED) if shared else place

    source = card.source
    interactions = (
        [table.model_copy(update={"place": at(table.place)}) for table in source.interactions]
        if isinstance(source.interactions, list)
        else at(source.interactions)
    )
    moved = source.model_copy(update={"interactions": interactions, "items": at(source.items)})
    return card.model_copy(update={"source": moved})


def require_within_reach(card: DatasetCard, cluster: Cluster) -> None:
    """Raise one `InputError` for what of the card's source no task could read, or for the variable that no task has.

    Whether a bucket may be read is not asked: a node's role may say so, without any variable.
    """
    if card.source.sql is not None:
        _require_url(card.name, card.source.sql.url_from, cluster)
    mounts = [*cluster.claims.values(), *([cluster.workspace_path] if cluster.workspace_claim else [])]
    _require_mounted(
        card,
        mounts,
        "volume of the cluster's file",
        "Name its volume under `claims`, or an address such as s3://bucket/clicks/ in the card",
        f"`environment: {{{DATA_VARIABLE}: …}}` of that file",
    )


def require_in_containers(card: DatasetCard, mounts: Collection[str]) -> None:
    """Raise `InputError` for a file of the card that lies in none of the folders that containers here see."""
    _require_mounted(
        card, mounts, "folder that the containers see", "Put it into one of them", f"${DATA_VARIABLE} here"
    )


def _places(source: CardSource) -> Iterator[tuple[str, Path]]:
    """The files and folders of this disk that a source names, by their fields."""
    several = source.interactions if isinstance(source.interactions, list) else []
    named = [("interactions", source.interactions), ("items", source.items)]
    for field, place in (*named, *((f"interactions.{n}.place", each.place) for n, each in enumerate(several))):
        if isinstance(place, Path):
            yield field, place


def _require_url(card: str, variable: str, cluster: Cluster) -> None:
    brought = {name for secret in (*cluster.secrets, *cluster.sources) for name in secret.env.values()}
    if variable not in brought | cluster.environment.keys():
        raise InputError(
            f"source.sql.url_from of card {card!r}: ${variable} is brought by no secret of the cluster's file (found: "
            f"{', '.join(sorted(brought)) or 'none'}). Make a Secret with the URL and name it there: "
            f"`sources: [{{name: shop-database, env: {{url: {variable}}}}}]`."
        )


def _require_mounted(card: DatasetCard, mounts: Collection[str], kind: str, advice: str, data: str) -> None:
    for field, place in _places(card.source):
        if not any(place.is_relative_to(mount) for mount in mounts):
            shared = place.is_relative_to(SHARED)
            advice += f", or say by {data} which mounted folder stands for {SHARED}" if shared else ""
            raise InputError(
                f"source.{field} of card {card.name!r}: {place} lies on no {kind} (mounted: "
                f"{', '.join(mounts) or 'none'}), so no task could read it. {advice}."
            )
