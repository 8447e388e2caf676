"""Values as strangers send them."""

from __future__ import annotations

from hypothesis import strategies as st

# With halves of characters, and what terminals and keys take amiss.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    (
        "",
        "\ud800",
        "\udcff",
        "\x00",
        "a\nb",
        "\x1b[31m",
        "{fp:7}:x",
        "}:",
        "ä",
        "\u0661",
        "²",
        "1",
        "-1",
        "nan",
        "inf",
        "1e999",
        "9" * 5_000,
    )
)
INTEGERS = st.integers() | st.sampled_from((0, 1, -1, 2**31, 2**63, 2**64, 10**308, -(10**308), 10**4_000))
FLOATS = st.floats() | st.sampled_from((float("nan"), float("inf"), -0.0, 1e308, 5e-324))
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Make bytes out of others: some changed, left out or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 4))
        data = data[:start] + draw(st.binary(max_size=4) | st.just(data[start:end] * 2)) + data[end:]
    return data
