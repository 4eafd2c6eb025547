"""Safe sharing of stateful C objects between threads and processes."""

import threading
from collections.abc import Callable
from typing import Any


class Guarded:
    """Holder of an object that only one thread may use at a time.

    Decoders and sessions written in C keep the state of an utterance, crash
    when two threads enter them, and cannot be pickled. The object is made on
    first use and used within ``with``; a pickled, deep-copied or forked holder
    makes its own.

    Arguments
    ---------
    make : callable
        Function without arguments that makes the object. It must be picklable
        for the holder to be, such as a ``functools.partial`` of a method.

    Example
    -------
    >>> import copy
    >>> holder = Guarded(list)
    >>> with holder as items:
    ...     items.append(1)
    >>> with holder as items, copy.deepcopy(holder) as copied:
    ...     items, copied
    ([1], [])
    """

    def __init__(self, make: Callable[[], Any]):
        self._make = make
        self._lock = threading.RLock()
        self._object: Any = None
        self._made = False

    def __enter__(self) -> Any:
        self._lock.acquire()
        try:
            if not self._made:
                self._object = self._make()
                self._made = True
        except BaseException:
            self._lock.release()
            raise
        return self._object

    def __exit__(self, *error) -> None:
        self._lock.release()

    def __reduce__(self):
        return type(self), (self._make,)
