import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tag2mask.stages.memory import Room


class TestRoom:
    """Large photographs wait for each other."""

    def most_inside(self, sizes: list[int]) -> int:
        room, lock, inside, most = Room(100), threading.Lock(), 0, 0

        def work(size: int) -> None:
            nonlocal inside, most
            with room.of(size):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.01)
                with lock:
                    inside -= 1

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, sizes))
        return most

    def test_together_they_fit(self) -> None:
        assert self.most_inside([50] * 8) == 2
        assert self.most_inside([51] * 4) == 1

    def test_one_that_is_too_large_gets_in_alone(self) -> None:
        assert self.most_inside([1000] * 4) == 1

    def test_an_error_leaves_the_room(self) -> None:
        room = Room(10)
        with pytest.raises(ValueError, match="inside"), room.of(10):
            raise ValueError("inside")
        with room.of(10):
            pass
