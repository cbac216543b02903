"""How a process of ours ends: at once, for the system frees its memory faster than the interpreter does."""

import atexit
import gc


def skip() -> None:
    """At the end of this process, spare the interpreter its last walk through all objects in search of garbage.

    After an import of torch and Feast that walk takes over a second of a core. What stands in a `with` is closed, and
    what is registered with `atexit` is run, as ever.
    """
    atexit.register(gc.freeze)
