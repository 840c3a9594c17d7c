"""What is measured beyond the plain counters."""

from kproxy.config.base import Model, Switch


class Metrics(Model):
    """What is measured beyond the plain counters."""

    latency: Switch = False
    """Time one read of four: histograms per API of the time in kproxy and upstream."""
