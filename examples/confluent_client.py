"""confluent-kafka (librdkafka) through kproxy: ten records there and back.

Nothing here knows of kproxy: no credentials, no TLS, one address::

    $ python examples/confluent_client.py 127.0.0.1:9092
    confluent-kafka: 10 records sent and read back
"""

import sys
import time
import uuid

from confluent_kafka import Consumer, Producer

TOPIC = "kproxy-example"
RECORDS = 10
DEADLINE_SECONDS = 30


def main(bootstrap: str) -> None:
    """Send ten records that no other run sends, and read until all of them have come back."""
    run = uuid.uuid4().hex
    sent = {f"{run}-{number}".encode() for number in range(RECORDS)}

    producer = Producer({"bootstrap.servers": bootstrap})
    for value in sent:
        producer.produce(TOPIC, value)
    if producer.flush(DEADLINE_SECONDS) > 0:
        raise SystemExit("not every record was acknowledged")

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": run, "auto.offset.reset": "earliest"})
    consumer.subscribe([TOPIC])
    missing = set(sent)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while missing and time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            missing.discard(message.value())
    consumer.close()
    if missing:
        raise SystemExit(f"{len(missing)} records did not come back")
    print(f"confluent-kafka: {RECORDS} records sent and read back")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092")
