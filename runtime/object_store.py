"""The workspace in an object store: what outlives a run is found by the same names where two machines share no disk.

`$HETERREC_STORE` (s3://bucket/prefix, or any address of fsspec) holds the workspace's tree. An artifact is whole once
its manifest is there, which is written last; it is verified when it is fetched.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtime import workspace
from runtime.errors import InputError
from runtime.files import replacing
from runtime.log import emit
from runtime.manifest import NAME, Manifest

ADDRESS = "HETERREC_STORE"
ENDPOINT, REGION = "HETERREC_S3_ENDPOINT", "HETERREC_S3_REGION"
KEY, SECRET = "HETERREC_S3_ACCESS_KEY_ID", "HETERREC_S3_SECRET_ACCESS_KEY"
"""Of an s3:// store; where one is not set its driver looks as ever (AWS_…, a profile, the node's role). They have names
of our own because Kubeflow's launcher shares a task's environment, and would take AWS_… for its own store."""
CHECKPOINTS = "*.pt"
EVERY = "HETERREC_STORE_SECONDS"
"""Between looks for a new checkpoint (default 5); what a kill loses besides the steps since the last one."""

_AGAIN = (
    f"Check {ADDRESS}, its endpoint and its credentials ({ENDPOINT}, {KEY}, {SECRET}); run the step again and finished "
    "work is reused."
)


class StoreFault(RuntimeError):
    """The object store is away or refuses: one message, which the next attempt of the task may not meet again."""


def shared() -> "Store | None":
    """The object store of `$HETERREC_STORE`; None where the workspace's folder is all there is."""
    address = os.environ.get(ADDRESS, "").strip()
    return Store(address) if address else None


def is_address(location: str) -> bool:
    """Whether a rollout row's `archive` is an address of an object store rather than a path."""
    return "://" in location


def opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the name in it. Raises `InputError` for an address that no driver knows."""
    import fsspec

    if "@" in urlsplit(address).netloc:
        # It would be in every message, and in the rollout table.
        raise InputError(f"the object store's address has credentials in it; give them in {KEY} and {SECRET}.")
    # What another machine wrote a second ago counts, so that no listing may be remembered.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if address.startswith("s3://"):
        options |= _credentials()
    try:
        files, name = fsspec.core.url_to_fs(address, **options)
    except (ValueError, ImportError) as error:
        raise InputError(f"{address!r}: {error}. Expected an address such as s3://bucket/prefix.") from error
    return files, name


@contextmanager
def store_faults(address: str, advice: str) -> Iterator[None]:
    """Turn what drivers raise for a store that is away, a missing bucket or a refused key into one `StoreFault`.

    What is not there stays a `FileNotFoundError`.
    """
    try:
        yield
    except (InputError, StoreFault, FileNotFoundError):
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else 'no reason given'}"
        raise StoreFault(f"{address}: the object store is away or refuses ({what}). {advice}") from error


def fetch_release(archive: str) -> Path:
    """The folder of the release whose `archive` a rollout row names, on this machine; fetched where it has to be.

    As `present`: where it is nowhere, its reader says so.
    """
    if not is_address(archive):
        return present(Path(archive).parent)
    address, *name = archive.rsplit("/", 4)[:-1]
    if len(name) != 3 or name[0] != workspace.releases().name:
        raise InputError(f"{archive}: expected STORE/releases/MODEL/VERSION/MODEL.mar, as push writes it down.")
    here = workspace.home().joinpath(*name)
    if not here.is_dir():
        Store(address).fetch(here)
    return here


def present(path: Path) -> Path:
    """Where this machine has the artifact (or release) that another wrote down as `path`, fetched where it has to be.

    Without a store, or where the store has none either, `path` as it is: its reader says what is missing.
    """
    store = shared()
    if store is None or path.is_dir():
        return path
    here = workspace.home().joinpath(*path.parts[-3:])
    return here if here.is_dir() or store.fetch(here) else path


class Store:
    """The workspace's tree below one address; paths are those of the workspace."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        try:
            self._files, self._root = opened(self.address)
        except InputError as error:
            raise InputError(f"{ADDRESS}: {error}") from error

    def keep(self, artifact: Path) -> None:
        """Upload a sealed artifact, its manifest last; nothing where the very same is there."""
        manifest = Manifest.read(artifact)
        with self._explained():
            found = self._read(self._at(artifact / NAME))
            if found == (artifact / NAME).read_bytes():
                return
            if found is not None:
                # While its files change it must not look whole.
                self._files.rm_file(self._at(artifact / NAME))
            for name in manifest.content:
                self._put(artifact / name)
            self._put(artifact / NAME)

    def fetch(self, artifact: Path) -> bool:
        """Download an artifact to its place in the workspace; False where the store has no whole one."""
        partial = artifact.with_name(f".{artifact.name}.{os.getpid()}.fetched")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with self._explained():
                sealed = self._read(self._at(artifact / NAME))
                if sealed is None:
                    return False
                partial.mkdir(parents=True)
                (partial / NAME).write_bytes(sealed)
                for name in Manifest.read(partial).content:
                    self._get(artifact / _within(artifact, name), partial / name)
            Manifest.verify(partial)
        except InputError as error:
            # As on a disk: a damaged artifact costs its making, never a wrong answer.
            emit("artifact_damaged", artifact=self.address_of(artifact), error=str(error))
            shutil.rmtree(partial, ignore_errors=True)
            return False
        if artifact.is_dir():
            shutil.rmtree(artifact)
        os.replace(partial, artifact)
        return True

    def keep_file(self, path: Path) -> None:
        """Upload one file of the workspace, such as a record or a pointer."""
        with self._explained():
            self._put(path)

    def bring_file(self, path: Path) -> None:
        """Let the workspace's file be what the store has; one that the store lacks stays."""
        with self._explained():
            found = self._read(self._at(path))
        if found is not None:
            _replace(path, found)

    def bring_files(self, folder: Path, pattern: str) -> None:
        """`bring_file` for all files in the store's `folder` whose names match `pattern`."""
        # One listing: the driver's own glob asks several times, and fails where one of them finds what is gone by then.
        for path in self.names(folder, below=True):
            if path.match(pattern):
                self.bring_file(path)

    def drop(self, path: Path) -> None:
        """Remove what lies at `path` and below; nothing where nothing does."""
        with self._explained():
            if self._files.exists(self._at(path)):
                self._files.rm(self._at(path), recursive=True)

    def address_of(self, path: Path) -> str:
        """By which other machines find what lies at `path` of the workspace."""
        return f"{self.address}/{self._name(path)}"

    def names(self, folder: Path, *, below: bool = False) -> list[Path]:
        """What lies in `folder`, as paths of the workspace; `below`: every file of it and of the folders in it."""
        root = self._at(folder).rstrip("/")
        with self._explained():
            try:
                found = self._files.find(root) if below else self._files.ls(root, detail=False)
            except FileNotFoundError:
                return []
        # The driver asks several times: it names the folder itself where its first file appears meanwhile.
        paths = (name.rstrip("/").partition(f"{root.lstrip('/')}/")[2] for name in found)
        return [folder / path for path in paths if path]

    @contextmanager
    def keeping(self, scratch: Path, *, every: float | None = None) -> Iterator[None]:
        """Bring the checkpoints that a killed attempt left, and keep those of this one as they appear.

        They are removed once the work inside has succeeded. A checkpoint that cannot be kept is told and tried again.
        """
        self.bring_files(scratch, CHECKPOINTS)
        kept = _Checkpoints(self, scratch)
        stop = threading.Event()
        seconds = _seconds() if every is None else every
        thread = threading.Thread(target=kept.watch, args=(stop, seconds), name="checkpoints", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            stop.set()
            thread.join()
            kept.look()
            raise
        stop.set()
        thread.join()
        self.drop(scratch)

    def _put(self, path: Path) -> None:
        self._files.put_file(str(path), self._at(path))

    def _get(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._files.get_file(self._at(path), str(target))
        except FileNotFoundError as error:
            raise InputError(f"{self._name(path)}: is in the manifest and not in the store") from error

    def _read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._files.cat_file(name)
        except FileNotFoundError:
            return None
        return content

    def _at(self, path: Path) -> str:
        return f"{self._root}/{self._name(path)}"

    def _name(self, path: Path) -> str:
        return path.relative_to(workspace.home()).as_posix()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with store_faults(self.address, _AGAIN):
                yield
        except FileNotFoundError as error:
            raise StoreFault(f"{self.address}: the object store has no such place ({error}). {_AGAIN}") from error


class _Checkpoints:
    """Uploads the checkpoints of one folder when they have changed."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self._store, self._scratch = store, scratch
        self._seen = {path: _state(path) for path in scratch.glob(CHECKPOINTS)}

    def watch(self, stop: threading.Event, every: float) -> None:
        while not stop.wait(every):
            self.look()

    def look(self) -> None:
        for path in self._scratch.glob(CHECKPOINTS):
            # Before the upload: a checkpoint that is replaced meanwhile is uploaded again.
            state = _state(path)
            if state == self._seen.get(path):
                continue
            try:
                self._store.keep_file(path)
            except StoreFault as error:
                emit("checkpoint_not_kept", path=str(path), error=str(error))
                continue
            self._seen[path] = state
            emit("checkpoint_kept", path=str(path))


def _credentials() -> dict[str, Any]:
    """What the environment says of an S3 store, in s3fs' words."""
    named = {"endpoint_url": ENDPOINT, "key": KEY, "secret": SECRET}
    found: dict[str, Any] = {option: os.environ[name] for option, name in named.items() if os.environ.get(name)}
    if region := os.environ.get(REGION):
        found["client_kwargs"] = {"region_name": region}
    return found


def _seconds() -> float:
    named = os.environ.get(EVERY, "5")
    try:
        found = float(named)
    except ValueError:
        found = 0.0
    if found <= 0:
        raise InputError(f"{EVERY}={named!r}: expected seconds above 0")
    return found


def _state(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


def _within(artifact: Path, name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{artifact}: its manifest names {name!r}, which lies outside")
    return name


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)
