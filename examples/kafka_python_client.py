"""kafka-python through kproxy: ten records there and back.

Nothing here knows of kproxy: no credentials, no TLS, one address. It reads without a consumer group, as the cluster
of `kproxy demo` closes the connection of a kafka-python that joins one::

    $ python examples/kafka_python_client.py 127.0.0.1:9092
    kafka-python: 10 records sent and read back
"""

import sys
import time
import uuid

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

TOPIC = "kproxy-example"
RECORDS = 10
DEADLINE_SECONDS = 30


def main(bootstrap: str) -> None:
    """Send ten records that no other run sends, and read until all of them have come back."""
    run = uuid.uuid4().hex
    sent = {f"{run}-{number}".encode() for number in range(RECORDS)}

    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for acknowledgement in [producer.send(TOPIC, value) for value in sent]:
        acknowledgement.get(DEADLINE_SECONDS)
    producer.close()

    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    partitions = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    missing = set(sent)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while missing and time.monotonic() < deadline:
        for messages in consumer.poll(timeout_ms=1000).values():
            missing -= {message.value for message in messages}
    consumer.close()
    if missing:
        raise SystemExit(f"{len(missing)} records did not come back")
    print(f"kafka-python: {RECORDS} records sent and read back")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092")
