"""Processes that belong to another one."""

import multiprocessing
import os
from threading import Thread


def end_with_parent() -> None:
    """Called in a process that was made by ``multiprocessing``: end it with the one that made it, however that ends.

    Or it would go on, and write beside the next start of the same command.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
