/* What the functions in C have in common (`winograd.c`, `products.c`): matrix products of panels, matrices turned over
 * into panels, and working memory.
 *
 * A panel is PANEL columns of a matrix, two vectors wide, row after row: (rows, PANEL). `real` is float or double, BYTES
 * its size.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a vector, and rows of a product, for which there are registers; NARROW is for tests. */
#if defined(__AVX512F__) && !defined(NARROW)
#define WIDTH 64
#define ROWS 12
#else
#define WIDTH 32
#define ROWS 6
#endif
#define LANES (WIDTH / BYTES)
#define PANEL (2 * LANES)

/* Bytes of working memory up to which it is kept for the next call. */
#define KEPT (20 << 20)

typedef real vec __attribute__((vector_size(WIDTH), aligned(sizeof(real)), may_alias));
#define AT(p) (*(vec *)(p))
#define LOAD(p) (*(const vec *)(p))

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Matrix products ------------------------------------------------------------------------------------------------- */

/* y = a b, or y += a b if `more`, of R rows: a[r, d] at a[r * row + d * step], a panel of b, y with `wide` columns. */
#define PRODUCT(R) \
static void product_##R(const real *restrict a, int64_t row, int64_t step, const real *restrict b, int64_t depth, \
                        real *restrict y, int64_t wide, int more) \
{ \
    vec s[R][2]; \
    _Pragma("GCC unroll 12") \
    for (int r = 0; r < R; r++) s[r][0] = s[r][1] = (vec){0}; \
    for (int64_t d = 0; d < depth; d++) { \
        const vec b0 = LOAD(b + d * PANEL), b1 = LOAD(b + d * PANEL + LANES); \
        _Pragma("GCC unroll 12") \
        for (int r = 0; r < R; r++) { \
            const vec x = a[r * row + d * step] - (vec){0}; \
            s[r][0] += x * b0; \
            s[r][1] += x * b1; \
        } \
    } \
    if (more) { \
        _Pragma("GCC unroll 12") \
        for (int r = 0; r < R; r++) { \
            s[r][0] += LOAD(y + r * wide); \
            s[r][1] += LOAD(y + r * wide + LANES); \
        } \
    } \
    _Pragma("GCC unroll 12") \
    for (int r = 0; r < R; r++) { \
        AT(y + r * wide) = s[r][0]; \
        AT(y + r * wide + LANES) = s[r][1]; \
    } \
}
PRODUCT(1) PRODUCT(2) PRODUCT(3) PRODUCT(4) PRODUCT(5) PRODUCT(6)
#if ROWS > 6
PRODUCT(7) PRODUCT(8) PRODUCT(9) PRODUCT(10) PRODUCT(11) PRODUCT(12)
#endif

typedef void Product(const real *, int64_t, int64_t, const real *, int64_t, real *, int64_t, int);

static Product *const products[ROWS + 1] = {
    0, product_1, product_2, product_3, product_4, product_5, product_6,
#if ROWS > 6
    product_7, product_8, product_9, product_10, product_11, product_12,
#endif
};

/* The same of any number of rows, ROWS or a few less at a time. */
static void multiply(const real *a, int64_t row, int64_t step, int64_t rows, const real *b, int64_t depth, real *y,
                     int64_t wide, int more)
{
    const int64_t parts = (rows + ROWS - 1) / ROWS;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t low = rows * part / parts, high = rows * (part + 1) / parts;
        products[high - low](a + low * row, row, step, b, depth, y + low * wide, wide, more);
    }
}

/* Matrices turned over -------------------------------------------------------------------------------------------- */

/* PLAIN is for tests; a compiler that does not know `__has_builtin` could not read it behind an `&&`. */
#if defined(__has_builtin) && !defined(PLAIN)
#if __has_builtin(__builtin_shufflevector)
#define RIFFLED
#endif
#endif

#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif

/* to[j * there + i] = from[i * far + j], for LANES x LANES numbers. */
static inline void turn(const real *from, int64_t far, real *to, int64_t there)
{
#ifdef RIFFLED
    /* Cards that are cut in the middle and riffled, so often as there are binary digits in LANES: the digits of a number's
     * place go round by half of them. */
    vec a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) a[i] = LOAD(from + i * far);
#pragma GCC unroll 4
    for (int riffle = 1; riffle < LANES; riffle *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + LANES / 2], LOW);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + LANES / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) AT(to + i * there) = a[i];
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[j * there + i] = from[i * far + j];
#endif
}

/* Working memory: what the last call left, unless that is in use or too small. -------------------------------------- */

static char *kept;
static int64_t kept_size;
static int kept_in_use;

static char *borrow(int64_t size)
{
    if (size > KEPT || __atomic_exchange_n(&kept_in_use, 1, __ATOMIC_ACQUIRE)) return aligned_alloc(64, size);
    if (kept_size < size) {
        free(kept);
        kept = aligned_alloc(64, size);
        kept_size = kept ? size : 0;
        if (!kept) __atomic_store_n(&kept_in_use, 0, __ATOMIC_RELEASE);
    }
    return kept;
}

static void give_back(char *borrowed)
{
    if (borrowed == kept) __atomic_store_n(&kept_in_use, 0, __ATOMIC_RELEASE);
    else free(borrowed);
}

static int64_t bytes(int64_t count) { return ((int64_t)sizeof(real) * count + 63) / 64 * 64; }
