"""Room for the answers of each client: what it has not received delays its further requests."""

from __future__ import annotations

import asyncio
from typing import Self


class AnswerRooms:
    """Estimated bytes of answers that are computed or sent, per client.

    Args:
        limit: bytes per client. One answer may be larger.
        exempt: clients without a limit: proxies.
    """

    def __init__(self, limit: int, exempt: tuple[str, ...] = ()) -> None:
        self._limit, self._exempt = limit, exempt
        self._clients: dict[str, _Client] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def room(self, client: str) -> AnswerRoom:
        """Return a context in which one answer of a client is computed and sent."""
        return AnswerRoom(self, client)

    async def _reserve(self, client: str, count: int) -> None:
        state = self._clients.setdefault(client, _Client())
        state.users += 1
        try:
            if client not in self._exempt and not state.fits(count, self._limit):
                place = count, asyncio.get_running_loop().create_future()
                state.waiting.append(place)
                try:
                    await place[1]
                except asyncio.CancelledError:
                    if place in state.waiting:
                        state.waiting.remove(place)
                    else:  # it was reserved meanwhile
                        self._release(client, count)
                    raise
            else:
                state.held += count
        except BaseException:
            self._leave(client, state)
            raise

    def _release(self, client: str, count: int) -> None:
        state = self._clients[client]
        state.held -= count
        while state.waiting:
            place = min(state.waiting, key=lambda place: place[0])  # the smallest first
            if not state.fits(place[0], self._limit):
                break
            state.waiting.remove(place)
            if not place[1].done():
                state.held += place[0]
                place[1].set_result(None)

    def _leave(self, client: str, state: _Client) -> None:
        state.users -= 1
        if not state.users:
            del self._clients[client]


class _Client:
    __slots__ = ("held", "users", "waiting")

    def __init__(self) -> None:
        self.held = self.users = 0
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []

    def fits(self, count: int, limit: int) -> bool:
        return not self.held or self.held + count <= limit


class AnswerRoom:
    """The room of one answer; see ``AnswerRooms.room``.

    Attributes:
        bytes: reserved.
    """

    __slots__ = ("_client", "_rooms", "bytes")

    def __init__(self, rooms: AnswerRooms, client: str) -> None:
        self._rooms, self._client = rooms, client
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bytes:
            self._rooms._release(self._client, self.bytes)
            self._rooms._leave(self._client, self._rooms._clients[self._client])
            self.bytes = 0

    async def reserve(self, count: int) -> None:
        """Wait until the client has received enough of its other answers.

        Args:
            count: estimated bytes, above zero.
        """
        await self._rooms._reserve(self._client, count)
        self.bytes = count
