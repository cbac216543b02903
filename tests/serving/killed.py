"""Work in a process of its own that is killed with -9 at one of its steps."""

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any


def after(steps: int, work: Callable[[], object], *calls: tuple[Any, str]) -> int:
    """Exit status of `work`, killed once it has made `steps` of the `calls` (owner and name) and makes one more."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = iter(range(steps))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **more: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        return done

    status = 1
    try:
        for owner, name in calls:
            setattr(owner, name, counted(getattr(owner, name)))
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)
