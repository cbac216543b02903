"""The HTTP interfaces of one TorchServe: loading and unloading versions, and asking them."""

import http.client
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from serving.torchserve import archive
from serving.torchserve.keys import Keys, Kind

STORE = "store"
"""Folder of archives in TorchServe's own folder: it loads from nowhere else."""


class TorchServeFault(RuntimeError):
    """TorchServe did not start, or did not load a model; the message carries the tail of its log."""


class HttpReply(NamedTuple):
    """Status and JSON body of one HTTP answer."""

    status: int
    body: Any


class TorchServeClient:
    """Talks to a TorchServe whose folder is at hand.

    Args:
        inference, management: Addresses, such as `http://127.0.0.1:8080`.
        folder: TorchServe's folder: archives are copied into its `store`, keys are read from its `key_file.json`.
        tokens: Whether it asks for a key.
        batch_size: Most requests that a worker scores in one call.
        max_batch_delay_ms: How long a request waits for others to share its call.
        workers: Worker processes of each version.
        start_seconds: How long a worker may take to become ready.
        response_seconds: How long a batch may take before its worker is killed and started anew.
    """

    def __init__(
        self,
        *,
        inference: str,
        management: str,
        folder: Path,
        tokens: bool,
        batch_size: int = 32,
        max_batch_delay_ms: int = 2,
        workers: int = 1,
        start_seconds: float = 120.0,
        response_seconds: int = 30,
    ) -> None:
        self.folder = folder
        self.keys = Keys(folder) if tokens else None
        self._addresses: dict[Kind, str] = {"inference": inference, "management": management, "API": management}
        self._start_seconds = start_seconds
        self._options = {
            "initial_workers": workers,
            "synchronous": "true",
            "batch_size": batch_size,
            "max_batch_delay": max_batch_delay_ms,
            "startup_timeout": int(start_seconds),
            "response_timeout": response_seconds,
        }

    @property
    def address(self) -> str:
        """Root of the inference API, e.g. `http://127.0.0.1:41234`."""
        return self._addresses["inference"]

    def register(self, mar: Path, *, digest: str | None = None) -> tuple[str, str]:
        """Load an archive beside those already loaded, and return its (model, version) once its worker is ready.

        Raises `ValueError` where the file is no archive or its SHA-256 is not `digest` (an archive is code: give
        the digest of what was approved), and `TorchServeFault` where its worker does not come up.
        """
        model, version = self.keep(mar, digest=digest)
        copy = self.copy_of(model, version)
        path = f"/models?{urlencode({'url': copy.name, **self._options})}"
        try:
            reply = self.call("management", "POST", path, timeout=self._start_seconds)
        except TimeoutError:
            reply = HttpReply(0, f"no answer within {self._start_seconds:.0f} s")
        if reply.status != 200:
            raise TorchServeFault(f"{mar}: TorchServe did not load it: {reply.body}")
        return model, version

    def keep(self, mar: Path, *, digest: str | None = None) -> tuple[str, str]:
        """Put a copy where TorchServe loads from, and return its (model, version); `ValueError` as `register`."""
        partial = self.folder / STORE / f"{secrets.token_hex(4)}.partial"
        try:
            shutil.copyfile(mar, partial)
            if digest is not None:
                archive.check(partial, digest, called=mar)
            model, version = archive.identity(mar)
            os.replace(partial, self.copy_of(model, version))
        finally:
            partial.unlink(missing_ok=True)
        return model, version

    def unregister(self, model: str, version: str) -> None:
        """Unload one version. Raises `TorchServeFault` where the server does not have it or it is the default one."""
        reply = self.call("management", "DELETE", f"/models/{quote(model)}/{quote(version)}")
        if reply.status != 200:
            raise TorchServeFault(f"{model} {version}: TorchServe did not unload it: {reply.body}")
        self.copy_of(model, version).unlink(missing_ok=True)

    def set_default(self, model: str, version: str) -> None:
        """Make `version` the one that answers requests that name no version."""
        reply = self.call("management", "PUT", f"/models/{quote(model)}/{quote(version)}/set-default")
        if reply.status != 200:
            raise TorchServeFault(f"{model} {version}: TorchServe did not make it the default: {reply.body}")

    def versions(self, model: str) -> dict[str, bool]:
        """The loaded versions of `model`, and whether a worker of each is ready."""
        reply = self.call("management", "GET", f"/models/{quote(model)}/all")
        if reply.status == 404:
            return {}
        if reply.status != 200:
            raise TorchServeFault(f"{model}: TorchServe does not say what it has loaded: {reply.body}")
        return {
            each["modelVersion"]: any(worker["status"] == "READY" for worker in each["workers"]) for each in reply.body
        }

    def predict(self, model: str, version: str, request: object, *, timeout: float = 30.0) -> HttpReply:
        """Send one request (docs/contracts.md); `bytes` go as they are, anything else as JSON."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self.call("inference", "POST", f"/predictions/{quote(model)}/{quote(version)}", body, timeout=timeout)

    def renew(self, kind: Kind) -> None:
        """Have a key replaced by a new one; the old one is void at once. Raises `TorchServeFault`."""
        reply = self.call("API", "GET", f"/token?type={kind}")
        if reply.status != 200:
            raise TorchServeFault(f"TorchServe did not renew the {kind} key: {reply.body}")

    def copy_of(self, model: str, version: str) -> Path:
        """Where TorchServe's own copy of an archive lies."""
        return self.folder / STORE / f"{model}-{version}.mar"

    def call(self, api: Kind, method: str, path: str, body: bytes | None = None, *, timeout: float = 30.0) -> HttpReply:
        """One HTTP request; raises `OSError` where nobody answers."""
        headers: Mapping[str, str] = {"Content-Type": "application/json"} if body is not None else {}
        if self.keys is not None:
            headers = {**headers, "Authorization": f"Bearer {self.keys.read()[api].key}"}
        # http.client and not urllib: a proxy in the environment must not come between.
        connection = http.client.HTTPConnection(urlsplit(self._addresses[api]).netloc, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:  # half an answer: the server died while it spoke
            raise ConnectionError(f"{self._addresses[api]}: {error!r}") from error
        finally:
            connection.close()
        try:
            return HttpReply(response.status, json.loads(content))
        except json.JSONDecodeError:
            return HttpReply(response.status, content.decode(errors="replace"))
