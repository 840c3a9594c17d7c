"""Who gets in, and as whom: from the configuration to TLS, mechanisms and credentials, and keeping their files fresh.

A Doors belongs to one process. Everything is read once before anything is served, so that a mistake in a file is told
at the start; afterwards a file that changes is read again, and a bad one changes nothing but the log.

For another configuration another Doors is made, which takes over from the one before what is configured in the same
words: users, keys, tokens and certificates, with what has been learnt of them and whoever keeps them fresh::

    new = Doors(config, before)         # reads files: best in a thread
    await new.start()
    await before.close(new)             # but not what is the new one's, too
"""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel

from kproxy.config import users as users_file
from kproxy.config.model import Cluster, Config, Listener
from kproxy.config.oauth import ClientOauth, UpstreamOauth
from kproxy.config.problems import Loc, Problem, where
from kproxy.config.requestlog import LogTls
from kproxy.config.sasl import ClientSasl, Sasl
from kproxy.config.tls import ClusterTls, ListenerTls
from kproxy.core.acceptor import Identity, ServerMechanism
from kproxy.core.clientlogin import Terms
from kproxy.core.credentials import Users
from kproxy.core.distinguished import Certificate, CertificatePrincipals
from kproxy.core.oauthbearer import Oauthbearer, OauthServer
from kproxy.core.plain import PassthroughPlain, PasswordCache, PlainServer
from kproxy.core.sasl import Mechanism, Plain
from kproxy.core.scram import Scram, ScramServer
from kproxy.errors import AuthError, ConfigError
from kproxy.net.fetch import Endpoint
from kproxy.net.jwks import Jwks, KeysOfFile, KeysOfUrl
from kproxy.net.oauth import JwtValidator
from kproxy.net.tasks import Tasks
from kproxy.net.tls import ClientSettings, ClientTls, ServerSettings, ServerTls
from kproxy.net.tokens import ClientCredentials, TokenFile, TokenSource
from kproxy.service.freshness import Kept, UsersOf, keep_certificates, keep_users
from kproxy.service.layouts import name_layout

_log = structlog.get_logger(__name__)

HARD_WORKERS = 2
"""Threads that derive keys of passwords, some milliseconds each, beside the event loop."""

TOKEN_SECONDS = 10.0
"""How long a start waits for the first token for the brokers."""


def _told(problem: Problem) -> str:
    return f"{where(problem.loc)}: {problem.text}"


class Doors:
    """All of it, for one configuration. Make it, ``start`` it, ask it, ``close`` it."""

    def __init__(
        self,
        config: Config,
        decoy_key: bytes | None = None,
        *,
        before: "Doors | None" = None,
        told: Callable[[Problem], str] = _told,
    ) -> None:
        """Read every file; take over from ``before`` what is the same. Raises ConfigError, a line for each mistake.

        ``decoy_key``: what unknown users are told by, the same in all processes of a run (core.credentials.Users),
        where a users file has none. None: one of this process. ``told`` writes a mistake or a doubt as a line: with
        line and column, if it is Loaded's.
        """
        self._told = told
        self._config = config
        self._decoy_key = decoy_key
        self._before = {} if before is None else before._kept  # noqa: SLF001  one of its own kind
        self._mistakes: list[str] = []
        self._kept: dict[object, Kept] = {}
        self._users: dict[Path, UsersOf] = {}
        self._server_tls: dict[str, ServerTls] = {}
        self._client_tls: dict[str, ClientTls] = {}
        self._terms: dict[str, Terms] = {}
        self._own: dict[str, Mechanism | None] = {}
        self._credentials: dict[str, dict[str, Mechanism]] = {}
        self.executor: Executor | None = None if before is None else before.executor
        for name, cluster in config.clusters.items():
            self._prepare_cluster(name, cluster)
        for name, listener in config.listeners.items():
            self._prepare_listener(name, listener)
        log_tls = None if config.request_log is None else config.request_log.tls
        if log_tls is not None:  # librdkafka reads them; here they are only looked at
            self._try(("request_log", "tls"), lambda: ClientTls(client_settings(log_tls)), log_tls)
        del self._before
        if self._mistakes:
            raise ConfigError("\n".join(self._mistakes))

    def _make(
        self, what: object, words: object, make: Callable[[], Any], keep: Callable[[Kept, Tasks], None] | None = None
    ) -> Any:  # noqa: ANN401 - whatever is made
        """Make something of files, by its ``words``; what was made before of the same is taken over."""
        kept = self._before.get(what)
        if kept is None or kept.words != words:
            kept = Kept(words, make(), keep)
        self._kept[what] = kept
        return kept.made

    def _try(self, here: Loc, make: Callable[[], Any], settings: BaseModel | None = None) -> Any:  # noqa: ANN401 - whatever is made
        """Make something of files; note what is wrong with them, at the option of ``settings`` that names the file."""
        try:
            return make()
        except ConfigError as error:
            if settings is not None and error.file is not None:
                here += next(((name,) for name, value in settings if value == error.file), ())
            self._mistakes += [self._told(Problem(here, line)) for line in str(error).splitlines()]
            return None

    # Towards the brokers.

    def _prepare_cluster(self, name: str, cluster: Cluster) -> None:
        here = ("clusters", name)
        self._own[name] = None if cluster.sasl is None else self._mechanism((*here, "sasl"), cluster.sasl)
        self._credentials[name] = {
            pattern: self._mechanism((*here, "credentials", pattern), sasl)
            for pattern, sasl in cluster.credentials.items()
        }
        tls = cluster.tls
        if tls is not None:
            keep = partial(keep_certificates, f"cluster {name}", tls.reload_interval)
            self._client_tls[name] = self._try(
                (*here, "tls"),
                lambda: self._make(("cluster", name), tls, lambda: ClientTls(client_settings(tls)), keep),
                tls,
            )

    def _mechanism(self, here: Loc, sasl: Sasl) -> Mechanism:
        if sasl.oauth is None:
            user = sasl.username or ""
            return (
                Plain(user, sasl.revealed())
                if sasl.mechanism == "PLAIN"
                else Scram(user, sasl.revealed(), sasl.mechanism)
            )
        oauth = sasl.oauth
        source: TokenSource | None = self._try(
            (*here, "oauth"),
            lambda: self._make(
                ("tokens", here),
                oauth,
                lambda: TokenSource(token_origin(oauth)),
                lambda kept, tasks: kept.made.start(tasks),
            ),
            oauth,
        )
        if source is None:
            return Plain("", "")  # never used: the mistake ends the start
        return Oauthbearer(source.current, dict(oauth.extensions))

    def own_mechanism(self, cluster: str) -> Mechanism | None:
        """Return how kproxy logs in to a cluster for itself; None: it does not."""
        return self._own[cluster]

    def client_tls(self, cluster: str) -> ClientTls | None:
        """Return how TLS is spoken with a cluster; None: not."""
        return self._client_tls.get(cluster)

    def mechanism_for(self, cluster: str) -> Callable[[Identity], Mechanism | None]:
        """Return what tells how to log in to a cluster for a client; that raises AuthError where there is no way."""
        own, credentials = self._own[cluster], self._credentials[cluster]
        if self._config.clusters[cluster].passthrough:
            return lambda identity: Plain(_user(identity), identity.password or "")
        if not credentials:
            return lambda _: own
        default = credentials.get("default", own)
        patterns = [(pattern, one) for pattern, one in credentials.items() if pattern != "default"]

        def mapped(identity: Identity) -> Mechanism:
            user = _user(identity)
            exact = credentials.get(user) if user != "default" else None
            found = exact or next((one for pattern, one in patterns if fnmatchcase(user, pattern)), default)
            if found is None:
                raise AuthError(f"there are no credentials at the brokers for {identity.principal}")
            return found

        return mapped

    # Towards clients.

    def _prepare_listener(self, name: str, listener: Listener) -> None:
        here = ("listeners", name)
        tls, names = listener.tls, name_layout(listener)
        if tls is not None:
            knows = None if names is None else names.knows
            keep = partial(keep_certificates, f"listener {name}", tls.reload_interval)
            self._server_tls[name] = self._try(
                (*here, "tls"),
                lambda: self._make(
                    ("listener", name), (tls, names), lambda: ServerTls(server_settings(tls), knows), keep
                ),
                tls,
            )
        sasl = listener.sasl
        if sasl is not None:
            passthrough = self._config.clusters[listener.cluster].passthrough is not None
            self._terms[name] = self._make_terms((*here, "sasl"), sasl, passthrough=passthrough)

    def _make_terms(self, here: Loc, sasl: ClientSasl, *, passthrough: bool) -> Terms:
        mechanisms: list[ServerMechanism] = []
        path = sasl.users_file
        users = None if path is None else self._try((*here, "users_file"), lambda: self._users_of(path))
        for name in sasl.mechanisms:
            if sasl.oauth is not None and name == "OAUTHBEARER":
                place = (*here, "oauth", *(["jwks_file"] if sasl.oauth.jwks_file else []))
                validator = self._try(place, partial(self._validator, here, sasl.oauth), sasl.oauth)
                if validator is not None:
                    mechanisms.append(OauthServer(validator))
            elif passthrough:
                mechanisms.append(PassthroughPlain())
            elif users is not None:
                table = _table_of(users)
                if name == "PLAIN":
                    cache = self._make(("passwords", here), path, PasswordCache)
                    mechanisms.append(PlainServer(table, cache))
                else:
                    mechanisms.append(ScramServer(name, table))
        by_name = {mechanism.name: mechanism for mechanism in mechanisms}
        return Terms(by_name, time.time, sasl.session_lifetime or 0.0, judged_upstream=passthrough)

    def _users_of(self, path: Path) -> UsersOf:
        if path not in self._users:
            self._users[path] = self._make(
                ("users", path), self._decoy_key, lambda: UsersOf(path, self._decoy_key), keep_users
            )
        return self._users[path]

    def _validator(self, here: Loc, oauth: ClientOauth) -> JwtValidator:
        where_from = (oauth.jwks_file, oauth.jwks_url, oauth.ca_file, oauth.refresh_interval)
        jwks: Jwks = self._make(
            ("keys", here), where_from, lambda: _keys(oauth), lambda kept, tasks: kept.made.start(tasks)
        )
        return JwtValidator(
            jwks,
            oauth.issuer,
            oauth.audience,
            leeway_seconds=oauth.leeway,
            principal_claim=oauth.principal_claim,
            groups_claim=oauth.groups_claim,
        )

    def server_tls(self, listener: str) -> ServerTls | None:
        """Return how TLS is spoken with a listener's clients; None: not."""
        return self._server_tls.get(listener)

    def principal_of(self, listener: str) -> Callable[[Certificate | None], str] | None:
        """Return who a client is by its certificate, or a PrincipalError; None: nobody is asked for one."""
        tls = self._config.listeners[listener].tls
        if tls is None or tls.client_auth == "none":
            return None
        return CertificatePrincipals(tls.principal_from, tls.principal_rules).principal

    def terms(self, listener: str) -> Terms | None:
        """Return how a listener's clients log in; None: they do not."""
        return self._terms.get(listener)

    # Life.

    async def start(self, token_seconds: float = TOKEN_SECONDS) -> bool:
        """Begin to follow files and addresses, those that were taken over excepted, as they are followed.

        Return True once there are tokens for the brokers, or False when that takes longer.
        """
        if self._terms and self.executor is None:
            self.executor = ThreadPoolExecutor(HARD_WORKERS, "login")
        for kept in self._kept.values():
            if kept.tasks is None:
                kept.start(Tasks())
        ready = [kept.made.ready.wait() for kept in self._kept.values() if isinstance(kept.made, TokenSource)]
        try:
            async with asyncio.timeout(token_seconds):
                await asyncio.gather(*ready)
        except TimeoutError:
            return False  # the log says what is the matter, and the links try again
        return True

    def look(self) -> None:
        """Look at certificates and users now, whatever the interval."""
        for kept in self._kept.values():
            kept.look.set()

    async def close(self, after: "Doors | None" = None) -> None:
        """Follow nothing any more but what ``after`` has taken over."""
        stay = [] if after is None else list(after._kept.values())  # noqa: SLF001  one of its own kind
        for kept in self._kept.values():
            if kept.tasks is not None and not any(kept is one for one in stay):
                await kept.tasks.close()

    def doubts(self) -> Iterator[str]:
        """Tell what works and should be known: certificates that expire soon, secrets that others can read."""
        now = dt.datetime.now(dt.UTC)
        for name, server in self._server_tls.items():
            for doubt in server.doubts(now):
                yield f"listeners.{name}.tls: {doubt}"
        for name, client in self._client_tls.items():
            for doubt in client.doubts(now):
                yield f"clusters.{name}.tls: {doubt}"
        yield from self._doubts_of_tokens()
        for path, users in self._users.items():
            if who := users_file.open_to(path):
                yield f"the users file {path} can be read by {who}; chmod 600 it"
            if not users.keyed:
                yield (
                    f"the users file {path} has no decoy_key, so that SCRAM's answers before and after a restart tell"
                    " who is no user; add 'decoy_key: KEY', of 'openssl rand -base64 32'"
                )

    def _doubts_of_tokens(self) -> Iterator[str]:
        """Tell of files with tokens that have none yet: no mistake, as somebody may write them while kproxy runs."""
        for name, cluster in self._config.clusters.items():
            logins: list[tuple[Loc, Sasl | None]] = [(("sasl",), cluster.sasl)]
            logins += [(("credentials", pattern), sasl) for pattern, sasl in cluster.credentials.items()]
            for loc, sasl in logins:
                if sasl is None or sasl.oauth is None or sasl.oauth.token_file is None:
                    continue
                try:
                    TokenFile(sasl.oauth.token_file).read(time.time())
                except AuthError as error:
                    yield self._told(Problem(("clusters", name, *loc, "oauth", "token_file"), str(error)))


def _keys(oauth: ClientOauth) -> Jwks:
    if oauth.jwks_file is not None:
        jwks = Jwks(KeysOfFile(oauth.jwks_file))
        jwks.load()
        return jwks
    # Fetched when it is started: an issuer that is down for a moment must not keep kproxy down.
    return Jwks(KeysOfUrl(Endpoint(oauth.jwks_url or "", ca_file=oauth.ca_file), oauth.refresh_interval))


def _user(identity: Identity) -> str:
    return identity.principal.removeprefix("User:")


def _table_of(users: UsersOf) -> Callable[[], Users]:
    return lambda: users.table


def server_settings(tls: ListenerTls) -> ServerSettings:
    """Return a listener's TLS in net's terms."""
    return ServerSettings(
        tls.cert_file,
        tls.key_file,
        tls.key_password.reveal() if tls.key_password else None,
        tls.client_auth,
        tls.client_ca_file,
        tls.min_version,
    )


def client_settings(tls: ClusterTls | LogTls | None) -> ClientSettings:
    """Return a cluster's TLS, or the request log's, in net's terms."""
    if tls is None:
        return ClientSettings()
    password = tls.key_password.reveal() if tls.key_password else None
    server_name = tls.server_name if isinstance(tls, ClusterTls) else None
    return ClientSettings(tls.ca_file, tls.cert_file, tls.key_file, password, server_name, tls.verify)


def token_origin(oauth: UpstreamOauth) -> TokenFile | ClientCredentials:
    """Return where a cluster's tokens come from. Raises ConfigError where an address cannot be used."""
    if oauth.token_file is not None:
        return TokenFile(oauth.token_file)
    assert oauth.client_secret is not None  # noqa: S101  the model has seen to it
    return ClientCredentials(
        Endpoint(oauth.token_url or "", ca_file=oauth.ca_file),
        oauth.client_id or "",
        oauth.client_secret.reveal(),
        scope=oauth.scope,
        client_auth=oauth.client_auth,
    )
