"""Probes: every pinned version answers a golden request again and again, so that one that nobody asks is judged too."""

import asyncio
import logging
from collections.abc import Callable

from serving.gateway.models import ModelFailed, Models
from serving.gateway.recommender import Recommender
from serving.rollout.document import ModelVersion, Rollout

PROBE_SECONDS = 0.5
"""From one probe of a version to the next."""
_logger = logging.getLogger(__name__)


async def probe_all(
    models: Models,
    recommender: Recommender,
    rollout: Callable[[], Rollout | None],
    told: Callable[[str, bool], None],
) -> None:
    """Probe every version of the rollout row, for ever; `told` hears of the version and whether it answered."""
    clock = asyncio.get_running_loop().time
    while True:
        began, row = clock(), rollout()
        if row is not None:
            await asyncio.gather(*(_probe(models, recommender, row.model, arm, told) for arm in row.serving))
        await asyncio.sleep(max(0.0, began + PROBE_SECONDS - clock()))


async def _probe(
    models: Models, recommender: Recommender, model: str, arm: ModelVersion, told: Callable[[str, bool], None]
) -> None:
    try:
        probe = recommender.contents(arm).probe
    except KeyError:
        return  # its archive could not be read
    was_out = models.breakers[arm.version].open
    try:
        await models.ask(
            model, arm, probe.body, deadline=recommender.deadlines.challenger, source="probe", expect=probe.recognises
        )
    except ModelFailed as error:
        told(arm.version, False)
        if not was_out and models.breakers[arm.version].open:
            _logger.warning("%s %s is out of traffic: %s", model, arm.version, error)
    else:
        told(arm.version, True)
