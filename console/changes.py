"""A person changes what serves, as `python -m serving rollout` does: signed, with a reason, on the row seen."""

import logging
import os
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.requests import Request

from console.door import ConsoleDoor
from console.rollouts import opened
from console.settings import ConsoleSettings
from runtime.errors import InputError
from serving.operate import MOVES, move

_MOST = {"why": 500, "who": 200}
_logger = logging.getLogger(__name__)


class ChangeResult(NamedTuple):
    """What came of it: the HTTP status, a style, and a sentence."""

    status: int
    style: str
    what: str


def read(body: bytes) -> dict[str, str]:
    """The fields of a form, as a browser sends them; the last value of each."""
    return {name: values[-1] for name, values in parse_qs(body[:10_000].decode("utf-8", "replace")).items()}


def who(settings: ConsoleSettings, request: Request) -> str:
    """Who asks, as far as that is known: what the login proxy says, else the user who started the console."""
    if settings.user_header:
        return request.headers.get(settings.user_header, "").strip()
    return os.environ.get("USER", "")


def make(
    settings: ConsoleSettings, door: ConsoleDoor, request: Request, model: str, form: dict[str, str]
) -> ChangeResult:
    """Make the change that a form asks for, or say why not."""
    if not settings.changes:
        return ChangeResult(403, "bad", "This console changes nothing. Start it with --allow-changes.")
    if not door.holds(request, f"change {model}", form.get("token", "")):
        return ChangeResult(
            403, "bad", "This form is not of this console, or the console was started anew. Send it again."
        )
    signed = who(settings, request) if settings.user_header else form.get("who", "").strip()
    what, why, version = form.get("what", ""), form.get("why", "").strip(), form.get("version", "")
    if what not in MOVES or not version.isdecimal():
        return ChangeResult(400, "bad", "The form is not complete. Send it again.")
    if not signed:
        return ChangeResult(403, "bad", "Nobody signs: the login proxy says no name, or the field was left empty.")
    if not why:
        return ChangeResult(400, "bad", "Give one sentence for the history: why?")
    for name, value in (("why", why), ("who", signed)):
        if len(value) > _MOST[name]:
            return ChangeResult(400, "bad", f"{name}: {len(value)} characters, expected at most {_MOST[name]}.")
    try:
        with opened() as table:
            if table is None:
                return ChangeResult(409, "bad", "Nothing was released yet.")
            row = move(table, model, what, signed, why, int(version))
    except InputError as error:
        return ChangeResult(409, "bad", str(error))
    _logger.warning("%s of %s by %s: row %d", what, model, signed, row.version)
    return ChangeResult(200, "good", f"Done: {what}, signed by {signed}. Servers follow within seconds.")
