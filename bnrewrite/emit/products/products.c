/* Sums of matrix products, y = sum_t a_t b_t, of factors that lie in memory row by row or column by column.
 *
 * A thread has rows and columns of y for itself. Of every factor it copies as much as its cache holds: of b panels, DEPTH
 * rows of up to ACROSS bytes, of a up to DOWN rows of DEPTH columns. MKL, which has no sums, copies as well, and takes
 * 1.1 to 2 times as long for products of the size of a pointwise convolution.
 */

#include "panels.h"

/* Terms of a product that are added up before they join the rest, as in MKL. */
#define DEPTH 256
#define DOWN 96
#define ACROSS 2048

/* a[r, d] at a[r * row + d * step], b[d, c] at b[d * down + c * across]. */
typedef struct {
    const real *a, *b;
    int64_t row, step, down, across;
} Term;

static void copy(const real *restrict from, int64_t count, real *restrict to)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) AT(to + i) = LOAD(from + i);
    for (; i < count; i++) to[i] = from[i];
}

/* `count` columns of b, at most PANEL, as a panel: zeros beside them. */
static void take_panel(const real *b, int64_t down, int64_t across, int64_t depth, int64_t count, real *restrict o)
{
    int64_t d = 0;
    if (count == PANEL && across == 1)
        for (; d < depth; d++) copy(b + d * down, PANEL, o + d * PANEL);
    else if (count == PANEL && down == 1)
        for (; d + LANES <= depth; d += LANES)
            for (int64_t c = 0; c < PANEL; c += LANES) turn(b + d + c * across, across, o + d * PANEL + c, PANEL);
    for (; d < depth; d++)
        for (int64_t c = 0; c < PANEL; c++) o[d * PANEL + c] = c < count ? b[d * down + c * across] : 0;
}

/* Rows `top` to `bottom` of y, its columns `left` to `right`. */
static void part(int terms, const Term *term, real *y, int64_t wide, int64_t top, int64_t bottom, int64_t left,
                 int64_t right, int64_t depth, real *own)
{
    const int64_t across = ACROSS / BYTES;
    real *as = own, *bs = as + DOWN * (DEPTH + LANES), *tile = bs + DEPTH * across;
    for (int64_t c = left; c < right; c += across)
        for (int64_t i = 0; i < terms * depth; i += least(DEPTH, depth - i % depth)) {
            const Term *t = term + i / depth;
            const int64_t from = i % depth, deep = least(DEPTH, depth - from), columns = least(across, right - c);
            for (int64_t q = 0; q < columns; q += PANEL)
                take_panel(t->b + from * t->down + (c + q) * t->across, t->down, t->across, deep,
                           least(PANEL, columns - q), bs + q * deep);
            for (int64_t r = top; r < bottom; r += DOWN) {
                const int64_t rows = least(DOWN, bottom - r);
                const real *a = t->a + r * t->row + from * t->step;
                /* Rows a power of two apart would push each other out of the cache. */
                const int64_t row = t->step == 1 ? DEPTH + LANES : 1, step = t->step == 1 ? 1 : DOWN;
                if (t->step == 1)
                    for (int64_t k = 0; k < rows; k++) copy(a + k * t->row, deep, as + k * row);
                else
                    for (int64_t d = 0; d < deep; d++) copy(a + d * t->step, rows, as + d * step);
                for (int64_t q = 0; q < columns; q += PANEL) {
                    const int64_t count = least(PANEL, columns - q);
                    real *to = y + r * wide + c + q;
                    if (count == PANEL) {
                        multiply(as, row, step, rows, bs + q * deep, deep, to, wide, i > 0);
                        continue;
                    }
                    multiply(as, row, step, rows, bs + q * deep, deep, tile, PANEL, 0);
                    for (int64_t k = 0; k < rows; k++)
                        for (int64_t l = 0; l < count; l++)
                            to[k * wide + l] = (i > 0 ? to[k * wide + l] : 0) + tile[k * PANEL + l];
                }
            }
        }
}

/* y (rows, columns) = the sum of `terms` products of depth `depth`; a_t lies by rows (step 1) or by columns (row 1).
 * Returns 1 where there is no memory. */
int multiply_all(int terms, const Term *term, real *y, int64_t rows, int64_t columns, int64_t depth, int threads)
{
    const int64_t down = (rows + ROWS - 1) / ROWS, across = (columns + PANEL - 1) / PANEL;
    const int64_t size = DOWN * (DEPTH + LANES) + DEPTH * ACROSS / BYTES + DOWN * PANEL;
    /* Of the ways to share y among threads, the one with the least work: products, and what is copied more than once. */
    int64_t best = 0, bands = 1;
    for (int64_t b = 1; b <= threads; b++) {
        if (threads % b) continue;
        const int64_t r = (down + b - 1) / b * ROWS, c = (across * b + threads - 1) / threads * PANEL;
        const int64_t work = r * c + 2 * r + 4 * c;
        if (!best || work < best) best = work, bands = b;
    }
    char *borrowed = borrow(threads * bytes(size));
    if (!borrowed) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < threads; i++) {
        const int64_t band = i / (threads / bands), column = i % (threads / bands), beside = threads / bands;
        part(terms, term, y, columns, least(rows, down * band / bands * ROWS),
             least(rows, down * (band + 1) / bands * ROWS), least(columns, across * column / beside * PANEL),
             least(columns, across * (column + 1) / beside * PANEL), depth, (real *)(borrowed + i * bytes(size)));
    }
    give_back(borrowed);
    return 0;
}
