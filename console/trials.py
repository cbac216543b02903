"""What MLflow's server keeps of every run that trained, blocked ones too: read by its REST API, and nothing else of it.

It outlives the workspace's folders, and knows runs of other machines. Where no server was told, or it does not answer,
all of it is unknown, which is not "none".
"""

import base64
import json
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from markupsafe import Markup

from runtime.charts import Plot, Scale

SHOWN = 25
"""Latest runs of a data set."""
TIMEOUT = 2.0
SETTING = "MLFLOW_TRACKING_URI"
_API = "/api/2.0/mlflow"
_MOST_BYTES = 16 << 20
_LOSS = "training.loss"


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """One run of MLflow's."""

    ident: str
    run: str
    """The run of ours that made it."""
    model: str
    outcome: str
    reason: str
    """Why nothing was released, or why something else was; empty where there is none."""
    settings: Mapping[str, str]
    numbers: Mapping[str, float]

    @property
    def quality(self) -> float | None:
        """NDCG@10 of the model that it is about."""
        named = re.sub(r"[^\w.\- :/]", "_", self.model)  # as components/shared/model_registry.py writes it
        return self.numbers.get(f"models.{named}.ndcg_at_10")


@dataclass(frozen=True, kw_only=True)
class TrialList:
    """What MLflow keeps; `unknown` says why nobody can tell."""

    trials: tuple[TrialView, ...] = ()
    curves: tuple[Markup | None, ...] = ()
    """Of each trial, where they were asked for: its training loss by epoch."""
    address: str = ""
    unknown: str = ""

    @property
    def differing(self) -> list[str]:
        """Names of the settings that are not the same in all of them."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.settings)
        return [name for name in names if len({trial.settings.get(name) for trial in self.trials}) > 1]


class Trials:
    """Of the server at `url`; an address of another kind, such as a file of this machine, is no server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url.rstrip("/") if parts.scheme in ("http", "https") else ""
        plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        self.address = plain if self._url else ""
        """Without the name and password that it may have."""

    def of(self, dataset: str) -> TrialList:
        """The latest trials of a data set, the newest first."""
        return self._kept(dataset, "")

    def made_by(self, dataset: str, run: str) -> TrialList:
        """Those of one run of ours: its model, and the neighbour tables where they were released in its place."""
        return self._kept(dataset, run) if "'" not in run else TrialList(address=self.address)

    def _curve(self, trial: TrialView) -> Markup | None:
        """None where fewer than two epochs were kept."""
        asked = urlencode({"run_id": trial.ident, "metric_key": _LOSS})
        found = self._ask(f"/metrics/get-history?{asked}").get("metrics", [])
        points = sorted((float(each["step"]), float(each["value"])) for each in found)
        points = [point for point in points if math.isfinite(point[1])]
        if len(points) < 2:
            return None
        losses = [loss for _, loss in points]
        room = 0.05 * (max(losses) - min(losses))
        scale = Scale(min(losses) - room, max(losses) + room)
        plot = Plot(f"training loss of {trial.model} by epoch", Scale(points[0][0], points[-1][0]), scale).axes()
        titles = [f"epoch {epoch:.0f}: {loss:.4f}" for epoch, loss in points]
        return plot.line(points, "l0").dots(points, "f0", titles, 3).svg()

    def _kept(self, dataset: str, run: str) -> TrialList:
        if not self._url:
            return TrialList(unknown=f"no MLflow server was told to this console ({SETTING})")
        try:
            experiment = self._experiment(dataset)
            if experiment is None:
                return TrialList(address=self.address)
            asked = {"experiment_ids": [experiment], "max_results": SHOWN, "order_by": ["attributes.start_time DESC"]}
            found = self._ask("/runs/search", {**asked, "filter": f"tags.run_id = '{run}'" if run else ""})
            trials = tuple(self._trial(each) for each in found.get("runs", ()))
            curves = tuple(map(self._curve, trials)) if run else ()
            return TrialList(trials=trials, curves=curves, address=self.address)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return TrialList(address=self.address, unknown=f"{self.address}: MLflow does not answer ({_said(error)})")

    def _experiment(self, name: str) -> str | None:
        """Its number; None where nothing was ever logged under that name."""
        try:
            found = self._ask(f"/experiments/get-by-name?{urlencode({'experiment_name': name})}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return str(found["experiment"]["experiment_id"])

    def _trial(self, found: dict[str, Any]) -> TrialView:
        about, kept = found["info"], found["data"]
        tags = {each["key"]: each["value"] for each in kept.get("tags", ())}
        return TrialView(
            ident=str(about["run_id"]),
            run=tags.get("run_id", str(about.get("run_name", ""))),
            model=tags.get("model", tags.get("released", "")),
            outcome=tags.get("outcome", ""),
            reason=tags.get("reason", ""),
            settings={each["key"]: str(each["value"]) for each in kept.get("params", ())},
            numbers={each["key"]: float(each["value"]) for each in kept.get("metrics", ())},
        )

    def _ask(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the API says. Raises `OSError` and `ValueError`."""
        headers = {"Content-Type": "application/json", **_signed(urlsplit(self._url))}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + _API + what, content, headers)
        # Without a proxy: it is a machine of one's own.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT) as reply:
            answer = json.loads(reply.read(_MOST_BYTES))
        if not isinstance(answer, dict):
            raise ValueError("its answer is no object")
        return answer


def _signed(parts: Any) -> dict[str, str]:
    """As MLflow's own clients sign: a token, or a name with its password, of the environment or the address."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or parts.username
    if not name:
        return {}
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or parts.password or ""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def _said(error: Exception) -> str:
    """Of what kind, and its words where they are the server's or the system's: no part of a request stands in them."""
    return f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else f"{type(error).__name__}: {error}"
