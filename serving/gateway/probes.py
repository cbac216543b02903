"""Probes: every pinned version answers a golden request again and again, so that one that nobody asks is judged too."""

import asyncio
import logging
from collections.abc import Callable

from experiments.document import ModelVersion, Rollout
from serving.gateway.models import ModelFailed, TorchServeModels
from serving.gateway.recommender import Recommender

PROBE_SECONDS = 0.5
"""From one probe of a version to the next."""
_logger = logging.getLogger(__name__)


async def probe_all(
    models: TorchServeModels,
    recommender: Recommender,
    rollout: Callable[[], Rollout | None],
    told: Callable[[str, bool], None],
) -> None:
    """Probe every version of the rollout row, for ever; `told` hears of the version and whether it answered."""
    clock = asyncio.get_running_loop().time
    out: set[str] = set()
    while True:
        began, row = clock(), rollout()
        if row is not None:
            faults = await asyncio.gather(*(_probe(models, recommender, row.model, arm, told) for arm in row.serving))
            for arm, fault in zip(row.serving, faults, strict=True):
                _tell_change(row.model, arm.version, models.breakers[arm.version].open, out, fault)
        await asyncio.sleep(max(0.0, began + PROBE_SECONDS - clock()))


async def _probe(
    models: TorchServeModels, recommender: Recommender, model: str, arm: ModelVersion, told: Callable[[str, bool], None]
) -> str | None:
    """What went wrong."""
    try:
        probe = recommender.archives.contents(arm).probe
    except KeyError:
        return None  # its archive could not be read
    try:
        await models.ask(
            model, arm, probe.body, deadline=recommender.deadlines.challenger, source="probe", expect=probe.recognises
        )
    except ModelFailed as error:
        told(arm.version, False)
        return str(error)
    told(arm.version, True)
    return None


def _tell_change(model: str, version: str, open_: bool, out: set[str], fault: str | None) -> None:
    """One line when a version leaves traffic, whoever saw it fail, and one when it is back."""
    if open_ and version not in out:
        out.add(version)
        _logger.warning("%s %s is out of traffic: %s", model, version, fault or "it fails shoppers")
    elif not open_ and version in out:
        out.remove(version)
        _logger.warning("%s %s is back in traffic", model, version)
