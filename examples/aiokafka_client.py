"""aiokafka through kproxy: ten records there and back.

Nothing here knows of kproxy: no credentials, no TLS, one address::

    $ python examples/aiokafka_client.py 127.0.0.1:9092
    aiokafka: 10 records sent and read back
"""

import asyncio
import sys
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

TOPIC = "kproxy-example"
RECORDS = 10
DEADLINE_SECONDS = 30


async def main(bootstrap: str) -> None:
    """Send ten records that no other run sends, and read until all of them have come back."""
    run = uuid.uuid4().hex
    sent = {f"{run}-{number}".encode() for number in range(RECORDS)}

    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value in sent:
            await producer.send_and_wait(TOPIC, value)

    missing = set(sent)
    async with AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, group_id=run, auto_offset_reset="earliest"
    ) as consumer:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for message in consumer:
                missing.discard(message.value)
                if not missing:
                    break
    print(f"aiokafka: {RECORDS} records sent and read back")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"))
