"""How graphs change: the pass machinery. Knows nothing of BatchNorm; rules are handed to it."""

if __name__ != "bnrewrite.passes":
    raise ImportError(
        f"this package is 'bnrewrite.passes', but it was imported as {__name__!r}: "
        "write 'from bnrewrite import passes' (a second copy would load every class twice)."
    )
