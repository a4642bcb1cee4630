/* Convolutions of filters of 3 x 3, stride 1, by Winograd's minimal filtering F(2 x 2, 3 x 3): of an image, the four
 * pixels of a tile take 16 products instead of 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
 * 2015, section 4.1).
 *
 *     value       y     = A^T [ sum_c  (G w G^T) * (B^T x B) ] A        x: 4 x 4 pixels, tiles two apart; y: 2 x 2
 *     data        x_bar = the value of y_bar with w turned by 180 degrees, its channels exchanged
 *     weight      w_bar = G^T [ sum_tiles  (B^T x B) * (A y_bar A^T) ] G
 *
 *     B^T = 1  0 -1  0      G =  1    0    0      A^T = 1  1  1  0
 *           0  1  1  0          1/2  1/2  1/2           0  1 -1 -1
 *           0 -1  1  0          1/2 -1/2  1/2
 *           0  1  0 -1           0    0    1
 *
 * Each of the 16 places of a transformed tile is one matrix product. All functions add up several terms before they
 * transform back: the tangent of a convolution has two, and so has the tangent of each adjoint.
 *
 * Images lie with their channels last, (N, H, W, C); filters as PyTorch has them, (K, C, 3, 3). `real` is float or
 * double. Transformed filters and adjoints lie in panels, (place, panel, row, PANEL): PANEL columns of a product are two
 * vectors wide.
 */

#include "panels.h"
#ifdef _OPENMP
#include <omp.h>
static int me(void) { return omp_get_thread_num(); }
#else
static int me(void) { return 0; }
#endif

/* Terms of a product that are added up before they join the rest: one long chain would lose digits. */
#define RUN 64
/* Bytes of the tiles that a thread works on at a time: most of its own cache. */
#define OWN (640 << 10)
/* Tiles that it works on at most. */
#define TILES 96
/* Bytes of transformed filters from which each panel of them is made, used and forgotten. */
#define LARGE (3 << 20)
/* Bytes of all tiles up to which, with large filters, they are transformed at once; else there are several rounds. */
#define SHARED (12 << 20)
/* Bytes of the tiles of one round of `correlate`, or those of its filters if they are more. */
#define ROUND (3 << 20)

/* Channels of filters that are read or written together: what lies between two filters of a panel is then a whole number
 * of vectors. */
#define SOME LANES

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* y = a b, or y += a b if `more`: a product, RUN terms at a time. */
static void multiply_runs(const real *a, int64_t row, int64_t step, int64_t rows, const real *b, int64_t depth, real *y,
                          int64_t wide, int more)
{
    for (int64_t from = 0; from < depth; from += RUN)
        multiply(a + from * step, row, step, rows, b + from * PANEL, least(RUN, depth - from), y, wide, more || from);
}

/* Transforms. The 16 places of a result lie `s` apart. -------------------------------------------------------------- */

/* B^T x B for each of C channels; p: the 16 pixels. */
static void tile_of_image(const real *const *p, int64_t C, real *restrict o, int64_t s)
{
    const real *restrict p0 = p[0], *restrict p1 = p[1], *restrict p2 = p[2], *restrict p3 = p[3];
    const real *restrict p4 = p[4], *restrict p5 = p[5], *restrict p6 = p[6], *restrict p7 = p[7];
    const real *restrict p8 = p[8], *restrict p9 = p[9], *restrict p10 = p[10], *restrict p11 = p[11];
    const real *restrict p12 = p[12], *restrict p13 = p[13], *restrict p14 = p[14], *restrict p15 = p[15];
#define TIMES_B(A, x0, x1, x2, x3) const real A##0 = x0 - x2, A##1 = x1 + x2, A##2 = x2 - x1, A##3 = x1 - x3;
#define COLUMN(j) \
    o[j * s + c] = a##j - d##j; \
    o[(4 + j) * s + c] = b##j + d##j; \
    o[(8 + j) * s + c] = d##j - b##j; \
    o[(12 + j) * s + c] = b##j - e##j;
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        TIMES_B(a, p0[c], p1[c], p2[c], p3[c])
        TIMES_B(b, p4[c], p5[c], p6[c], p7[c])
        TIMES_B(d, p8[c], p9[c], p10[c], p11[c])
        TIMES_B(e, p12[c], p13[c], p14[c], p15[c])
        COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3)
    }
#undef TIMES_B
#undef COLUMN
}

/* A^T m A for each of K channels; p: the four pixels that it goes to. */
static void image_of_tile(const real *restrict m, int64_t s, int64_t K, real *const *p)
{
    real *p0 = p[0], *p1 = p[1], *p2 = p[2], *p3 = p[3];
#define TIMES_A(A, i) \
    const real A##0 = m[4 * i * s + k] + m[(4 * i + 1) * s + k] + m[(4 * i + 2) * s + k]; \
    const real A##1 = m[(4 * i + 1) * s + k] - m[(4 * i + 2) * s + k] - m[(4 * i + 3) * s + k];
#pragma omp simd
    for (int64_t k = 0; k < K; k++) {
        TIMES_A(a, 0) TIMES_A(b, 1) TIMES_A(d, 2) TIMES_A(e, 3)
        p0[k] = a0 + b0 + d0;
        p1[k] = a1 + b1 + d1;
        p2[k] = b0 - d0 - e0;
        p3[k] = b1 - d1 - e1;
    }
#undef TIMES_A
}

/* A y A^T for each of K channels; p: the four pixels. */
static void tile_of_adjoint(const real *const *p, int64_t K, real *restrict o, int64_t s)
{
    const real *restrict p0 = p[0], *restrict p1 = p[1], *restrict p2 = p[2], *restrict p3 = p[3];
#define COLUMN(j) \
    o[j * s + k] = a##j; \
    o[(4 + j) * s + k] = a##j + b##j; \
    o[(8 + j) * s + k] = a##j - b##j; \
    o[(12 + j) * s + k] = -b##j;
#pragma omp simd
    for (int64_t k = 0; k < K; k++) {
        const real a0 = p0[k], a1 = p0[k] + p1[k], a2 = p0[k] - p1[k], a3 = -p1[k];
        const real b0 = p2[k], b1 = p2[k] + p3[k], b2 = p2[k] - p3[k], b3 = -p3[k];
        COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3)
    }
#undef COLUMN
}

/* G g G^T of PANEL filters; tap j of all of them lies at g + j * next. */
static void tile_of_filters(const real *restrict g, int64_t next, real *restrict o, int64_t s)
{
#define TIMES_G(A, x0, x1, x2) \
    const vec A##0 = x0, A##1 = (real)0.5 * (x0 + x1 + x2), A##2 = (real)0.5 * (x0 - x1 + x2), A##3 = x2;
#define G(j) LOAD(g + j * next + l)
#define COLUMN(j) { \
    TIMES_G(u, a##j, b##j, d##j) \
    AT(o + j * s + l) = u0; \
    AT(o + (4 + j) * s + l) = u1; \
    AT(o + (8 + j) * s + l) = u2; \
    AT(o + (12 + j) * s + l) = u3; }
    for (int64_t l = 0; l < PANEL; l += LANES) {
        TIMES_G(a, G(0), G(1), G(2))
        TIMES_G(b, G(3), G(4), G(5))
        TIMES_G(d, G(6), G(7), G(8))
        COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3)
    }
#undef TIMES_G
#undef G
#undef COLUMN
}

/* G^T m G of PANEL filters; tap j of all of them goes to g + j * PANEL. */
static void filters_of_tile(const real *restrict m, int64_t s, real *restrict g)
{
#define TIMES_G(A, x0, x1, x2, x3) \
    const vec A##h = (real)0.5 * (x1 + x2), A##0 = x0 + A##h, A##1 = (real)0.5 * (x1 - x2), A##2 = A##h + x3;
#define M(j) LOAD(m + j * s + l)
#define COLUMN(j) { \
    TIMES_G(w, a##j, b##j, d##j, e##j) \
    AT(g + j * PANEL + l) = w0; \
    AT(g + (3 + j) * PANEL + l) = w1; \
    AT(g + (6 + j) * PANEL + l) = w2; }
    for (int64_t l = 0; l < PANEL; l += LANES) {
        TIMES_G(a, M(0), M(1), M(2), M(3))
        TIMES_G(b, M(4), M(5), M(6), M(7))
        TIMES_G(d, M(8), M(9), M(10), M(11))
        TIMES_G(e, M(12), M(13), M(14), M(15))
        COLUMN(0) COLUMN(1) COLUMN(2)
    }
#undef TIMES_G
#undef M
#undef COLUMN
}

/* Where things lie ------------------------------------------------------------------------------------------------ */

typedef struct {
    int64_t H, W, C, K, pad;
    int64_t h, w;          /* of the result */
    int64_t down, across;  /* tiles of an image */
    int64_t tiles;         /* of all images */
    int64_t panels, wide;  /* of K channels */
} Sizes;

static Sizes sizes_of(int64_t N, int64_t H, int64_t W, int64_t C, int64_t K, int64_t pad)
{
    Sizes z = {.H = H, .W = W, .C = C, .K = K, .pad = pad, .h = H + 2 * pad - 2, .w = W + 2 * pad - 2};
    z.down = (z.h + 1) / 2, z.across = (z.w + 1) / 2, z.tiles = N * z.down * z.across;
    z.panels = (K + PANEL - 1) / PANEL, z.wide = z.panels * PANEL;
    return z;
}

/* Tile `at` of the images x; beside an image stand `zeros`. */
static void take_image(const Sizes *z, const real *x, int64_t at, const real *zeros, real *o, int64_t s)
{
    const int64_t n = at / (z->down * z->across);
    const int64_t top = at / z->across % z->down * 2 - z->pad, left = at % z->across * 2 - z->pad;
    const real *p[16];
    for (int i = 0; i < 16; i++) {
        const int64_t r = top + i / 4, q = left + i % 4;
        p[i] = r >= 0 && r < z->H && q >= 0 && q < z->W ? x + ((n * z->H + r) * z->W + q) * z->C : zeros;
    }
    tile_of_image(p, z->C, o, s);
}

/* The four pixels of tile `at` in images y of K channels; those beside an image are `aside`. */
static void places(const Sizes *z, const real *y, int64_t at, const real *aside, const real **p)
{
    const int64_t n = at / (z->down * z->across), top = at / z->across % z->down * 2, left = at % z->across * 2;
    for (int i = 0; i < 4; i++) {
        const int64_t r = top + i / 2, q = left + i % 2;
        p[i] = r < z->h && q < z->w ? y + ((n * z->h + r) * z->w + q) * z->K : aside;
    }
}

/* Rows c to c + count, at most SOME, of panel q of the filters w (K, C, 3, 3), transformed, to o, PANEL apart; g: room for
 * 9 SOME rows of a panel. */
static void take_filters(const Sizes *z, const real *w, int64_t q, int64_t c, int64_t count, real *restrict g, real *o,
                         int64_t s)
{
    const int64_t filters = least(PANEL, z->K - q * PANEL), far = 9 * z->C;
    const real *from = w + q * PANEL * far + 9 * c;
    if (filters == PANEL && count == SOME)
        for (int64_t j = 0; j < 9 * SOME; j += LANES)
            for (int64_t k = 0; k < PANEL; k += LANES) turn(from + k * far + j, far, g + j * PANEL + k, PANEL);
    else
        for (int64_t j = 0; j < 9 * count; j++)
            for (int64_t k = 0; k < PANEL; k++) g[j * PANEL + k] = k < filters ? from[k * far + j] : 0;
    for (int64_t i = 0; i < count; i++) tile_of_filters(g + 9 * i * PANEL, PANEL, o + i * PANEL, s);
}

/* The same of filters w (C, K, 3, 3) turned by 180 degrees. */
static void take_turned(const Sizes *z, const real *w, int64_t q, int64_t c, int64_t count, real *restrict g, real *o,
                        int64_t s)
{
    const int64_t filters = least(PANEL, z->K - q * PANEL);
    for (int64_t i = 0; i < count; i++) {
        const real *from = w + ((c + i) * z->K + q * PANEL) * 9;
        const int last = c + i == z->C - 1; /* beyond which nothing is read */
        int64_t j = 0;
        for (; filters == PANEL && !last && j < 9 && (j == 0 || j + LANES <= 9); j += LANES)
            for (int64_t k = 0; k < PANEL; k += LANES) turn(from + 9 * k + j, 9, g + j * PANEL + k, PANEL);
        for (; j < 9; j++)
            for (int64_t k = 0; k < PANEL; k++) g[j * PANEL + k] = k < filters ? from[9 * k + j] : 0;
        tile_of_filters(g + 8 * PANEL, -PANEL, o + i * PANEL, s);
    }
}

/* Rows c to c + count of panel q of the filters w (K, C, 3, 3), from the transformed ones m, PANEL apart. */
static void give_filters(const Sizes *z, const real *m, int64_t s, int64_t q, int64_t c, int64_t count, real *restrict g,
                         real *w)
{
    const int64_t filters = least(PANEL, z->K - q * PANEL), far = 9 * z->C;
    real *to = w + q * PANEL * far + 9 * c;
    for (int64_t i = 0; i < count; i++) filters_of_tile(m + i * PANEL, s, g + 9 * i * PANEL);
    if (filters == PANEL && count == SOME)
        for (int64_t j = 0; j < 9 * SOME; j += LANES)
            for (int64_t k = 0; k < PANEL; k += LANES) turn(g + j * PANEL + k, PANEL, to + k * far + j, far);
    else
        for (int64_t j = 0; j < 9 * count; j++)
            for (int64_t k = 0; k < filters; k++) to[k * far + j] = g[j * PANEL + k];
}

static real *cut(char **from, int64_t count)
{
    real *part = (real *)*from;
    *from += bytes(count);
    return part;
}

/* ------------------------------------------------------------------------------------------------------------------ */

/* y (N, H + 2 pad - 2, W + 2 pad - 2, K) = the sum of `terms` convolutions of x (N, H, W, C) with w (K, C, 3, 3), or
 * if `turned` with w (C, K, 3, 3) turned by 180 degrees. Returns 1 where there is no memory. */
int convolve(int terms, const real *const *x, const real *const *w, real *y, int64_t N, int64_t H, int64_t W, int64_t C,
             int64_t K, int64_t pad, int turned, int threads)
{
    const Sizes z = sizes_of(N, H, W, C, K, pad);
    const int64_t tiles = z.tiles, panels = z.panels, wide = z.wide, parts = (C + SOME - 1) / SOME;
    void (*const take)(const Sizes *, const real *, int64_t, int64_t, int64_t, real *, real *, int64_t) =
        turned ? take_turned : take_filters;
    /* Large filters: in each round many tiles first, then panel by panel. Else all filters first, then block by block. */
    const int large = (int64_t)sizeof(real) * terms * 16 * C * wide > LARGE;
    const int64_t rounds = large ? (int64_t)sizeof(real) * terms * 16 * C * tiles / SHARED + 1 : 1;
    const int64_t many = (tiles + rounds - 1) / rounds;
    const int64_t fitting = OWN / (int64_t)(16 * sizeof(real) * (large ? PANEL : C + wide));
    int64_t blocks = (many - 1) / most(ROWS, least(fitting, TILES)) + 1;
    if (!large) blocks = least(many, (blocks + threads - 1) / threads * threads);
    const int64_t some = (many + blocks - 1) / blocks, far = large ? many * C : panels * C * PANEL;
    const int64_t own_size = 16 * (large ? some * PANEL + terms * C * PANEL : some * (C + wide));

    char *borrowed = borrow(bytes(C) + bytes(wide) + bytes(terms * 16 * far) + threads * bytes(own_size));
    if (!borrowed) return 1;
    char *from = borrowed;
    real *zeros = cut(&from, C), *aside = cut(&from, wide), *shared = cut(&from, terms * 16 * far);
    memset(zeros, 0, sizeof(real) * C);

#pragma omp parallel num_threads(threads)
    {
        real *own = (real *)(from + me() * bytes(own_size));
        real g[9 * SOME * PANEL];
        if (large) {
            real *m = own, *filters = own + 16 * some * PANEL;
            for (int64_t round = 0; round < rounds; round++) {
                const int64_t first = tiles * round / rounds, count = tiles * (round + 1) / rounds - first;
#pragma omp for schedule(dynamic, 8)
                for (int64_t i = 0; i < terms * count; i++) {
                    const int64_t t = i / count, at = i % count;
                    take_image(&z, x[t], first + at, zeros, shared + t * 16 * far + at * C, far);
                }
#pragma omp for schedule(dynamic)
                for (int64_t q = 0; q < panels; q++) {
                    for (int t = 0; t < terms; t++)
                        for (int64_t c = 0; c < C; c += SOME)
                            take(&z, w[t], q, c, least(SOME, C - c), g, filters + (t * 16 * C + c) * PANEL, C * PANEL);
                    for (int64_t low = 0; low < count; low += some) {
                        const int64_t rows = least(some, count - low);
                        for (int64_t i = 0; i < terms * 16; i++)
                            multiply_runs(shared + i * far + low * C, C, 1, rows, filters + i * C * PANEL, C,
                                          m + i % 16 * some * PANEL, PANEL, i >= 16);
                        for (int64_t i = 0; i < rows; i++) {
                            const real *p[4];
                            places(&z, y + q * PANEL, first + low + i, aside, p);
                            image_of_tile(m + i * PANEL, some * PANEL, least(PANEL, K - q * PANEL), (real *const *)p);
                        }
                    }
                }
            }
        } else {
            real *m = own, *images = own + 16 * some * wide;
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < terms * panels * parts; i++) {
                const int64_t t = i / (panels * parts), q = i / parts % panels, c = i % parts * SOME;
                take(&z, w[t], q, c, least(SOME, C - c), g, shared + t * 16 * far + (q * C + c) * PANEL, far);
            }
#pragma omp for schedule(dynamic)
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t low = tiles * b / blocks, count = tiles * (b + 1) / blocks - low;
                for (int t = 0; t < terms; t++) {
                    for (int64_t i = 0; i < count; i++)
                        take_image(&z, x[t], low + i, zeros, images + i * C, some * C);
                    for (int64_t i = 0; i < 16 * panels; i++)
                        multiply_runs(images + i / panels * some * C, C, 1, count,
                                      shared + t * 16 * far + i * C * PANEL, C,
                                      m + i / panels * some * wide + i % panels * PANEL, wide, t > 0);
                }
                for (int64_t i = 0; i < count; i++) {
                    const real *p[4];
                    places(&z, y, low + i, aside, p);
                    image_of_tile(m + i * wide, some * wide, K, (real *const *)p);
                }
            }
        }
    }
    give_back(borrowed);
    return 0;
}

/* w (K, C, 3, 3) = the sum of `terms` adjoints with respect to the filters of convolutions of x (N, H, W, C); y (N,
 * H + 2 pad - 2, W + 2 pad - 2, K) are the adjoints of their results. Returns 1 where there is no memory. */
int correlate(int terms, const real *const *x, const real *const *y, real *w, int64_t N, int64_t H, int64_t W, int64_t C,
              int64_t K, int64_t pad, int threads)
{
    const Sizes z = sizes_of(N, H, W, C, K, pad);
    const int64_t tiles = terms * z.tiles, panels = z.panels, wide = z.wide, parts = (C + SOME - 1) / SOME;
    const int64_t of_filters = (int64_t)sizeof(real) * 16 * C * wide;
    const int64_t of_tiles = (int64_t)sizeof(real) * 16 * (C + wide) * tiles;
    /* Large filters and few tiles: one round, panel by panel. Else as many rounds as keep the tiles in the cache. */
    const int large = of_filters > LARGE && of_tiles <= SHARED;
    const int64_t rounds = large ? 1 : of_tiles / most(ROUND, of_filters) + 1;
    const int64_t some = (tiles + rounds - 1) / rounds, panel = 16 * C * PANEL;
    const int64_t m_size = (large ? threads : panels) * panel;

    char *borrowed = borrow(bytes(most(C, wide)) + bytes(16 * some * C) + bytes(16 * some * wide) + bytes(m_size));
    if (!borrowed) return 1;
    char *from = borrowed;
    real *zeros = cut(&from, most(C, wide)), *images = cut(&from, 16 * some * C);
    real *adjoints = cut(&from, 16 * some * wide), *m = cut(&from, m_size);
    memset(zeros, 0, sizeof(real) * most(C, wide));
    if (K < wide) memset(adjoints, 0, sizeof(real) * 16 * some * wide);

#pragma omp parallel num_threads(threads)
    {
        real g[9 * SOME * PANEL];
        for (int64_t round = 0; round < rounds; round++) {
            const int64_t low = tiles * round / rounds, count = tiles * (round + 1) / rounds - low;
#pragma omp for schedule(dynamic, 8)
            for (int64_t i = 0; i < count; i++) {
                const int64_t t = (low + i) / z.tiles, at = (low + i) % z.tiles;
                take_image(&z, x[t], at, zeros, images + i * C, some * C);
                for (int64_t q = 0; q < panels; q++) {
                    const real *p[4];
                    places(&z, y[t] + q * PANEL, at, zeros, p);
                    tile_of_adjoint(p, least(PANEL, K - q * PANEL), adjoints + (q * some + i) * PANEL,
                                    panels * some * PANEL);
                }
            }
            if (large) {
                real *own = m + me() * panel;
#pragma omp for schedule(dynamic)
                for (int64_t q = 0; q < panels; q++) {
                    for (int64_t i = 0; i < 16; i++)
                        multiply_runs(images + i * some * C, 1, C, C, adjoints + (i * panels + q) * some * PANEL, count,
                                      own + i * C * PANEL, PANEL, 0);
                    for (int64_t c = 0; c < C; c += SOME)
                        give_filters(&z, own + c * PANEL, C * PANEL, q, c, least(SOME, C - c), g, w);
                }
            } else {
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < 16 * panels; i++) {
                    const int64_t q = i / 16, place = i % 16;
                    multiply_runs(images + place * some * C, 1, C, C, adjoints + (place * panels + q) * some * PANEL,
                                  count, m + i * C * PANEL, PANEL, round > 0);
                }
            }
        }
        if (!large) {
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < panels * parts; i++) {
                const int64_t q = i / parts, c = i % parts * SOME;
                give_filters(&z, m + q * panel + c * PANEL, C * PANEL, q, c, least(SOME, C - c), g, w);
            }
        }
    }
    give_back(borrowed);
    return 0;
}
