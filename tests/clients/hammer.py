"""A greedy producer as a program of its own, so that it takes nothing from the process that measures another one.

``python hammer.py HOST:PORT TOPIC`` tries 500 requests a second of one record each, as client "greedy", until killed.
"""

import sys
import time

from confluent_kafka import Producer

PAUSE_SECONDS = 0.002


def main(address: str, topic: str) -> None:
    """Send for ever, as far as it gets."""
    settings = {"bootstrap.servers": address, "client.id": "greedy", "linger.ms": 0, "log_level": 0}
    producer = Producer(settings | {"batch.num.messages": 1, "queue.buffering.max.messages": 1000})
    while True:
        try:
            producer.produce(topic, b"more", partition=1)
        except BufferError:
            producer.poll(0.01)
        producer.poll(0)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
