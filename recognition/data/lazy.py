"""Encoded images that are read when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload


class LazyImages(Sequence[bytes]):
    """A sequence of encoded images; who derives from it says how many there are, and reads one."""

    @overload
    def __getitem__(self, i: int) -> bytes: ...
    @overload
    def __getitem__(self, i: slice) -> list[bytes]: ...
    def __getitem__(self, i: int | slice) -> bytes | list[bytes]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        return self.image(i)

    @abstractmethod
    def image(self, i: int) -> bytes:
        """Image i, encoded."""
