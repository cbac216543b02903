"""The way to a Kubeflow Pipelines server: its address, who asks, and one clear message for each way it can refuse."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from runtime.errors import InputError
from runtime.service_log import quieten

TOKEN = "HETERREC_KFP_TOKEN"
TIMEOUT_SECONDS = 60


class KubeflowFault(RuntimeError):
    """The server is away, refuses or fails: one message, which never holds a token."""


@dataclass(frozen=True, kw_only=True)
class KubeflowAccess:
    """Where the server is and who asks. Without a token nobody is named, as behind a port-forward."""

    host: str
    namespace: str = ""
    """The Kubeflow profile, where there are several users."""
    token_file: Path | None = None
    """Holds a token made elsewhere; `$HETERREC_KFP_TOKEN` is one too."""
    service_account_token: Path | None = None
    """The token that Kubernetes projects into a pod (audience pipelines.kubeflow.org); read anew for every request."""
    ca_certificate: Path | None = None

    def token(self) -> str | None:
        """The existing token; `InputError` where the file cannot be read or is empty."""
        if self.token_file is None:
            return os.environ.get(TOKEN) or None
        try:
            found = self.token_file.read_text().strip()
        except OSError as error:
            raise InputError(f"{self.token_file}: cannot be read ({error.strerror}). Pass the token's file.") from error
        if not found:
            raise InputError(f"{self.token_file}: is empty, expected a token")
        return found


class KubeflowClient(kfp.Client):  # type: ignore[misc]
    """Kubeflow's own client, but that it asks once whether the server is well, and never waits for ever."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        return self._healthz_api.healthz_service_get_healthz()


def connect(access: KubeflowAccess) -> KubeflowClient:
    """A client that was answered; raises `InputError` for a bad setting, `KubeflowFault` for a server that refuses."""
    quieten("kfp")
    credentials = None
    if access.service_account_token is not None:
        if not access.service_account_token.is_file():
            raise InputError(
                f"{access.service_account_token}: no token there. In a pod, project a service account token for the "
                "audience pipelines.kubeflow.org to this path; elsewhere use --token-file."
            )
        credentials = ServiceAccountTokenVolumeCredentials(path=str(access.service_account_token))
    with warnings.catch_warnings(), kubeflow_faults(access.host):
        warnings.simplefilter("ignore")
        client = KubeflowClient(
            host=access.host,
            namespace=access.namespace,
            existing_token=None if credentials else access.token(),
            credentials=credentials,
            ssl_ca_cert=str(access.ca_certificate) if access.ca_certificate else None,
        )
        _guard(client, access.host)
        several_users = bool(client.get_kfp_healthz().multi_user)
    if several_users and not access.namespace:
        raise InputError(f"{access.host}: has several users. Pass --namespace, the name of your Kubeflow profile.")
    return client


@contextmanager
def kubeflow_faults(host: str) -> Iterator[None]:
    """Turn what the client raises into a `KubeflowFault` that says what happened and what to do."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise KubeflowFault(f"{host}: {_refusal(error)}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise KubeflowFault(
            f"{host}: cannot be reached ({type(reason).__name__}). Is this the address, and does a port-forward or "
            "VPN to it run?"
        ) from error


def _refusal(error: kfp_server_api.ApiException) -> str:
    said = _said(error)
    if error.status == 401:
        return f"does not know you (401{said}). Pass a fresh token: --token-file, {TOKEN} or --service-account-token."
    if error.status == 403:
        return f"does not let you (403{said}). Is --namespace yours, and may its account do this?"
    if error.status == 409:
        return f"has it already, or somebody changed it meanwhile (409{said}). Run the command again: it looks anew."
    if error.status is not None and error.status >= 500:
        return f"failed ({error.status}{said}). What was done stays; run the command again when the server is well."
    return f"refused ({error.status}{said})"


def _said(error: kfp_server_api.ApiException) -> str:
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = str(error.reason or "")
    return f": {message.splitlines()[0][:300]}" if message else ""


def _guard(client: KubeflowClient, host: str) -> None:
    """Let every request end, and every answer be one: a login page would be read as a server that has nothing."""
    api = client._healthz_api.api_client
    call = api.call_api

    def guarded(*arguments: Any, **named: Any) -> Any:
        answer = call(*arguments, **{**named, "_request_timeout": TIMEOUT_SECONDS})
        kind = api.last_response.getheader("content-type") or ""
        if not kind.startswith("application/json"):
            raise KubeflowFault(
                f"{host}: answered with {kind or 'no content type'} where JSON was expected. Is this the address of "
                f"the API, and not of a login page? Pass a token: --token-file, {TOKEN} or --service-account-token."
            )
        return answer

    api.call_api = guarded
