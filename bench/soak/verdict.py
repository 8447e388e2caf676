"""Whether series of figures are flat: by how much they have grown since the warm-up, and by how much they may."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Time in seconds to a figure.
Series = Sequence[tuple[float, float]]

# Slopes between all pairs of so many points are half a million at most.
MOST_POINTS = 1_000
# Fewer points say nothing.
LEAST_POINTS = 8


@dataclass(frozen=True, slots=True)
class Limit:
    """How much series may grow in the whole time that is judged: by the larger of the two.

    Attributes:
        names: which series are meant, as a pattern.
        relative: a part of what the figure was in the first quarter.
        absolute: in the figure's own unit.
    """

    names: str
    relative: float
    absolute: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What has become of one series.

    Attributes:
        first: its median in the first quarter of what is judged; ``last`` in the last one.
        growth: by how much it has grown, by its slope.
        allowed: by how much it may; None for a series that is shown only.
    """

    name: str
    first: float
    last: float
    most: float
    growth: float
    allowed: float | None

    @property
    def is_flat(self) -> bool:
        """Whether it has not grown by more than it may; what cannot be told is not flat."""
        return self.allowed is None or self.growth <= self.allowed

    @property
    def word(self) -> str:
        """What is said of it: nothing where it is shown only."""
        if self.allowed is None:
            return ""
        return "flat" if self.is_flat else "unknown" if math.isnan(self.growth) else "grows"


def judge(name: str, series: Series, limits: Sequence[Limit], from_s: float) -> Finding:
    """Judge what a series was from a time on, by the first limit that it falls under.

    The slope is the median of the slopes between all pairs of points (Theil and Sen): a third of the points may be
    disturbed in whatever way, as they are on a machine that others use too.
    """
    judged = [(at_s, figure) for at_s, figure in series if at_s >= from_s and not math.isnan(figure)]
    allowed = next((one for one in limits if fnmatchcase(name, one.names)), None)
    if len(judged) < LEAST_POINTS:
        nothing = math.nan
        return Finding(name, nothing, nothing, nothing, nothing, None if allowed is None else nothing)
    quarter = len(judged) // 4
    first = statistics.median(figure for _, figure in judged[:quarter])
    last = statistics.median(figure for _, figure in judged[-quarter:])
    growth = slope(judged) * (judged[-1][0] - judged[0][0])
    may = None if allowed is None else max(allowed.relative * abs(first), allowed.absolute)
    return Finding(name, first, last, max(figure for _, figure in judged), growth, may)


def slope(series: Series) -> float:
    """Return by how much a series grows in a second."""
    points = series[:: math.ceil(len(series) / MOST_POINTS)]
    return statistics.median(
        (later - earlier) / (later_s - earlier_s)
        for number, (earlier_s, earlier) in enumerate(points)
        for later_s, later in points[number + 1 :]
    )


def share(figures: Sequence[float], part: float) -> float:
    """Return the figure below which this part of them is; not a number when there are none."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))] if figures else math.nan


def table(findings: Sequence[Finding]) -> str:
    """Return the findings, a line each."""
    width = max(len(one.name) for one in findings)
    lines = [f"{'':{width}}{'first':>10}{'last':>10}{'most':>10}{'growth':>10}{'allowed':>10}"]
    for one in findings:
        figures = "".join(f"{short(figure):>10}" for figure in (one.first, one.last, one.most, one.growth))
        allowed = "-" if one.allowed is None else short(one.allowed)
        lines.append(f"{one.name:{width}}{figures}{allowed:>10}  {one.word}".rstrip())
    return "\n".join(lines)


def short(figure: float) -> str:
    """Return a figure for people."""
    return "-" if math.isnan(figure) else f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"


def ends_table(ends: Mapping[str, Mapping[str, int]]) -> str:
    """Return what was submitted of each kind and how it has ended, a line each."""
    states = sorted({state for one in ends.values() for state in one})
    width = max(map(len, ends))
    lines = [f"{'':{width}}" + "".join(f"{state:>12}" for state in ("all", *states))]
    for kind, one in sorted(ends.items()):
        counts = (sum(one.values()), *(one.get(state, 0) for state in states))
        lines.append(f"{kind:{width}}" + "".join(f"{count or '-':>12}" for count in counts))
    return "\n".join(lines)
