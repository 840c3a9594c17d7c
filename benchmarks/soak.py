"""A soak: everything at once, disturbed all the time, for as long as one likes; what leaks or loses shows.

    python benchmarks/soak.py --minutes 20

Three real brokers, one kproxy with two workers, limits, access rules, metrics, request log and admin API. Two
idempotent producers number their records; clients of other libraries come and go. Every few seconds one thing happens,
in turn: the configuration changes, a broker is killed and comes back, a worker is killed. In the end all that was
acknowledged must be in Kafka, once, and memory, descriptors and tasks must be what they were a while after the start.

What librdkafka itself stores twice is told, and is no failure: when a batch is answered with NOT_LEADER_OR_FOLLOWER it
takes a new producer epoch and sends all that is in flight anew, though the old leader may have stored some of it. Such
a record stands in the log under two epochs, which nothing between client and broker can bring about (debug=eos tells
"skipped sequence numbers"; seen without kproxy, too).

The victim among the workers is always the youngest, so that another one lives from the beginning to the end.
"""

import argparse
import itertools
import json
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import confluent_kafka
import confluent_kafka.admin
from kafka import KafkaConsumer, KafkaProducer

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.testing.waiting import wait_until

PARTITIONS = 4
PER_SECOND = 500
SAMPLE_SECONDS = 5.0
DISTURB_SECONDS = 15.0
SETTLED = 0.3
"""The share of the time after which memory must not grow any more: five minutes of twenty, and a bit."""
GROWTH_MAX = 1.05
JUDGED_MIN = 2
"""The supervisor, and the worker that is never killed."""


_BATCH = struct.Struct(">qi11xi16xqh")
"""Of a record batch's head (KIP-98) the base offset, length, last offset delta, producer id and epoch."""


class Sample(NamedTuple):
    """What one process used, as it tells."""

    at: float
    resident_bytes: int
    descriptors: int
    tasks: int


class Numbered:
    """A producer that numbers its records, and remembers which of them were acknowledged."""

    def __init__(self, address: str, topic: str) -> None:
        self.topic = topic
        self.acked = 0
        self.failed: list[str] = []
        self.sent = 0
        self._stopping = threading.Event()
        options = {"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        self._producer = confluent_kafka.Producer(options)
        self._thread = threading.Thread(target=self._send, name=topic, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while not self._stopping.wait(0.01):
            for _ in range(PER_SECOND // 100):
                value = str(self.sent).encode()
                with suppress(BufferError):  # brokers are down: the next one, later
                    self._producer.produce(self.topic, value, partition=self.sent % PARTITIONS, on_delivery=self._told)
                    self.sent += 1
            self._producer.poll(0)

    def _told(self, error: confluent_kafka.KafkaError | None, _message: confluent_kafka.Message) -> None:
        if error is None:
            self.acked += 1
        else:
            self.failed.append(str(error))

    def stop(self) -> None:
        """Send no more, and wait for what was sent."""
        self._stopping.set()
        self._thread.join()
        self._producer.flush(60)


class Churn:
    """Clients that come, do something, and go."""

    def __init__(self, address: str, topic: str) -> None:
        self.visits: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self._address, self._topic = address, topic
        self._stopping = threading.Event()
        works: tuple[Callable[[], None], ...] = (self._confluent_group, self._kafka_python, self._kafka_python_reader)
        self._threads = [threading.Thread(target=self._repeat, args=(work,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._stopping.wait(random.random()):
            try:
                work()
            except Exception as error:  # noqa: BLE001  a client's own trouble amid a kill; counted, and told
                self.troubles[f"{work.__name__.strip('_')}: {type(error).__name__}"] += 1
            else:
                self.visits[work.__name__.strip("_")] += 1

    def _confluent_group(self) -> None:
        options = {
            "bootstrap.servers": self._address,
            "group.id": "churn",
            "auto.offset.reset": "latest",
            "log_level": 0,
        }
        consumer = confluent_kafka.Consumer(options)
        consumer.subscribe([self._topic])
        consumer.consume(500, 3)
        consumer.close()

    def _kafka_python(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self._address, acks="all", max_block_ms=20_000)
        for number in range(20):
            producer.send("churn", str(number).encode())
        producer.flush(20)
        producer.close(5)

    def _kafka_python_reader(self) -> None:
        consumer = KafkaConsumer("churn", bootstrap_servers=self._address, consumer_timeout_ms=1000)
        sum(1 for _ in consumer)
        consumer.close()

    def stop(self) -> None:
        """Have nobody come any more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)


class Soak:
    """One run."""

    def __init__(self, folder: Path, cluster: KafkaCluster, minutes: float) -> None:
        self.folder, self.cluster, self.seconds = folder, cluster, minutes * 60
        self.port, self.inside, self.admin = (free_port_block(1) for _ in range(3))
        self.address = f"127.0.0.1:{self.port}"
        self.path = folder / "kproxy.yaml"
        self.samples: dict[int, list[Sample]] = {}
        self.names: dict[int, str] = {}
        self.looks = True
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self._write(0)
        self.proxy = ConfiguredProxy(folder, self.path, self.address, "--log-format", "json")

    def _write(self, number: int) -> None:
        access = {"apis": {"deny": ["DeleteTopics", "CreateAcls"][: 1 + number % 2]}}
        listeners: dict[str, Any] = {"public": {"bind": self.address, "addressing": "single", "access": access}}
        if number % 3 == 2:
            listeners["inside"] = {"bind": f"127.0.0.1:{self.inside}", "addressing": "single"}
        limits: list[dict[str, Any]] = [{"name": "wide", "leaky_bucket": {"rate": 1_000_000, "burst": 1_000_000}}]
        if number % 4 == 3:
            limits.append({"name": "slots", "concurrency": {"max": 1000 + number}})
        config = {
            "clusters": {
                "main": {
                    "bootstrap": self.cluster.sasl_bootstrap.split(","),
                    "sasl": {"username": "gateway", "password": "gateway-secret"},
                }
            },
            "listeners": listeners,
            "limits": limits,
            "admin": {"bind": f"127.0.0.1:{self.admin}"},
            "metrics": {"latency": True},
            "request_log": {"to": "file", "path": str(self.folder / f"log-{number % 2}.jsonl"), "sample": 0.01},
            "workers": 2,
        }
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(config), encoding="utf-8")  # which is YAML, too
        new.chmod(0o600)
        new.rename(self.path)

    def workers(self) -> list[int]:
        """Return the workers' process ids, the eldest first."""
        lists = Path(f"/proc/{self.proxy.pid}/task").glob("*/children")
        children = [int(child) for path in lists for child in path.read_text(encoding="ascii").split()]
        began = {pid: _began(pid) for pid in children}
        return sorted((pid for pid in children if began[pid]), key=lambda pid: began[pid])

    def _look(self) -> None:
        if not self.looks:
            return
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/status", timeout=30) as answer:
            processes = json.load(answer)["processes"]
        for now in processes:
            pid = now["pid"]
            if now["tasks"] is not None:  # a worker that was just killed tells none
                self.names.setdefault(pid, "supervisor" if pid == self.proxy.pid else f"worker {pid}")
                sample = Sample(time.monotonic(), now["resident_bytes"], now["descriptors"], now["tasks"])
                self.samples.setdefault(pid, []).append(sample)

    def _disturbances(self) -> Iterator[Callable[[], None]]:
        for number in itertools.count(1):
            yield partial(self._reload, 2 * number - 1)
            yield partial(self._kill_broker, 1 + number % 3)
            yield partial(self._reload, 2 * number)
            yield self._kill_worker

    def _told(self, event: str) -> int:
        return self.proxy.log.read_text(encoding="utf-8").count(f'"event": "{event}"')

    def _reload(self, number: int) -> None:
        before = self._told("configuration applied")
        more = number % 3 == 2  # as in _write: a listener more has a socket and tasks more
        self.looks = self.looks and not more
        self._write(number)
        self.proxy.signal(signal.SIGHUP)
        wait_until(
            lambda: self._told("configuration applied") > before,
            30,
            lambda: f"the configuration to be applied:\n{self.proxy.log_tail(12)}",
        )
        self.looks = not more
        self.done["reloads"] += 1

    def _kill_broker(self, node: int) -> None:
        broker = self.cluster.broker(node)
        broker.kill()
        time.sleep(5)
        broker.start()
        self.cluster.heal()
        self.done["broker kills"] += 1

    def _kill_worker(self) -> None:
        there = self.workers()
        os.kill(there[-1], signal.SIGKILL)
        wait_until(lambda: len(self.workers()) == len(there) and self.workers() != there, 30, "another worker")
        self.done["worker kills"] += 1

    def run(self) -> None:
        """Do it all."""
        self.proxy.start()
        producers = [Numbered(self.address, topic) for topic in ("one", "two")]
        churn = Churn(self.address, "one")
        began = time.monotonic()
        looking = threading.Event()
        looker = threading.Thread(target=self._keep_looking, args=(looking,), daemon=True)
        looker.start()
        try:
            for disturb in self._disturbances():
                time.sleep(DISTURB_SECONDS)
                if time.monotonic() - began > self.seconds:
                    break
                disturb()
        finally:
            churn.stop()
            for producer in producers:
                producer.stop()
            time.sleep(5)
            looking.set()
            looker.join()
        for producer in producers:
            self._verify(producer)
        self._judge(began)
        print(
            f"disturbed by: {dict(self.done)}; visits: {dict(churn.visits)}; clients' troubles: {dict(churn.troubles)}"
        )
        self.proxy.finish()

    def _keep_looking(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_SECONDS):
            self._look()

    def _verify(self, producer: Numbered) -> None:
        options = {"bootstrap.servers": self.cluster.plain_bootstrap, "group.id": "verify", "log_level": 0}
        consumer = confluent_kafka.Consumer(options)
        parts = [confluent_kafka.TopicPartition(producer.topic, at, 0) for at in range(PARTITIONS)]
        ends = {part.partition: consumer.get_watermark_offsets(part, 30)[1] for part in parts}
        consumer.assign(parts)
        seen: dict[int, list[tuple[int, int]]] = {}
        deadline = time.monotonic() + 120
        stored = 0
        while stored < sum(ends.values()) and time.monotonic() < deadline:
            for message in consumer.consume(5000, 1):
                if message.error() is None:
                    stored += 1
                    seen.setdefault(int(message.value()), []).append((message.partition(), message.offset()))
        consumer.close()
        lost = producer.sent - len(seen)
        again = [places for places in seen.values() if len(places) > 1]
        epochs = [[self._producer_epoch(producer.topic, *place) for place in places] for places in again]
        twice = sum(len(found) - len(set(found)) for found in epochs)
        print(
            f"{producer.topic}: {producer.sent} sent, {producer.acked} acknowledged, {len(producer.failed)} failed, "
            f"{stored} stored, {lost} lost, {twice} twice; {len(again)} under another epoch of librdkafka's"
        )
        if lost or twice or producer.failed:
            self.broken.append(f"{producer.topic}: {lost} lost, {twice} twice, failed: {producer.failed[:1]}")

    def _producer_epoch(self, topic: str, partition: int, offset: int) -> tuple[int, int]:
        """Return producer id and epoch of the batch that holds a record, as they stand in the log."""
        for path in sorted(self.cluster.broker(1).folder.glob(f"{topic}-{partition}/*.log")):
            data, pos = path.read_bytes(), 0
            while pos + _BATCH.size <= len(data):
                base, length, last, producer_id, epoch = _BATCH.unpack_from(data, pos)
                if base <= offset <= base + last:
                    return producer_id, epoch
                pos += 12 + length
        raise LookupError(f"{topic}-{partition} has no record {offset} on broker 1")

    def _judge(self, began: float) -> None:
        settled = began + self.seconds * SETTLED
        judged = 0
        for pid, samples in self.samples.items():
            later = [one for one in samples if one.at >= settled]
            if len(later) < 12 or samples[-1].at - samples[0].at < self.seconds * (1 - SETTLED):
                continue  # it was killed, or took the place of one that was
            judged += 1
            early, late = later[:6], later[-6:]
            was, now = (max(one.resident_bytes for one in part) for part in (early, late))
            had, has = (min(one.descriptors for one in part) for part in (early, late))
            ran, run = (min(one.tasks for one in part) for part in (early, late))
            print(
                f"{self.names[pid]}: {was / 2**20:.1f} MiB at {SETTLED:.0%} of the time, {now / 2**20:.1f} at the end; "
                f"descriptors {had}, {has}; tasks {ran}, {run}"
            )
            if now > was * GROWTH_MAX:
                self.broken.append(f"{self.names[pid]}: memory grew by {now / was - 1:.0%}")
            if has > had:
                self.broken.append(f"{self.names[pid]}: descriptors grew from {had} to {has}")
            if run > ran:
                self.broken.append(f"{self.names[pid]}: tasks grew from {ran} to {run}")
        if judged < JUDGED_MIN:
            self.broken.append(f"{judged} processes were watched from the beginning to the end")


def _began(pid: int) -> int:
    """Return when a process began, in ticks: ids begin anew after the largest. 0: it is gone."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(told.rpartition(")")[2].split()[19])


def main() -> int:
    """Run it; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with KafkaCluster(folder / "kafka") as cluster:
            admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": cluster.plain_bootstrap})
            topics = [confluent_kafka.admin.NewTopic(topic, PARTITIONS, 3) for topic in ("one", "two", "churn")]
            for made in admin.create_topics(topics).values():
                made.result(30)
            soak = Soak(folder, cluster, minutes)
            soak.run()
    for line in soak.broken:
        print(f"broken: {line}", file=sys.stderr)
    return 1 if soak.broken else 0


if __name__ == "__main__":
    sys.exit(main())
