"""Is what a dataset card reads within reach of a cluster's pods? The card travels to them; what it names does not."""

from pathlib import Path

from components.errors import InputError
from feature_repo.card import DatasetCard
from pipelines.cluster import Cluster


def require_within_reach(card: DatasetCard, cluster: Cluster) -> None:
    """Raise one `InputError` for what of the card's source no task could read, or for the variable that no task has.

    Whether a bucket may be read is not asked: a node's role may say so, without any variable.
    """
    if card.source.sql is not None:
        _require_url(card.name, card.source.sql.url_from, cluster)
    for field in ("interactions", "items"):
        place = getattr(card.source, field)
        if isinstance(place, Path):
            _require_mounted(card.name, field, place, cluster)


def _require_url(card: str, variable: str, cluster: Cluster) -> None:
    brought = {name for secret in (*cluster.secrets, *cluster.sources) for name in secret.env.values()}
    if variable not in brought | cluster.environment.keys():
        raise InputError(
            f"source.sql.url_from of card {card!r}: ${variable} is brought by no secret of the cluster's file (found: "
            f"{', '.join(sorted(brought)) or 'none'}). Make a Secret with the URL and name it there: "
            f"`sources: [{{name: shop-database, env: {{url: {variable}}}}}]`."
        )


def _require_mounted(card: str, field: str, place: Path, cluster: Cluster) -> None:
    # As it stands in the card: what $HETERREC_DATA is here, no pod knows.
    mounts = [*cluster.claims.values(), *([cluster.workspace_path] if cluster.workspace_claim else [])]
    if not any(place.is_relative_to(mount) for mount in mounts):
        raise InputError(
            f"source.{field} of card {card!r}: {place} lies on no volume of the cluster's file (mounted: "
            f"{', '.join(mounts) or 'none'}), so no task could read it. Name its volume under `claims`, or an "
            "address such as s3://bucket/clicks/ in the card."
        )
