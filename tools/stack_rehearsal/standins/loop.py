"""An asyncio loop in a thread of its own: what the stand-ins that speak asyncio listen in."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

SECONDS_TO_ANSWER = 10.0

Value = TypeVar("Value")


class Loop:
    """Runs coroutines for threads that have no loop. For ``with``; what still runs at its end is cancelled."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Run a short coroutine in the loop and return its value."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS_TO_ANSWER)

    @staticmethod
    async def _cancel_all() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
