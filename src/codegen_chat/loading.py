"""Something that takes long to make, made in a thread, so that a prompt is there at once."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Loading(Generic[T_co]):
    """What `make` returns, once it does. `begin` starts it; who needs it waits."""

    def __init__(self, make: Callable[[], T_co]) -> None:
        self._make = make
        self._done = Event()
        self._made: list[T_co] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="loading", daemon=True)

    def begin(self) -> None:
        """Start to make it, the first time that this is called."""
        if not self._thread.ident:
            self._thread.start()

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except BaseException as error:  # noqa: BLE001  who asks for it gets it
            self._error = error
        self._done.set()

    @property
    def ready(self) -> bool:
        """Whether asking for it would not wait."""
        return self._done.is_set()

    @property
    def value(self) -> T_co:
        """What was made; waits for it. Raises what making it raised."""
        self._done.wait()
        if self._error:
            raise self._error
        return self._made[0]
