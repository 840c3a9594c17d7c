"""Checking clients' tokens: JSON Web Tokens (RFC 7519) against an issuer's keys, with the advice of RFC 8725.

The algorithm must be one of those that the key is for, and all of these are asymmetric: neither ``none`` nor a public
key used as a password of HMAC gets in. A token must end (``exp``), and name its issuer and kproxy's audience::

    validator = JwtValidator(jwks, issuer="https://id.example.com/", audience="kafka")
    validator.validate(token)        # Accepted(Identity("User:alice", frozenset({"team-a"}), expires_at=...))
                                     # Refused("the token expired 12 s ago"), Work(...): new keys are to be looked for

A reason is for the log: it names claims, times and keys' names, and no value that the token holds.
"""

import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from kproxy.core.acceptor import Accepted, Identity, Refused, Work
from kproxy.net.jwks import ALGORITHMS, Jwks, Key

LEEWAY_SECONDS = 30.0
"""How far clocks may differ (Kafka's sasl.oauthbearer.clock.skew.seconds)."""

NAME_CHARACTERS_MAX = 1024
"""Of a principal or a group; as usernames of kproxy's configuration."""

GROUPS_MAX = 1000
"""Issuers list 200 or so at most (Entra ID's limit for JWTs)."""

_KID_CHARACTERS_MAX = 1024
_TIME_MAX = 1e12  # the year 33658; neither infinity nor NaN is below
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_ALGORITHM = re.compile(r"[A-Za-z0-9-]{1,20}")


class _Refusal(Exception):  # noqa: N818 - it never leaves this file
    """Why a token is not good."""


class _UnknownKey(_Refusal):
    """The same, unless there are newer keys."""


class JwtValidator:
    """Knows which tokens are good: a Validator of core.oauthbearer."""

    def __init__(
        self,
        jwks: Jwks,
        issuer: str,
        audience: str,
        *,
        leeway_seconds: float = LEEWAY_SECONDS,
        principal_claim: str = "sub",
        groups_claim: str | None = None,
        algorithms: Iterable[str] = ALGORITHMS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            jwks: the keys; loaded and kept fresh by whoever owns them.
            issuer: what ``iss`` must be, to the letter.
            audience: what ``aud`` must be or hold.
            leeway_seconds: how far the issuer's clock may differ from ours.
            principal_claim: the claim that names the client; its value ``alice`` becomes ``User:alice``.
            groups_claim: the claim that lists its groups, as a list or as words in a text; None: no groups.
            algorithms: which algorithms may be used, of ALGORITHMS.
            now: seconds since 1970.
        """
        allowed = frozenset(algorithms)
        if not allowed or not allowed <= ALGORITHMS:
            raise ValueError(f"algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._leeway_seconds = leeway_seconds
        self._principal_claim = principal_claim
        self._groups_claim = groups_claim
        self._algorithms = allowed
        self._now = now
        self._jws = PyJWS(algorithms=sorted(allowed))

    def validate(self, token: str) -> Accepted | Refused | Work:
        """Check a token. Never raises, and blocks only in the Work that it may return."""
        may_renew = self._jwks.may_renew  # before the keys are looked at: it ends after they are replaced
        try:
            return self._accept(token)
        except _UnknownKey as unknown:
            return Work(lambda: self._validate_anew(token)) if may_renew else Refused(str(unknown))
        except _Refusal as refusal:
            return Refused(str(refusal))

    def _validate_anew(self, token: str) -> Accepted | Refused:
        self._jwks.renew()
        try:
            return self._accept(token)
        except _Refusal as refusal:
            return Refused(str(refusal))

    def _accept(self, token: str) -> Accepted:
        claims = self._verified(token)
        expires_at = self._check_times(claims)
        if claims.get("iss") != self._issuer:
            raise _Refusal("the token is of another issuer (iss)")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _Refusal("the token is for another audience (aud)")
        name = claims.get(self._principal_claim)
        if not _is_name(name):
            raise _Refusal(f"the token names no principal: its claim {self._principal_claim} is no text, or no name")
        return Accepted(Identity(f"User:{name}", self._groups(claims), expires_at))

    def _verified(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token whose signature is good."""
        segments = token.split(".")
        if len(segments) != 3 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise _Refusal("the token is no signed JWT")
        header = _json_object(segments[0])
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            shown = algorithm if isinstance(algorithm, str) and _ALGORITHM.fullmatch(algorithm) else "it names"
            raise _Refusal(f"the token is signed in a way that is not allowed (alg {shown})")
        if "crit" in header or "b64" in header:
            raise _Refusal("the token's header asks for what is not supported (crit)")
        if not isinstance(kid, str | None) or (kid is not None and len(kid) > _KID_CHARACTERS_MAX):
            raise _Refusal("the token names its key in a way that is none (kid)")
        keys = self._keys(algorithm, kid)
        if not any(self._is_signed(token, key, algorithm) for key in keys):
            raise _Refusal("the token's signature is not of its issuer's key")
        return _json_object(segments[1])

    def _keys(self, algorithm: str, kid: str | None) -> list[Key]:
        """Return the keys that may have signed a token: those of its name, or the only one that fits."""
        keys = [key for key in self._jwks.keys if algorithm in key.algorithms and kid in {None, key.kid}]
        if not keys:
            raise _UnknownKey(
                "the token is signed with an unknown key" if self._jwks.keys else "the issuer's keys are not known yet"
            )
        if kid is None and len(keys) > 1:
            raise _Refusal("the token does not say which key signed it (kid), and several may have")
        return keys

    def _is_signed(self, token: str, key: Key, algorithm: str) -> bool:
        try:
            self._jws.decode_complete(token, key.public, algorithms=[algorithm])
        except (PyJWTError, ValueError, TypeError):
            return False
        return True

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """Return when the token ends; one that ended within the leeway lasts until that is over."""
        now, leeway = self._now(), self._leeway_seconds
        expires_at, not_before = _time(claims, "exp"), _time(claims, "nbf")
        if expires_at is None:
            raise _Refusal("the token never ends (exp is missing)")
        if expires_at + leeway <= now:
            raise _Refusal(f"the token expired {now - expires_at:.0f} s ago")
        if not_before is not None and not_before - leeway > now:
            raise _Refusal(f"the token is not valid yet, for {not_before - now:.0f} s (nbf)")
        return expires_at if expires_at > now else expires_at + leeway

    def _groups(self, claims: Mapping[str, Any]) -> frozenset[str]:
        if self._groups_claim is None:
            return frozenset()
        groups = claims.get(self._groups_claim, [])
        if isinstance(groups, str):
            groups = groups.split()
        if not isinstance(groups, list) or len(groups) > GROUPS_MAX or not all(_is_name(group) for group in groups):
            raise _Refusal(f"the token's claim {self._groups_claim} is no list of names, or has above {GROUPS_MAX}")
        return frozenset(groups)


def unverified_expiry(token: str) -> float | None:
    """Return when a token ends that is a JWT and says so; for tokens that somebody else will check."""
    segments = token.split(".")
    if len(segments) != 3:
        return None
    try:
        return _time(_json_object(segments[1]), "exp")
    except _Refusal:
        return None


def _json_object(segment: str) -> Mapping[str, Any]:
    try:
        value = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError):
        raise _Refusal("the token is no signed JWT") from None
    if not isinstance(value, dict):
        raise _Refusal("the token is no signed JWT")
    return value


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Read a NumericDate (RFC 7519, 2)."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _TIME_MAX:
        raise _Refusal(f"the token's claim {name} is no time")
    return float(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARACTERS_MAX and value.isprintable()
