"""Which event loop runs: uvloop where it is there, asyncio's own otherwise."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

try:
    import uvloop
except ImportError:  # not on every platform; everything works without it, only slower
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_loop = uvloop.new_event_loop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end on a new loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
