"""A record there and back on a topic that was named for it, and what that shows besides: the clock, the hints.

The record goes to the leader of the first partition that has one, and is fetched from there. Then one more goes where
it does not belong, to another broker: its answer, from Produce v10 on, names the leader (KIP-951), which nothing else
makes an answer do. Where the proxy sends it to the leader all the same it is a second record.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Final

from kproxy.config.values import HostPort
from kproxy.errors import AuthError, ProtocolError, UpstreamError
from kproxy.net.conversation import Conversation
from kproxy.service.doctor import judge
from kproxy.service.doctor.client import Client
from kproxy.service.doctor.findings import Finding, Report, fail, ok, skip
from kproxy.service.doctor.visit import Facts
from kproxy.wire import roundtrip
from kproxy.wire.apis import ApiKey

FETCH_WAIT_MS: Final = 500
"""How long a Fetch waits for the record; a consumer's fetch.max.wait.ms."""
FETCH_BYTES_MAX: Final = 1 << 20

_NOT_LEADER, _UNKNOWN_TOPIC, _NOT_AUTHORIZED, _BAD_TIME = 6, 3, 29, 32
_REMEDIES = {
    _UNKNOWN_TOPIC: "create it, as the doctor creates nothing, or name another one",
    _NOT_AUTHORIZED: "give the user that the brokers see an ACL to read and write it, or name another topic",
    _BAD_TIME: "the clocks are apart by more than the topic allows: set this machine's and the broker's by NTP",
    _NOT_LEADER: "its leader is moving: try again; if it stays so, the proxy's ports lead to the wrong brokers",
}


async def round_trip(client: Client, topic: str, facts: Facts, places: Mapping[int, HostPort], report: Report) -> None:
    """Send a record to a topic and fetch it again.

    ``facts``: of a visit that asked about the topic. ``places``: where brokers can be reached through the proxy; a
    login is for no other address.
    """
    found = next((one for one in facts.cluster.topics if one.name == topic), None) if facts.cluster else None
    if found is None or found.error_code:
        code = found.error_code if found else _UNKNOWN_TOPIC
        report(_refused("produce", f"topic {topic} cannot be used", code))
        return
    led = [part for part in found.partitions if part.leader_id in places]
    if not led:
        remedy = "see the addresses above, and the brokers' logs"
        report(fail("produce", f"no partition of {topic} has a leader that can be reached", remedy))
        return
    trip = _Trip(client, topic, led[0].partition_index, report)
    leader = places[led[0].leader_id]
    try:
        async with asyncio.timeout(10 * client.timeout_seconds):
            await trip.there_and_back(leader)
            others = [place for place in places.values() if place != leader]
            if others:
                await trip.astray(others[0], facts.told)
            else:
                report(skip("leaks", "Produce gives no hint at a leader where there is one address only"))
    except TimeoutError:
        report(fail("time", f"not done within {10 * client.timeout_seconds:g} s", "see the proxy's log"))
    except (UpstreamError, ProtocolError, AuthError) as error:
        report(fail(trip.step, f"topic {topic} by {trip.where}: {error}", "see the proxy's log, and the broker's"))


class _Trip:
    def __init__(self, client: Client, topic: str, partition: int, report: Report) -> None:
        self._client = client
        self._topic = topic
        self._partition = partition
        self._report = report
        self._value = b"kproxy doctor " + secrets.token_hex(8).encode()
        self.step = "produce"
        self.where = HostPort("", 0)

    async def there_and_back(self, leader: HostPort) -> None:
        """Produce at the leader, fetch from it. Raises UpstreamError, ProtocolError, AuthError."""
        self.where = leader
        conversation, table = await self._client.open(leader)
        try:
            low, high = table.ranges.get(ApiKey.PRODUCE, (0, -1))
            version = max(low, roundtrip.PRODUCE_VERSION)
            if version > min(high, roundtrip.PRODUCE_VERSION_MAX):
                self._report(skip("produce", f"Produce v{low} to v{high} are not among those that the doctor writes"))
                return
            began = time.time()
            done, _ = await self._produce(conversation, version)
            place = f"{self._topic}, partition {self._partition}"
            if done.error_code:
                self._report(_refused("produce", f"{place} takes no record", done.error_code))
                return
            self._report(ok("produce", f"{place}, offset {done.base_offset}"))
            back = time.time()
            attributes = await self._fetch(conversation, done.base_offset)
            if attributes is not None and attributes & roundtrip.LOG_APPEND_TIME:
                self._report(judge.clock(began, back, done.log_append_time_ms))
            elif attributes is not None:
                self._report(skip("clock", f"{self._topic} keeps clients' times (CreateTime), none of the broker's"))
        finally:
            conversation.close()

    async def _produce(self, conversation: Conversation, version: int) -> tuple[roundtrip.Produced, bytes]:
        timeout = self._client.timeout_seconds
        batch = roundtrip.one_record(self._value, round(time.time() * 1000))
        request = roundtrip.produce_request(version, self._topic, self._partition, batch, round(timeout * 1000))
        body = await conversation.request(ApiKey.PRODUCE, version, request, timeout)
        return roundtrip.parse_produce_response(version, body), body

    async def _fetch(self, conversation: Conversation, offset: int) -> int | None:
        """Return the attributes of the batch with the record, None where it does not come."""
        self.step = "consume"
        request = roundtrip.fetch_request(self._topic, self._partition, offset, FETCH_WAIT_MS, FETCH_BYTES_MAX)
        timeout = self._client.timeout_seconds
        deadline = time.monotonic() + timeout
        while True:
            body = await conversation.request(ApiKey.FETCH, roundtrip.FETCH_VERSION, request, timeout)
            error_code, records = roundtrip.parse_fetch_response(body)
            if error_code:
                self._report(_refused("consume", f"{self._topic} gives no record", error_code))
                return None
            if (attributes := roundtrip.attributes_of(records, offset, self._value)) is not None:
                self._report(ok("consume", "the same record came back"))
                return attributes
            if time.monotonic() > deadline:
                text = f"the record at offset {offset} does not come back within {timeout:g} s"
                self._report(fail("consume", text, "are its replicas in sync? see the brokers' logs"))
                return None
            if not records:  # an answer that did not wait, as where a limit holds clients up, must not make this spin
                await asyncio.sleep(FETCH_WAIT_MS / 10_000)

    async def astray(self, other: HostPort, told: judge.Told) -> None:
        """Produce where the leader is not, and look at what the answer names. Raises as above."""
        self.step, self.where = "leaks", other
        conversation, table = await self._client.open(other)
        try:
            version = min(table.ranges.get(ApiKey.PRODUCE, (0, 0))[1], roundtrip.PRODUCE_VERSION_MAX)
            if version < roundtrip.PRODUCE_VERSION_ENDPOINTS:
                self._report(ok("leaks", f"Produce is offered up to v{version}, which gives no hint at a leader"))
                return
            done, body = await self._produce(conversation, version)
            named, trouble = judge.readable("Produce", version, ApiKey.PRODUCE, body)
            troubles = [trouble] if trouble else list(judge.leaks("Produce", named, told))
            for finding in troubles:
                self._report(finding)
            if not troubles:
                seen = "names the proxy's addresses only" if named else "names no address"
                text = f"a hint at the leader (Produce v{version}, error {done.error_code}) {seen}"
                self._report(ok("leaks", text))
        finally:
            conversation.close()


def _refused(step: str, text: str, error_code: int) -> Finding:
    return fail(step, f"{text}: Kafka's error {error_code}", _REMEDIES.get(error_code, "see the brokers' logs"))
