"""What there is to claim at a place: picks where the store picks by itself, named candidates where it cannot."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass

from ffsuper.errors import LibraryMissingError
from ffsuper.messages import Candidate, ExecutionId, Pick
from ffsuper.sansio.scan import Place
from ffsuper.store.claims import Claims
from ffsuper.store.scans import PAGE, Scans, Waiting

# Picks of one place that are offered together, when there are others; what is left is seen at the next look.
SHARE = 8
# Places in a look: in one function, which stops at those that have something; or by a read of each.
MANY = 1024
FEW = 32


@dataclass(frozen=True, slots=True)
class Find:
    """What was seen at a place.

    Attributes:
        members: how many index members its page had, whatever they are; a full page has ``PAGE``.
        ours: how many of them are for us, as far as was looked.
        chosen: what can be claimed now.
        first_seen: executions by which this find is known again.
    """

    place: Place
    members: int
    ours: int
    chosen: tuple[Candidate | Pick, ...]
    first_seen: tuple[ExecutionId, ...]


class Finds:
    """What the scanner looks for.

    Args:
        kinds: of executions that are ours; none for any kind.
    """

    def __init__(self, scans: Scans, claims: Claims, kinds: Collection[str]) -> None:
        self._scans = scans
        self._claims = claims
        self._kinds = frozenset(kinds)

    @property
    def places_a_look(self) -> int:
        """How many places are worth looking at in one call."""
        return MANY if self._claims.picks else FEW

    async def at(self, places: Sequence[Place], offered: Container[ExecutionId]) -> list[Find]:
        """Look at places; what has nothing at all may be left out.

        Args:
            offered: what is being claimed is not chosen again.

        Raises:
            StoreError: see ``Connection.run``.
        """
        if self._claims.picks:
            try:
                waiting = await self._scans.waiting(places, self._kinds)
            except LibraryMissingError:
                self._claims.note_missing()
                places = places[:FEW]
            else:
                share = max(SHARE, PAGE // max(1, sum(one.first is not None for one in waiting)))
                return [picked(one, share, offered) for one in waiting]
        return await self._named(places, offered)

    def unseen(self, places: Sequence[Place]) -> list[Find]:
        """Return finds for places where there is said to be something; none where it has to be looked at first."""
        if not self._claims.picks:
            return []
        return [Find(place, SHARE, SHARE, (Pick(place.lane, place.partition),) * SHARE, ()) for place in places]

    async def _named(self, places: Sequence[Place], offered: Container[ExecutionId]) -> list[Find]:
        """Read what is there."""
        finds = []
        for place, page in zip(places, await self._scans.eligible(places, PAGE, offered), strict=True):
            chosen = tuple(one for one in page.candidates if not self._kinds or one.execution_kind in self._kinds)
            seen = tuple(one.execution_id for one in chosen)
            finds.append(Find(place, page.members, page.skipped + len(chosen), chosen, seen))
        return finds


def picked(waiting: Waiting, share: int, offered: Container[ExecutionId]) -> Find:
    """Return the find for a place where the store picks.

    Args:
        share: so many are offered at most.
    """
    place, first = waiting.place, waiting.first
    ours = 0 if first is None else waiting.members - waiting.skipped
    # The first of many may well be being claimed: that leaves the others.
    if first is None or (first in offered and waiting.members < PAGE):
        return Find(place, waiting.members, ours, (), ())
    pick = Pick(place.lane, place.partition, place.offset + waiting.skipped)
    return Find(place, waiting.members, ours, (pick,) * min(ours, share), (first,))
