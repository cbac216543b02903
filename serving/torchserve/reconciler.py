"""Makes one TorchServe match what the rollout document says, again and again: load, prove, and only then ready."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from experiments.document import ModelVersion, Rollout, succeeding
from runtime import checksum
from runtime.files import replacing
from serving.torchserve import archive
from serving.torchserve.client import HttpReply, TorchServeClient, TorchServeFault
from serving.torchserve.goldens import differences, is_answer

STATUS = "status.json"
"""File in TorchServe's folder: what is ready (docs/contracts.md)."""
_LAST_ROW = "rollout.json"
LOOK_SECONDS = 1.0
LINGER_SECONDS = 30.0
FIRST_REST, LONGEST_REST = 10.0, 3600.0
"""Seconds until what was refused is tried again; each time four times as long."""

State = Literal["ready", "loading", "refused"]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Status:
    """What one look found. `ready`: the champion of the row answers as the trained model does."""

    model: str
    row: int
    ready: bool
    champion: str | None
    versions: Mapping[str, State]
    why: Mapping[str, str] = field(default_factory=dict)
    """Version, or `torchserve`, `rollout`, `keys`: what is wrong with it."""
    proven: Mapping[str, str] = field(default_factory=dict)
    """Digest of the archive of each version whose answers were compared: a reconciler started anew takes its word."""

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "row": self.row, "ready": self.ready, "champion": self.champion,
                "versions": dict(self.versions), "why": dict(self.why), "proven": dict(self.proven)}  # fmt: skip


class _Wrong(TorchServeFault):
    """Golden requests are answered otherwise."""


class _NoAnswer(RuntimeError):
    """Golden requests were not answered: that proves nothing, neither way."""


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    why: str
    stamp: object
    """Of the archive's file: another file is tried at once."""
    until: float
    rest: float


class Reconciler:
    """Keeps `client`'s TorchServe as `read` says; the state is in TorchServe's folder, so that it can be killed.

    Args:
        client: The TorchServe beside it.
        read: Reads the rollout document; where it raises, the last good one counts.
        archive_of: Where the archive of a version lies; None while it is on its way. `OSError` and `ValueError` say
            why it cannot be had. Must not wait: what serves is looked at meanwhile.
        linger: Seconds for which a version that is no longer named stays loaded, because gateways may still ask it.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        client: TorchServeClient,
        *,
        read: Callable[[], Rollout],
        archive_of: Callable[[ModelVersion], Path | None] = lambda arm: Path(arm.archive),
        linger: float = LINGER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._read, self._linger, self._clock = client, read, linger, clock
        self._archive_of = archive_of
        self._proven: dict[str, str] = {}
        """Digest of the archive of each loaded version whose answers were compared."""
        self._believed: dict[str, str] | None = None
        """The same of a process before this one, until this one has compared; None before it was read."""
        self._unconfirmed: set[str] = set()
        """Versions that count as proven on the word of that process."""
        self._answered: dict[str, set[int]] = {}
        """Digest of an archive to those of its goldens that were answered rightly so far."""
        self._refused: dict[str, _Refusal] = {}
        self._unnamed_since: dict[str, float] = {}
        self._row: Rollout | None = None
        self._kept: Rollout | None = None
        """What lies in TorchServe's folder."""
        self._logged: dict[str, str] = {}
        self._why: dict[str, str] = {}
        self.status = Status(model="", row=0, ready=False, champion=None, versions={})

    def follow(
        self, stop: threading.Event, *, before: Callable[[], None] = lambda: None, every: float = LOOK_SECONDS
    ) -> None:
        """Look until `stop` is set, after doing `before` each time; no fault of either ends it."""
        told = ""
        while not stop.is_set():
            try:
                before()
                self.look()
            except Exception as error:  # whatever it was, the next look may do better, and what serves goes on serving
                if repr(error) != told:
                    _logger.exception("a look at TorchServe failed")
                told = repr(error)
            else:
                told = ""
            stop.wait(every)

    def look(self) -> Status:
        """One look: load what is named and missing, prove it, retire what is named no longer, write the status."""
        self._why = {}
        row, loaded = self._document(), {}
        if self._believed is None:
            self._believed = self._proven_before()
        try:
            self._renew_keys()
            if row is not None:
                loaded = self._match(row)
        except (ConnectionError, TimeoutError) as fault:
            self._log_once("torchserve", f"TorchServe does not answer: {fault}")
        except TorchServeFault as fault:
            self._log_once("torchserve", str(fault))
        self.status = self._status_of(row, loaded)
        self._write(STATUS, {**self.status.to_json(), "at": datetime.now(UTC).isoformat()})
        self._logged = {what: why for what, why in self._logged.items() if what in self._why}
        return self.status

    def _match(self, row: Rollout) -> dict[str, bool]:
        """Load, prove and retire; returns what is loaded then, and whether a worker of it is ready."""
        loaded = self._client.versions(row.model)
        # A TorchServe that was started anew has nothing loaded, and nothing is proven of it.
        self._proven = {version: digest for version, digest in self._proven.items() if version in loaded}
        for arm in row.serving:
            self._load(row.model, arm, loaded)
        self._answered = {arm.archive_digest: self._answered.get(arm.archive_digest, set()) for arm in row.serving}
        if row.champion is not None and row.champion.version in self._proven:
            self._client.set_default(row.model, row.champion.version)
        loaded = self._client.versions(row.model)
        self._retire(row, loaded)
        return loaded

    def _document(self) -> Rollout | None:
        """The row as it is or, where the table is away or emptied, as it was."""
        if self._row is None:
            self._row = self._kept = self._last_row()
        try:
            row = succeeding(self._read(), self._row)
        except Exception as fault:  # any database has its own
            self._log_once("rollout", f"the rollout table cannot be read, the last row holds: {fault}")
        else:
            self._row = row
            if row != self._kept and self._write(_LAST_ROW, row.to_json()):
                self._kept = row
        return self._row

    def _last_row(self) -> Rollout | None:
        """What a process before this one kept of the table."""
        kept = self._client.folder / _LAST_ROW
        try:
            plain = checksum.of_file(kept)
            return Rollout.from_json(plain) if plain is not None else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as fault:
            self._log_once("copy", f"{kept}: is damaged and not used: {fault!r}")
            return None

    def _proven_before(self) -> dict[str, str]:
        """What a process before this one had compared; nothing where it left no word, or a damaged one."""
        try:
            found = (checksum.of_file(self._client.folder / STATUS) or {}).get("proven", {})
            return {str(version): str(digest) for version, digest in found.items()}
        except (OSError, ValueError, AttributeError) as fault:
            self._log_once("status", f"{STATUS}: is not used: {fault}")
            return {}

    def _renew_keys(self) -> None:
        keys = self._client.keys
        if keys is None:
            return
        for kind in keys.worn():
            self._client.renew(kind)
            _logger.info("renewed the %s key", kind)
        keys.publish()

    def _load(self, model: str, arm: ModelVersion, loaded: Mapping[str, bool]) -> None:
        """Bring one version to where its answers were compared; what cannot be is refused and rests."""
        if self._proven.get(arm.version) == arm.archive_digest and arm.version not in self._unconfirmed:
            return
        before, stamp = self._refused.get(arm.version), _stamp(Path(arm.archive))
        if before is not None and before.stamp == (arm.archive_digest, stamp) and self._clock() < before.until:
            self._log_once(arm.version, before.why)
            return
        try:
            held = arm.version in loaded and self._holds(model, arm)
            # What TorchServe has loaded already needs no other copy.
            mar = self._client.copy_of(model, arm.version) if held else self._archive_of(arm)
        except (OSError, ValueError) as fault:
            self._log_once(arm.version, f"{arm.version} cannot be had: {fault}")
            return
        if mar is None:
            return
        assert self._believed is not None
        served, touched = arm.version in loaded and self._believed.get(arm.version) == arm.archive_digest, False
        try:
            if not held:
                archive.check(mar, arm.archive_digest)
                archive.check_identity(mar, model, arm.version)
                if served:  # what is loaded is right, and its copy on disk was damaged since
                    self._client.keep(mar, digest=arm.archive_digest)
                else:
                    touched = True
                    self._register(model, arm, mar, again=arm.version in loaded)
            self._prove(model, arm)
        except (ConnectionError, TimeoutError):
            raise  # of TorchServe, and says nothing about the archive
        except _NoAnswer as silence:
            if served:  # what serves is not taken out for want of proof
                self._proven[arm.version] = arm.archive_digest
                self._unconfirmed.add(arm.version)
            then = "it goes on as it was proven before" if served else "it is not ready before"
            self._log_once(f"goldens of {arm.version}", f"{arm.version}: {silence}; {then}, and they are asked again")
            return
        except Exception as fault:  # whatever is in an archive: it costs that version only
            self._refuse(model, arm, stamp, fault, unload=touched or isinstance(fault, _Wrong))
            return
        self._refused.pop(arm.version, None)
        self._unconfirmed.discard(arm.version)
        self._proven[arm.version] = arm.archive_digest
        _logger.info("%s %s is ready", model, arm.version)

    def _register(self, model: str, arm: ModelVersion, mar: Path, *, again: bool) -> None:
        """Have TorchServe load an archive; `again`: in place of what it has under that version."""
        assert self._believed is not None
        self._unconfirmed.discard(arm.version)
        self._believed.pop(arm.version, None)
        if again:
            self._client.unregister(model, arm.version)
        _logger.info("loading %s %s", model, arm.version)
        self._client.register(mar, digest=arm.archive_digest)
        self._answered.pop(arm.archive_digest, None)

    def _refuse(self, model: str, arm: ModelVersion, stamp: object, fault: Exception, *, unload: bool) -> None:
        if unload:
            self._proven.pop(arm.version, None)
            with contextlib.suppress(TorchServeFault):  # what did not come up may be half loaded, or not at all
                self._client.unregister(model, arm.version)
        before = self._refused.get(arm.version)
        rest = min(4 * before.rest, LONGEST_REST) if before is not None else FIRST_REST
        said = isinstance(fault, TorchServeFault | ValueError | OSError)
        why = f"{arm.version} is refused: {fault if said else repr(fault)}"
        self._refused[arm.version] = _Refusal(
            why=why, stamp=(arm.archive_digest, stamp), until=self._clock() + rest, rest=rest
        )
        self._log_once(arm.version, why)

    def _holds(self, model: str, arm: ModelVersion) -> bool:
        """Whether what a TorchServe has loaded, from before this process began, is the archive of `arm`."""
        copy = self._client.copy_of(model, arm.version)
        return copy.is_file() and archive.digest(copy) == arm.archive_digest

    def _prove(self, model: str, arm: ModelVersion) -> None:
        """Compare the answers to the archive's goldens: one by one, then as batches.

        That also warms it up: the first requests of a worker are its slowest. Raises `_Wrong` where one differs, and
        `_NoAnswer` while one was not answered yet, as under load, where the queue is full.
        """
        copy = self._client.copy_of(model, arm.version)
        goldens = [json.loads(line) for line in archive.read(copy, "goldens.jsonl").splitlines()]
        answered = self._answered.setdefault(arm.archive_digest, set())

        def reply(number: int) -> tuple[int, HttpReply]:
            return number, self._client.predict(model, arm.version, goldens[number]["request"])

        numbers = range(len(goldens))
        with ThreadPoolExecutor(8) as pool:
            replies = [*map(reply, numbers), *pool.map(reply, [*numbers] * 2)]
        silent = [found for _, found in replies if not is_answer(found)]
        compared = [(number, differences(goldens[number], found)) for number, found in replies if is_answer(found)]
        if wrong := [faults for _, faults in compared if faults]:
            told = f"{len(wrong)} of {len(replies)} golden requests are answered otherwise, such as {wrong[0][0]}"
            raise _Wrong(told)
        answered.update(number for number, _ in compared)
        if len(answered) < len(goldens):
            raise _NoAnswer(f"some golden requests got no answer (such as status {silent[0].status})")

    def _retire(self, row: Rollout, loaded: Mapping[str, bool]) -> None:
        """Unload what is named no longer, once everything named is ready and no gateway can still be asking for it."""
        named = {arm.version for arm in row.serving}
        now = self._clock()
        self._unnamed_since = {
            version: self._unnamed_since.get(version, now) for version in loaded if version not in named
        }
        # A row without a champion is a table that was lost: it says nothing about what serves.
        if row.champion is None or not named <= self._proven.keys():
            return
        for version, since in self._unnamed_since.items():
            if now - since >= self._linger:
                try:
                    self._client.unregister(row.model, version)
                except TorchServeFault as fault:
                    self._log_once(version, str(fault))
                else:
                    _logger.info("retired %s %s", row.model, version)

    def _status_of(self, row: Rollout | None, loaded: Mapping[str, bool]) -> Status:
        if row is None or row.champion is None:
            self._log_once("rollout", "nothing was released yet, or it was never read")
            return Status(model=row.model if row else "", row=0, ready=False, champion=None, versions={}, why=self._why)
        versions: dict[str, State] = {
            arm.version: "refused"
            if arm.version in self._why
            else "ready"
            if loaded.get(arm.version) and arm.version in self._proven
            else "loading"
            for arm in row.serving
        }
        return Status(
            model=row.model, row=row.version, ready=versions[row.champion.version] == "ready",
            champion=row.champion.version, versions=versions, why=self._why, proven=dict(self._proven),
        )  # fmt: skip

    def _log_once(self, what: str, why: str) -> None:
        """Log a fault when it is new."""
        self._why[what] = why
        if self._logged.get(what) != why:
            self._logged[what] = why
            _logger.error("%s", why)

    def _write(self, name: str, content: dict[str, Any]) -> bool:
        """Whether it is written; a folder that is full or not there yet keeps nothing else from its work."""
        path = self._client.folder / name
        try:
            with replacing(path) as partial:
                partial.write_bytes(checksum.to_file(content))
        except OSError as fault:
            self._log_once(name, f"{path}: cannot be written: {fault.strerror}")
            return False
        return True


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
