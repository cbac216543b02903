"""Who may ask: bearer tokens of shop backends and of people who test, which may be changed while the gateway runs."""

import hmac
import logging
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

_logger = logging.getLogger(__name__)
SHORTEST = 16
"""Characters of a token; a shorter one could be guessed."""


class Denied(Exception):
    """`status` 401: who asks is not known; 403: it is, and may not."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class BadTokens(ValueError):
    """Some lines hold no token that could keep anybody out; `good` are those of the others."""

    def __init__(self, why: str, good: frozenset[bytes]) -> None:
        super().__init__(why)
        self.good = good


class AccessTokens:
    """The tokens that `read` gives at the moment; several are valid at once, so that they can be rotated.

    Where it raises `ValueError`, those before hold: a slip in a rotation must not shut out every shop. At the start
    there are none before: then the good lines of a damaged file count, and it raises only where there are none.
    """

    def __init__(self, read: Callable[[], frozenset[bytes]]) -> None:
        self._read = read
        self._problem: str | None = None
        try:
            self._last = read()
        except BadTokens as error:
            if not error.good:
                raise
            self._last = error.good

    @classmethod
    def configured(cls, variable: str) -> "AccessTokens | None":
        """Tokens of the file that `$<variable>_FILE` names, one a line, or of `$<variable>`, by commas; None without.

        Raises `ValueError` where the file cannot be read or a token is too short to keep anybody out.
        """
        if path := os.environ.get(f"{variable}_FILE"):
            return cls(_File(Path(path)))
        if given := os.environ.get(variable):
            fixed = _digests(given.encode().split(b","), f"${variable}")
            return cls(lambda: fixed)
        return None

    @property
    def problem(self) -> str | None:
        """Why the tokens of before hold."""
        self._latest()
        return self._problem

    def hold(self, token: str | None) -> bool:
        """Whether `token` is one of them; takes as long for a wrong one as for a right one."""
        digest = sha256((token or "").encode()).digest()
        return bool(sum([hmac.compare_digest(digest, each) for each in self._latest()])) and token is not None

    def _latest(self) -> frozenset[bytes]:
        try:
            self._last, self._problem = self._read(), None
        except ValueError as error:
            problem = f"the tokens of before hold: {error}"
            if problem != self._problem:
                _logger.error("%s", problem)
            self._problem = problem
        return self._last


class _File:
    """Tokens of a file, read again when the file is another one; lines that begin with # are comments."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: frozenset[bytes] = frozenset()

    def __call__(self) -> frozenset[bytes]:
        try:
            state = self._path.stat()
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen != self._seen:
                self._tokens = _digests(self._path.read_bytes().splitlines(), str(self._path))
                self._seen = seen
        except OSError as error:
            raise ValueError(f"{self._path}: the tokens cannot be read ({error})") from error
        return self._tokens


def _digests(words: list[bytes], where: str) -> frozenset[bytes]:
    tokens = [word.strip() for word in words if word.strip() and not word.lstrip().startswith(b"#")]
    good = [token for token in tokens if len(token) >= SHORTEST and token.isascii()]
    digests = frozenset(sha256(token).digest() for token in good)
    if not tokens or len(good) < len(tokens):
        raise BadTokens(f"{where}: expected tokens of {SHORTEST} characters or more, ASCII, one a line; make one with "
                        "`python -c 'import secrets; print(secrets.token_urlsafe())'`", digests)  # fmt: skip
    return digests


class Access:
    """`shops` may ask (None: anybody may), `testers` may also choose their arm (None: nobody may)."""

    def __init__(self, shops: AccessTokens | None = None, testers: AccessTokens | None = None) -> None:
        self._shops, self._testers = shops, testers

    @property
    def problems(self) -> list[str]:
        """What is wrong with the tokens."""
        found = [tokens.problem for tokens in (self._shops, self._testers) if tokens is not None]
        return [problem for problem in found if problem is not None]

    @property
    def asks(self) -> bool:
        """Whether shops need a token."""
        return self._shops is not None

    def check(self, authorization: str | None, *, chooses: bool) -> None:
        """Raises `Denied` where the bearer of this header may not ask, or not choose an arm."""
        scheme, _, given = (authorization or "").partition(" ")
        token = given.strip() if scheme.lower() == "bearer" else None
        tests = self._testers is not None and self._testers.hold(token)
        if tests:
            return
        known = self._shops is not None and self._shops.hold(token)
        if not known and (self._shops is not None or (chooses and self._testers is not None)):
            raise Denied(401, "a valid bearer token is needed")
        if chooses:
            raise Denied(403, "X-Variant is for people who test; this token is not one of theirs")
