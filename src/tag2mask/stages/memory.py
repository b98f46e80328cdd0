"""Memory for large images that several threads work on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Lets images in as long as all that are inside have no more probabilities than there is room for.

    One always gets in, however large it is. Without this, memory would grow with the number of threads: an image of 2
    million pixels and 21 classes takes about 1.4 GB while it is worked on, 34 bytes per probability.
    """

    def __init__(self, probabilities: int) -> None:
        self._size = probabilities
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, probabilities: int) -> Iterator[None]:
        """Waits until there is room, and holds it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + probabilities <= self._size)
            self._taken += probabilities
        try:
            yield
        finally:
            with self._changed:
                self._taken -= probabilities
                self._changed.notify_all()


ROOM = Room(100_000_000)
"""Room that all threads of a process share: 34 bytes per probability are 3.4 GB."""
