"""What the end-to-end tests send through the proxy with: three Python libraries and Kafka's own, in one shape.

Each library has a Producer (``send``, and transactions) and a Member of a consumer group (a thread that polls), so
that one test serves all of them; what came through is compared exactly: counts, keys, order::

    records = make_records(1000, partitions=4)
    produce(library, proxy.address, topic, records)
    assert_exact(records, consume(library, proxy.address, topic, partitions=4))
"""

import pytest

ADDRESSINGS = ("ports", "single")
"""What every end-to-end test runs with."""

each_addressing = pytest.mark.parametrize("addressing", ADDRESSINGS)
