"""What is measured beyond the plain counters."""

from typing import Annotated

from pydantic import Field

from kproxy.config.base import Model, Switch


class Metrics(Model):
    """What is measured beyond the plain counters."""

    latency: Switch = False
    """Look at one read of eight: histograms per API of the time in kproxy and upstream, and errors by code."""
    per_client_id: Switch = False
    """Tell bytes, requests and connections by client id, too."""
    # Each is three time series. Prometheus's own advice is to stay below a hundred values per label where one can;
    # brokers, which keep sensors per client id for quotas, have no bound at all.
    max: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1000
    """How many client ids are told apart; all further ones are told together."""
