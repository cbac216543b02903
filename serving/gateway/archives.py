"""What is kept in memory of the archives that serve: read before a row of the rollout table is used, and let go once
another one is."""

import logging
from collections.abc import Callable
from pathlib import Path

from experiments.document import ModelVersion, Rollout
from serving.gateway.archive import Contents, check_digest, read_contents
from serving.gateway.tables import MOST_BYTES, NeighbourAnswers
from serving.scoring.placed import FOR_YOU

_logger = logging.getLogger(__name__)


class Fetching(OSError):
    """An archive that will be there in a moment."""


class ArchiveCache:
    """What was read of each archive, by its digest: contents of all that serve, neighbour tables of the champion.

    `archive_of` says where the archive of a version lies: None while it is on its way, `OSError` or `ValueError` where
    it cannot be had. `table_bytes` bounds the neighbour tables. `prepare` runs in a thread beside the loop that asks,
    so every dictionary is replaced whole and never changed.
    """

    def __init__(
        self,
        archive_of: Callable[[ModelVersion], Path | None] = lambda arm: Path(arm.archive),
        table_bytes: int = MOST_BYTES,
    ) -> None:
        self._archive_of, self._table_bytes = archive_of, table_bytes
        self._contents: dict[str, Contents] = {}
        self._tables: dict[str, NeighbourAnswers | None] = {}
        """The champion's, by the digest of its archive; None where it has none that can be used."""
        self._without: dict[str, str] = {}
        """Digest of an archive whose tables cannot be used, and why."""
        self._told: dict[str, str] = {}
        """Digest of an archive that could not be read, and why."""

    def contents(self, arm: ModelVersion) -> Contents:
        """What was read of the archive of `arm`. Raises `KeyError` where it could not be read."""
        return self._contents[arm.archive_digest]

    def known(self, arm: ModelVersion) -> Contents | None:
        """The same; None where it could not be read."""
        return self._contents.get(arm.archive_digest)

    def tables(self, champion: ModelVersion) -> NeighbourAnswers | None:
        """The champion's neighbour tables; None where it has none that can be used."""
        return self._tables.get(champion.archive_digest)

    def contents_of(self, rollout: Rollout) -> list[Contents]:
        """Of all that serve and could be read, the champion's first."""
        found = (self.known(arm) for arm in rollout.serving)
        return [contents for contents in found if contents is not None]

    def answers(self, arm: ModelVersion, *placements: str) -> bool:
        """Whether the archive of `arm` can be asked for one of these. An archive that could not be read is of none."""
        if FOR_YOU in placements:
            return True
        contents = self.known(arm)
        return contents is not None and not contents.placements.isdisjoint(placements)

    def prepare(self, rollout: Rollout) -> None:
        """Read what is needed of the archives, before it is needed, beside what the row in use needs (see `let_go`).

        Blocks, and waits for no store. Raises `OSError` where the champion's is not there and `ValueError` where it is
        damaged; another version without an archive only misses its probes.
        """
        known = self._contents
        read: dict[str, Contents] = {}
        told: dict[str, str] = {}
        for arm in rollout.serving:
            try:
                read[arm.archive_digest] = known.get(arm.archive_digest) or self._read(arm)
            except (OSError, ValueError) as error:
                if arm == rollout.champion:
                    raise
                told[arm.archive_digest] = why = str(error)
                if self._told.get(arm.archive_digest) != why:
                    _logger.warning(
                        "%s: the archive cannot be read, so %s is not probed: %s", arm.archive, arm.version, why
                    )
        if rollout.champion is not None and rollout.champion.archive_digest not in self._tables:
            self._read_tables(rollout.champion)
        self._contents, self._told = {**known, **read}, told

    def let_go(self, rollout: Rollout) -> None:
        """Forget all archives but those of `rollout`, once it is the row in use. In the loop that asks."""
        named = {arm.archive_digest for arm in rollout.serving}
        self._contents = {digest: contents for digest, contents in self._contents.items() if digest in named}
        champion = rollout.champion.archive_digest if rollout.champion else None
        self._tables = {digest: tables for digest, tables in self._tables.items() if digest == champion}

    @property
    def problems(self) -> list[str]:
        """What is wrong with what was read, for who keeps the service running."""
        return [why for digest, why in self._without.items() if digest in self._tables]

    def _read_tables(self, champion: ModelVersion) -> None:
        """Tables that cannot be read cost the answers that they would give, and nothing else."""
        digest, tables = champion.archive_digest, None
        try:
            mar = self._archive_of(champion)
            if mar is None:
                return  # it is being fetched
            check_digest(mar, digest)
            tables = NeighbourAnswers.read(mar, most_bytes=self._table_bytes)
        except Exception as error:  # whatever the archive holds, and whatever its code raises
            why = f"{champion.version} has no tables to answer with where no model does, popular items do: {error}"
            self._without = {**self._without, digest: why}
            _logger.warning("%s: %s", champion.archive, why)
        self._tables = {**self._tables, digest: tables}

    def _read(self, arm: ModelVersion) -> Contents:
        mar = self._archive_of(arm)
        if mar is None:
            raise Fetching(f"{arm.archive}: is being fetched")
        return read_contents(mar, arm.archive_digest)
