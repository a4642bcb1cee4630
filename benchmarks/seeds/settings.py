"""How much is measured: what the pages show, and a run of seconds that only sees whether everything works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Appendix:
    """The dense Hessian of one BatchNorm, as `benchmarks.appendix_f` measures it; seconds at most for one call."""

    dimensions: tuple[int, ...] = (*range(1, 11), 20, 50, 100)
    samples: int = 2
    repeats: int = 5
    limit: float = 3.0


@dataclass(frozen=True)
class Structures:
    """The network whose computation graph is drawn."""

    network: str = "lenet5"


@dataclass(frozen=True)
class Case:
    """One network in the study of R = H - G: what stands in for its activations and for its BatchNorm layers."""

    network: str
    activation: str
    norm: str


def combined(
    networks: tuple[str, ...], activations: tuple[str, ...], norms: tuple[str, ...]
) -> tuple[Case, ...]:
    """All combinations."""
    return tuple(Case(*names) for names in ((n, a, b) for n in networks for a in activations for b in norms))


SMALL = ("lenet5", "resnet8_digits")
ACTIVATIONS = ("relu", "tanh", "sigmoid")


@dataclass(frozen=True)
class Effect:
    """R against H: at random weights (`seeds` draws of each of `cases`), and along training (`runs` of each of
    `trained`).

    `batch`: digits that H is of. `probes`: random directions of the whole network. `layers`: so many layers are looked
    at one by one, evenly spaced. `block`: directions in one call. `checkpoints`: epochs.
    """

    cases: tuple[Case, ...]
    trained: tuple[Case, ...] = ()
    seeds: int = 5
    runs: int = 2
    checkpoints: tuple[int, ...] = (0, 1, 3, 10, 20)
    batch: int = 64
    probes: int = 4
    layers: int = 8
    block: int = 4


EFFECT = (
    Effect(
        combined(SMALL, ACTIVATIONS, ("none", "fixed", "batch")),
        combined(SMALL, ACTIVATIONS, ("none", "batch")),
    ),
    # Half a minute to compile each case, half a second for a direction.
    Effect(
        (
            *combined(("efficientnet_b0",), ("silu",), ("none", "fixed", "batch")),
            *combined(("efficientnet_b0",), ("relu",), ("fixed", "batch")),
            *combined(("efficientnet_b0",), ("tanh", "sigmoid"), ("batch",)),
        ),
        seeds=3, probes=3, layers=5,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """The loss over two random orthogonal directions, from -`extent` to `extent` (both of length 1)."""

    network: str = "lenet5"
    activation: str = "tanh"
    norms: tuple[str, ...] = ("none", "batch")
    extent: float = 10.0
    points: int = 21
    epochs: int = 10


@dataclass(frozen=True)
class Start:
    """Training curves of one network from different random weights."""

    activations: tuple[str, ...] = ACTIVATIONS
    seeds: int = 5
    steps: int = 500
    batch: int = 64
    rates: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0)
    """Step sizes; the first one is the source's."""
    points: int = 20
    """Of a curve."""
    digits: int = 256
    """That curvature is of."""
    iterations: int = 20
    """Of the search for scales."""


@dataclass(frozen=True)
class Settings:
    """All of it."""

    appendix_f: Appendix = Appendix()
    structures: Structures = Structures()
    effect: tuple[Effect, ...] = EFFECT
    surface: Surface = Surface()
    start: Start = Start()


FULL = Settings()
QUICK = Settings(
    Appendix((1, 2), repeats=1),
    Structures("mlp_bn"),
    (
        Effect(
            combined(("mlp_bn",), ("relu",), ("none", "batch")), combined(("mlp_bn",), ("relu",), ("none",)),
            seeds=2, runs=1, checkpoints=(0, 1), batch=16, probes=2, layers=3,
        ),
    ),
    Surface("mlp_bn", norms=("batch",), extent=0.2, points=3, epochs=1),
    Start(("relu",), seeds=2, steps=4, batch=16, rates=(0.01, 0.1), points=2, digits=32, iterations=2),
)  # fmt: skip
