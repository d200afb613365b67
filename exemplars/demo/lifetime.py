"""How long a program of the demo runs."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def until_signal(job: Coroutine[Any, Any, None]) -> None:
    """Run *job* to its end, or cancel it at SIGINT, SIGTERM or SIGHUP and wait until it has cleaned up.

    From then on these signals have no effect, until the process ends. Raises what *job* raises. To be awaited in the
    main thread.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(job)

    def end() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
