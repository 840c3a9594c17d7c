"""testing: instruments for tests, examples, the demo and users: FakeBroker, the embedded cluster, a real Kafka."""
