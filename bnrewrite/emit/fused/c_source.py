"""The C function of a region.

    void NAME(const real *const *images, const real *const *channels, const double *numbers,
              real *const *results, int64_t N, int64_t C, int64_t P, int threads)

What is spread stands behind the images. Two forms, by how images lie in memory:

    rows        (N, P, C): the channels last, or a matrix. Threads share the rows; totals are added up over threads
                between two passes.
    planes      (N, C, P): threads share the channels. A channel is done with before the next begins, so that what one
                pass reads is still in the cache for the next.

A result may lie in the memory of an image that no later pass reads (`overwritable`): of each element all is read before
anything is stored.

Totals are added in runs of at most 64 terms in the working precision, and these in double precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from typing import Literal

from ..addresses import Real
from .operations import EXPRESSIONS
from .region import Ref, Region, Step

Form = Literal["rows", "planes"]

HEAD = """#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#ifdef VECTOR_EXP
#pragma omp declare simd notinbranch
extern float expf(float);
#pragma omp declare simd notinbranch
extern double exp(double);
#endif
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif
"""

SMALL = 1 << 14
"""Elements of an image below which one thread is enough."""

RUN = 64
"""Terms of a total that are added in the working precision."""

_WORDS = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}

_BY_NAME = {str(op): expression for op, expression in EXPRESSIONS.items()}


def function(name: str, region: Region, form: Form, real: Real) -> str:
    """The function as C, to stand behind `HEAD`."""
    body = _Rows(region) if form == "rows" else _Planes(region)
    suffix = "f" if real == "float" else ""
    lines = "\n".join(body.lines())
    text = (
        f"void {name}(const real *const *images, const real *const *channels, const double *numbers, "
        f"real *const *results, int64_t N, int64_t C, int64_t P, int threads)\n{{\n{lines}\n}}\n"
    )
    return (
        text.replace("real ", f"{real} ")
        .replace("(real)", f"({real})")
        .replace("SQRT(", f"sqrt{suffix}(")
        .replace("EXP(", f"exp{suffix}(")
    )


@cache
def overwritable(region: Region) -> frozenset[tuple[int, int]]:
    """Pairs of a result and an image whose memory it may take."""
    body = _Planes(region)
    last = {image: turn for turn in range(body.count) for image in body.needed(turn)[0]}
    stores = [(place, body.at[i]) for i, place in body.stored.items() if body.steps[i].image]
    return frozenset(
        (place, image)
        for place, turn in stores
        for image in range(region.images)
        if last.get(image, turn) <= turn
    )


class _Body(ABC):
    """What both forms share: names, and which steps each pass needs."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.steps = region.steps
        self.at = region.passes()
        self.stored = {step: place for place, step in enumerate(region.results)}
        self.totals = [i for i, step in enumerate(self.steps) if step.total]
        last = [self.at[i] for i in self.stored if self.steps[i].image] + [
            self.at[i] - 1 for i in self.totals
        ]
        self.count = max(last, default=-1) + 1

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """The body, line by line."""

    @abstractmethod
    def channel(self, ref: Ref) -> str:
        """An input or a step that is a channel, inside the loop over elements."""

    @abstractmethod
    def spread(self, place: int) -> str:
        """An input that is spread, there."""

    def name(self, ref: Ref) -> str:
        """An argument, inside the loop over elements."""
        if ref.kind == "literal":
            return f"((real){_WORDS.get(ref.literal, ref.literal)})"
        if ref.kind == "number":
            return f"n{ref.place}"
        if ref.kind == "image":
            return f"x{ref.place}"
        if ref.kind == "spread":
            return self.spread(ref.place)
        if ref.kind == "step" and self.is_same(self.steps[ref.place]):
            return self.name(self.steps[ref.place].args[0])
        if ref.kind == "step" and self.steps[ref.place].image:
            return f"v{ref.place}"
        return self.channel(ref)

    def is_same(self, step: Step) -> bool:
        """Whether a step only says its argument again, in another shape."""
        return step.op not in _BY_NAME and not step.total

    def expression(self, step: Step) -> str:
        """The right-hand side of a step."""
        return _BY_NAME[step.op](*map(self.name, step.args))

    def needed(self, turn: int) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        """Of a pass: the images and spreads that it reads, the steps that it computes, the results that it stores, its
        totals."""
        stores = [i for i in self.stored if self.steps[i].image and self.at[i] == turn]
        totals = [i for i in self.totals if self.at[i] - 1 == turn]
        todo = [Ref("step", i) for i in stores] + [ref for i in totals for ref in self.steps[i].args]
        reads: set[int] = set()
        spreads: set[int] = set()
        computes: set[int] = set()
        while todo:
            ref = todo.pop()
            if ref.kind == "image":
                reads.add(ref.place)
            elif ref.kind == "spread":
                spreads.add(ref.place)
            elif ref.kind == "step" and self.steps[ref.place].image and ref.place not in computes:
                computes.add(ref.place)
                todo += self.steps[ref.place].args
        return sorted(reads), sorted(spreads), sorted(computes), stores, totals

    def elements(self, turn: int, totals: dict[int, str], row: str) -> Iterator[str]:
        """The loop over the elements of a row: reads, steps, stores, additions."""
        reads, _, computes, stores, sums = self.needed(turn)
        for i in reads:
            yield f"const real x{i} = a{i}[{row}];"
        for i in computes:
            if not self.is_same(self.steps[i]):
                yield f"const real v{i} = {self.expression(self.steps[i])};"
        for i in stores:
            yield f"o{self.stored[i]}[{row}] = {self.name(Ref('step', i))};"
        for i in sums:
            yield f"{totals[i]} += {self.name(self.steps[i].args[0])};"

    def channel_steps(self, turn: int) -> list[int]:
        """The steps on channels that are known before pass `turn`; after the last pass all that are left."""
        own = [i for i, step in enumerate(self.steps) if not step.image]
        return [i for i in own if self.at[i] == turn or (turn == self.count and self.at[i] > turn)]

    def numbers(self) -> Iterator[str]:
        for i in range(self.region.numbers):
            yield f"const real n{i} = (real)numbers[{i}];"
        yield f"if (N * C * P < {SMALL}) threads = 1;"

    def mean(self, i: int) -> str:
        return " / ((double)N * P)" if self.steps[i].total == "mean" else ""


class _Planes(_Body):
    """Images (N, C, P)."""

    def channel(self, ref: Ref) -> str:
        return f"c{ref.place}" if ref.kind == "channel" else f"k{ref.place}"

    def spread(self, place: int) -> str:
        return f"b{place}"

    def lines(self) -> Iterator[str]:
        yield from self.numbers()
        yield "#pragma omp parallel for num_threads(threads) schedule(static)"
        yield "for (int64_t c = 0; c < C; c++) {"
        for i in range(self.region.channels):
            yield f"const real c{i} = channels[{i}][c];"
        for turn in range(self.count + 1):
            for i in self.channel_steps(turn):
                step = self.steps[i]
                if not self.is_same(step):
                    value = f"s{i}{self.mean(i)}" if step.total else self.expression(step)
                    yield f"const real k{i} = {value};"
                if i in self.stored:
                    yield f"results[{self.stored[i]}][c] = {self.name(Ref('step', i))};"
            if turn < self.count:
                yield from self._pass(turn)
        yield "}"

    def _pass(self, turn: int) -> Iterator[str]:
        reads, spreads, _, stores, totals = self.needed(turn)
        for i in totals:
            yield f"double s{i} = 0;"
        yield "for (int64_t n = 0; n < N; n++) {"
        for i in reads:
            yield f"const real *a{i} = images[{i}] + (n * C + c) * P;"
        for i in spreads:
            yield f"const real b{i} = images[{self.region.images + i}][n * C + c];"
        for i in stores:
            yield f"real *o{self.stored[i]} = results[{self.stored[i]}] + (n * C + c) * P;"
        if totals:
            yield f"for (int64_t from = 0; from < P; from += {RUN} * 16) {{"
            yield f"const int64_t to = from + {RUN} * 16 < P ? from + {RUN} * 16 : P;"
            yield from (f"real r{i} = 0;" for i in totals)
            yield f"#pragma omp simd reduction(+:{','.join(f'r{i}' for i in totals)})"
            yield "for (int64_t p = from; p < to; p++) {"
        else:
            yield "#pragma omp simd"
            yield "for (int64_t p = 0; p < P; p++) {"
        yield from self.elements(turn, {i: f"r{i}" for i in totals}, "p")
        yield "}"
        if totals:
            yield from (f"s{i} += r{i};" for i in totals)
            yield "}"
        yield "}"


class _Rows(_Body):
    """Images (N P, C)."""

    def channel(self, ref: Ref) -> str:
        return f"c{ref.place}[c]" if ref.kind == "channel" else f"k{ref.place}[c]"

    def spread(self, place: int) -> str:
        return f"b{place}[c]"

    def lines(self) -> Iterator[str]:
        yield from self.numbers()
        own = [i for i, step in enumerate(self.steps) if not step.image and not self.is_same(step)]
        self.part = {i: place for place, i in enumerate(self.totals)}
        count = len(self.totals)
        # Every thread has channels of its own, so that threads wait for each other at totals only.
        yield f"real *memory = malloc(sizeof(real) * C * threads * {len(own) + count});"
        yield f"double *parts = malloc(sizeof(double) * C * threads * {max(count, 1)});"
        for i in range(self.region.channels):
            yield f"const real *restrict c{i} = channels[{i}];"
        yield "#pragma omp parallel num_threads(threads)"
        yield "{"
        yield "const int me = omp_get_thread_num(), all = omp_get_num_threads();"
        yield "const int64_t low = N * P * me / all, high = N * P * (me + 1) / all;"
        yield f"real *restrict own = memory + C * me * {len(own) + count};"
        for place, i in enumerate(own):
            yield f"real *restrict k{i} = own + {place} * C;"
        for i in self.totals:
            yield f"real *restrict r{i} = own + {len(own) + self.part[i]} * C;"
            yield f"double *restrict p{i} = parts + C * (me * {count} + {self.part[i]});"
        for turn in range(self.count + 1):
            yield from self._channels(turn, count)
            if turn < self.count:
                yield from self._pass(turn)
        yield "}"
        yield "free(memory); free(parts);"

    def _channels(self, turn: int, count: int) -> Iterator[str]:
        steps = self.channel_steps(turn)
        if not steps:
            return
        yield "for (int64_t c = 0; c < C; c++) {"
        for i in steps:
            step = self.steps[i]
            if step.total:
                yield f"double s{i} = 0;"
                yield f"for (int t = 0; t < all; t++) s{i} += parts[(t * {count} + {self.part[i]}) * C + c];"
                yield f"k{i}[c] = s{i}{self.mean(i)};"
            elif not self.is_same(step):
                yield f"k{i}[c] = {self.expression(step)};"
        yield "}"
        stored = [i for i in steps if i in self.stored]
        if stored:
            yield "if (me == 0) for (int64_t c = 0; c < C; c++) {"
            yield from (f"results[{self.stored[i]}][c] = {self.name(Ref('step', i))};" for i in stored)
            yield "}"

    def _pass(self, turn: int) -> Iterator[str]:
        reads, spreads, _, stores, totals = self.needed(turn)
        if totals:
            yield from (f"memset(p{i}, 0, sizeof(double) * C);" for i in totals)
            yield f"for (int64_t from = low; from < high; from += {RUN}) {{"
            yield from (f"memset(r{i}, 0, sizeof(real) * C);" for i in totals)
            yield f"const int64_t to = from + {RUN} < high ? from + {RUN} : high;"
            yield "for (int64_t r = from; r < to; r++) {"
        else:
            yield "for (int64_t r = low; r < high; r++) {"
        for i in reads:
            yield f"const real *a{i} = images[{i}] + r * C;"
        for i in spreads:
            yield f"const real *restrict b{i} = images[{self.region.images + i}] + r / P * C;"
        for i in stores:
            yield f"real *o{self.stored[i]} = results[{self.stored[i]}] + r * C;"
        yield "#pragma omp simd"
        yield "for (int64_t c = 0; c < C; c++) {"
        yield from self.elements(turn, {i: f"r{i}[c]" for i in totals}, "c")
        yield "}"
        yield "}"
        if totals:
            yield "for (int64_t c = 0; c < C; c++) {"
            yield from (f"p{i}[c] += r{i}[c];" for i in totals)
            yield "}"
            yield "}"
            yield "#pragma omp barrier"
