"""Finding the broker for a client's connection: dialled, held while it is down, given up in the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kproxy.core.patience import Patience
from kproxy.core.sasl import Mechanism
from kproxy.core.tally import Tally
from kproxy.errors import AuthError, KproxyError, ProtocolError, UpstreamError
from kproxy.net.link import ClusterLink, Opened
from kproxy.net.spares import Spares

LOOK_SECONDS = 0.25
"""How often a client that is held is seen to: whether its broker is still one of the cluster."""

RETRY_GAP_SECONDS = 0.1
"""Between two dials of one client: where the control connection stands and the dial fails all the same."""


class Dialler:
    """Dials for the connections of one listener."""

    def __init__(self, link: ClusterLink, tally: Tally) -> None:
        """Dial the brokers of ``link``, counting in ``tally``."""
        self._link = link
        self._tally = tally
        self._spares = Spares()
        settings = link.settings
        self._patience = Patience(settings.dial_patience_seconds, settings.dial_patience_max_seconds)

    def settings_changed(self) -> None:
        """The link's are others."""
        settings = self._link.settings
        self._patience.change(settings.dial_patience_seconds, settings.dial_patience_max_seconds)

    async def dial(self, client_host: str, node_id: int | None, mechanism: Mechanism | None) -> Opened:
        """Dial a broker (None: any that is up) and log in by ``mechanism``.

        It is tried until it answers or the client has been held long enough.

        Raises:
            UpstreamError, ProtocolError: why the last try failed.
            AuthError: the brokers refuse our credentials.
        """
        opened, _ = await self._patiently(client_host, node_id, lambda: self.try_once(node_id, mechanism))
        return opened

    async def judge(self, client_host: str, node_id: int | None, mechanism: Mechanism | None) -> None:
        """See whether a client may log in by ``mechanism``: at the broker it is for if that is up, or at any.

        Its next dial of that broker takes the connection. Raises as ``dial``.
        """
        opened = None
        if node_id in self._link.up_nodes():
            with suppress(UpstreamError, ProtocolError):  # another can tell as well
                opened = await self._log_in(node_id, mechanism)
        if opened is None:
            opened = await self._patiently(client_host, None, lambda: self._log_in(None, mechanism))
        self._spares.keep(*opened)

    async def _patiently(
        self, client_host: str, node_id: int | None, attempt: Callable[[], Awaitable[tuple[Opened, int]]]
    ) -> tuple[Opened, int]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self.patience(client_host, node_id, began)
        while True:
            try:
                opened = await attempt()
            except KproxyError as error:
                left = deadline - loop.time()
                if left <= 0:
                    raise
                if isinstance(error, AuthError):
                    await asyncio.sleep(left)
                    raise
                await asyncio.sleep(min(RETRY_GAP_SECONDS, left))
                while (left := deadline - loop.time()) > 0:
                    if await self._link.wait_up(node_id, min(left, LOOK_SECONDS)):
                        break
                    if self._replaced(node_id):
                        deadline = min(deadline, began + self._link.settings.dial_patience_seconds)
            else:
                self._patience.forgive(client_host, -1 if node_id is None else node_id)
                return opened

    def _replaced(self, node_id: int | None) -> bool:
        """Whether the cluster goes on without a broker: others lead now, and a client that is held cannot find out."""
        return node_id is not None and node_id not in self._link.view.present()

    def patience(self, client_host: str, node_id: int | None, now_seconds: float) -> float:
        """Return how long this client may be held now; see core.patience."""
        return self._patience.take(client_host, -1 if node_id is None else node_id, now_seconds)

    async def try_once(self, node_id: int | None, mechanism: Mechanism | None) -> tuple[Opened, int]:
        """Dial a broker (None: any that is up) once; return the connection and the broker's id. Raises as ``dial``."""
        spare = self._spares.take(node_id, mechanism)
        if spare is not None:
            if self._link.good(*spare, mechanism):
                return spare
            spare[0].conversation.close()  # the settings have changed meanwhile, or the broker has moved
        return await self._log_in(node_id, mechanism)

    async def _log_in(self, node_id: int | None, mechanism: Mechanism | None) -> tuple[Opened, int]:
        if node_id is None:
            up = self._link.up_nodes()
            if not up:
                raise self._link.login_refused or UpstreamError("no broker is up")
            node_id = random.choice(up)  # noqa: S311  spreads the load, no secret
        self._tally.dials += 1
        self._tally.dials_by_broker[node_id] += 1
        try:
            return await self._link.open(node_id, mechanism), node_id
        except KproxyError as error:
            self._tally.dial_failures += 1
            self._tally.dial_failures_by_broker[node_id] += 1
            self._tally.login_failures += isinstance(error, AuthError)
            raise

    async def ask_all(self, key: int, version: int, body: bytes, timeout_seconds: float) -> list[bytes]:
        """Ask every broker that is up the same; return the bodies of the answers that came."""
        asks = (self._link.ask(node_id, key, version, body, timeout_seconds) for node_id in self._link.up_nodes())
        answers = await asyncio.gather(*asks, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, KproxyError):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    def close(self) -> None:
        """Close what was kept for dials that have not come."""
        self._spares.close()
