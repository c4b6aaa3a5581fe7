/* The rANS kernel: symbols or a latent to bytes and back.
 *
 * Plain C11 without dependencies, called through ctypes on numpy arrays. splitreg/coding/rans_numpy.py writes the same
 * bytes in numpy; docs/wire-format.md describes the format. All arithmetic that affects bytes is on unsigned integers of
 * fixed width, so every compiler and CPU writes the same.
 *
 * rANS: Duda 2013, arXiv:1311.2540. Interleaving: Giesen 2014, arXiv:1402.3392.
 */
#include <stdint.h>
#include <string.h>

#include "export.h"

#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "floats are not computed as floats here, so latents would be rounded otherwise; on 32-bit x86 use -msse2 -mfpmath=sse"
#endif

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(SR_PLAIN)
#define CLONES(...) __attribute__((target_clones(__VA_ARGS__, "default")))
#else
#define CLONES(...)
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define RARELY(c) __builtin_expect(!!(c), 0)
#else
#define INLINE static inline
#define UNROLL
#define RARELY(c) (c)
#endif

enum { COPIES = 4 };  /* of every count, so that repeated symbols do not wait for each other */
enum { SAMPLED = 4 }; /* without adaptation, one row in four estimates the size */
enum { ABI = 5, CONTEXTS = 6, MAX_LANES = 8, BUCKETS = 256, BUCKET_STEP = BUCKETS + 8 };
enum { CORRUPT = -1, INVALID = -2, NO_ROOM = -3 };
enum { FLAG_ADAPT = 4, FLAG_ESCAPES = 8 };
#define LOW (1ull << 32) /* states are in [2^32, 2^48) */
#define TOTAL 65536u

/* Tables of one model. A row belongs to a channel or, with `indexes`, to every symbol that names it. */
typedef struct {
    int32_t rows, stride;
    int32_t bits;                   /* 0: rounded latents; else latents are scaled and clipped to [0, 2^bits) */
    const int32_t *symbols;         /* (rows) number of symbols, the escape included */
    const int32_t *offsets;         /* (rows) value of the first symbol */
    const int32_t *modes;           /* (rows) the most frequent symbol's index */
    const uint32_t *inverses;       /* (rows) factor from a distance to a magnitude, see `magnitudes` */
    const uint32_t *frequencies;    /* (rows, stride) sum to 2^16 */
    const uint32_t *costs;          /* (rows, stride) length of a symbol, in 1/256 bits */
    const uint32_t *priors;         /* (rows, CONTEXTS, stride) sum to 2^16; NULL: not adapted */
    const float *shift, *scale;     /* (channels) */
} sr_tables;

/* Input or output of (channels, height, width); exactly one of symbols and latent is not NULL. */
typedef struct {
    int32_t channels, height, width;
    int32_t *symbols;
    float *latent;
    const int32_t *indexes; /* (channels, height, width) rows of the tables, or NULL */
} sr_plane;

/* Adaptive tables: one per context of a channel, or per row that the indexes name. */
typedef struct {
    int32_t count, stride;
    const int32_t *symbols; /* per table, or one for all if `shared` */
    int32_t shared, mode;
    const int32_t *modes;
    const uint32_t *priors;
    int32_t prior_stride;
    uint32_t *entries;  /* start | (frequency - 1) << 16 */
    uint32_t *counts;   /* COPIES of all tables */
    uint32_t *seen, *next;
    uint16_t *buckets;  /* decoder: the symbol at the first slot of each part of the range */
    int32_t shift;      /* a part has 2^shift slots */
} bank;

static uint64_t reciprocals[TOTAL + 1];

API int32_t sr_init(void) {
    for (uint32_t f = 1; f <= TOTAL; f++) reciprocals[f] = UINT64_MAX / f;
    return ABI;
}

/* ---- rows of a plane ------------------------------------------------------------------------------------------- */

/* Round half to even, as numpy.rint, for |v| <= 2^23. */
INLINE float rounded(float v) {
    return __builtin_copysignf((__builtin_fabsf(v) + 8388608.0f) - 8388608.0f, v);
}

INLINE int quantise(const float *restrict latent, int64_t n, float shift, float scale, int32_t bits, int32_t *restrict out) {
    int32_t bad = 0;
    if (bits) {
        const float top = (float)((1u << bits) - 1);
        for (int64_t i = 0; i < n; i++) {
            float v = (latent[i] - shift) * scale;
            bad |= !(__builtin_fabsf(latent[i]) <= 3.402823466e38f);
            v = v > 0.0f ? v : 0.0f;
            out[i] = (int32_t)rounded(v < top ? v : top);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            const float v = latent[i] - shift;
            const int32_t fine = __builtin_fabsf(v) <= 8388608.0f;
            bad |= !fine;
            out[i] = (int32_t)rounded(fine ? v : 0.0f);
        }
    }
    return bad;
}

/* Values to indexes into a row; returns whether there is an escape. */
INLINE int to_indexes(const int32_t *restrict values, int64_t n, int32_t offset, int32_t symbols, uint16_t *restrict out) {
    const uint32_t last = (uint32_t)symbols - 1;
    uint32_t escapes = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t index = (uint32_t)values[i] - (uint32_t)offset;
        index = index < last ? index : last;
        escapes |= index == last;
        out[i] = (uint16_t)index;
    }
    return escapes != 0;
}

/* Distance from the most frequent symbol, in 16ths of the mean distance, at most 255. */
INLINE void magnitudes(const uint16_t *restrict indexes, int32_t n, int32_t mode, uint32_t inverse, uint8_t *restrict out) {
    for (int32_t i = 0; i < n; i++) {
        int32_t d = (int32_t)indexes[i] - mode;
        uint32_t m = ((uint32_t)(d < 0 ? -d : d) * inverse) >> 8;
        out[i] = (uint8_t)(m < 255 ? m : 255);
    }
}

/* Contexts of a row, from the rows above it in this channel and a running mean over the channels before.
 * Planes are zero-padded: one element on the left, up to `wide` and one more on the right; up is NULL in the first row.
 * Counts how many of the first n have each context. */
INLINE void contexts(const uint8_t *restrict up, const uint8_t *restrict above, const uint8_t *restrict before, int32_t n,
                     int32_t wide, uint8_t *restrict out, uint32_t *restrict seen) {
    uint16_t over[CONTEXTS + 1] = {(uint16_t)n};
    for (int32_t i = 0; i < wide; i++) {
        uint16_t local = up ? (uint16_t)(2 * up[i] + up[i - 1] + up[i + 1] + above[i]) : (uint16_t)(5 * before[i]);
        uint16_t score = (uint16_t)(3 * local + 10 * before[i]);
        uint16_t a = score > 80, b = score > 200, c = score > 360, d = score > 600, e = score > 960;
        over[1] += a, over[2] += b, over[3] += c, over[4] += d, over[5] += e;
        out[i] = (uint8_t)(a + b + c + d + e);
    }
    if (wide > n) /* only this element of the padding has a neighbour */
        for (int k = 1; k <= out[n]; k++) over[k]--;
    for (int k = 0; k < CONTEXTS; k++) seen[k] = (uint32_t)(uint16_t)(over[k] - over[k + 1]);
}

INLINE void fade(uint8_t *restrict before, const uint8_t *restrict now, int32_t n) {
    for (int32_t i = 0; i < n; i++) before[i] = (uint8_t)((3 * before[i] + now[i]) >> 2);
}

/* ---- adaptive tables ----------------------------------------------------------------------------------------- */

/* Count the symbols of a row, given the positions of their entries. */
INLINE void count_row(const bank *b, const uint32_t *restrict at, int32_t n) {
    const int64_t apart = (int64_t)b->count * b->stride;
    uint32_t *c0 = b->counts, *c1 = c0 + apart, *c2 = c1 + apart, *c3 = c2 + apart;
    int32_t i = 0;
    for (; i + COPIES <= n; i += COPIES) c0[at[i]]++, c1[at[i + 1]]++, c2[at[i + 2]]++, c3[at[i + 3]]++;
    for (; i < n; i++) c0[at[i]]++;
}

INLINE void look_up(const uint32_t *restrict entries, const uint32_t *restrict at, int32_t n, uint32_t *restrict out) {
    for (int32_t i = 0; i < n; i++) out[i] = entries[at[i]];
}

/* Add the copies of a table's counts to the first copy. */
INLINE uint32_t *add_up(const bank *b, int32_t k, int32_t symbols) {
    const int64_t apart = (int64_t)b->count * b->stride;
    uint32_t *all = b->counts + (int64_t)k * b->stride;
    for (int j = 1; j < COPIES; j++) {
        uint32_t *some = all + j * apart;
        for (int32_t i = 0; i < symbols; i++) all[i] += some[i];
        memset(some, 0, 4u * (uint32_t)symbols);
    }
    return all;
}

INLINE int32_t bank_symbols(const bank *b, int32_t k) { return b->shared ? b->symbols[0] : b->symbols[k]; }

/* Lay out entries (and, to decode, buckets) from frequencies that sum to 2^16. */
INLINE void lay_out(const uint32_t *frequencies, int32_t symbols, uint32_t *entries, uint16_t *buckets, int32_t shift) {
    uint32_t start = 0;
    for (int32_t i = 0; i < symbols; i++) {
        entries[i] = start | (frequencies[i] - 1) << 16;
        start += frequencies[i];
    }
    if (buckets) { /* the last symbol that starts at or before the first slot of a part */
        const int32_t parts = TOTAL >> shift, up = (1 << shift) - 1;
        memset(buckets, 0, 2u * (uint32_t)parts);
        for (int32_t i = 1; i < symbols; i++) buckets[((int32_t)(entries[i] & 0xffff) + up) >> shift] = (uint16_t)i;
        for (int32_t b = 1; b < parts; b++) buckets[b] = buckets[b] > buckets[b - 1] ? buckets[b] : buckets[b - 1];
    }
}

/* Symbols until the next update of a table: half of those it has seen, at least 32 and its length. */
INLINE uint32_t patience(uint32_t seen, int32_t symbols) {
    const uint32_t least = symbols > 32 ? (uint32_t)symbols : 32;
    return seen / 2 > least ? seen / 2 : least;
}

/* Frequencies from the prior, which weighs as much as 64 symbols, and the counts: each at least 1; the remainder of
 * the rounding is added to the mode. */
INLINE void learn(bank *b, int32_t k, uint32_t *scratch) {
    const int32_t symbols = bank_symbols(b, k);
    const uint32_t *prior = b->priors + (int64_t)k * b->prior_stride;
    uint32_t *counts = add_up(b, k, symbols);
    if (b->seen[k] >> 20) { /* keeps the sums in 32 bits */
        b->seen[k] = 0;
        for (int32_t i = 0; i < symbols; i++) b->seen[k] += counts[i] >>= 1;
    }
    const uint64_t all = (uint64_t)TOTAL + 1024ull * b->seen[k];
    const uint32_t scale = (uint32_t)(((uint64_t)(TOTAL - (uint32_t)symbols) << 31) / all);
    uint32_t sum = 0;
    for (int32_t i = 0; i < symbols; i++) {
        uint32_t f = 1 + (uint32_t)((uint64_t)(prior[i] + counts[i] * 1024u) * scale >> 31);
        scratch[i] = f;
        sum += f;
    }
    scratch[b->shared ? b->mode : b->modes[k]] += TOTAL - sum;
    lay_out(scratch, symbols, b->entries + (int64_t)k * b->stride, b->buckets ? b->buckets + (int64_t)k * BUCKET_STEP : 0,
            b->shift);
    b->next[k] = b->seen[k] + patience(b->seen[k], symbols);
}

INLINE void bank_reset(bank *b) {
    for (int32_t k = 0; k < b->count; k++) {
        const int32_t symbols = bank_symbols(b, k);
        for (int j = 0; j < COPIES; j++) memset(b->counts + ((int64_t)j * b->count + k) * b->stride, 0, 4u * (uint32_t)symbols);
        b->seen[k] = 0;
        b->next[k] = patience(0, symbols);
        lay_out(b->priors + (int64_t)k * b->prior_stride, symbols, b->entries + (int64_t)k * b->stride,
                b->buckets ? b->buckets + (int64_t)k * BUCKET_STEP : 0, b->shift);
    }
}

INLINE void bank_learn(bank *b, uint32_t *scratch) {
    for (int32_t k = 0; k < b->count; k++)
        if (RARELY(b->seen[k] >= b->next[k])) learn(b, k, scratch);
}

/* ---- workspace ------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *at, *end;
} arena;

#if defined(__SANITIZE_ADDRESS__) /* the gaps between allocations are out of bounds too */
#include <sanitizer/asan_interface.h>
enum { GUARD = 64 };
#else
#define __asan_poison_memory_region(at, bytes) (void)0
#define __asan_unpoison_memory_region(at, bytes) (void)0
enum { GUARD = 0 };
#endif

static void *take(arena *a, int64_t bytes) {
    const int64_t whole = ((bytes + 63) & ~63ll) + GUARD;
    if (a->end - a->at < whole) return 0;
    void *start = a->at;
    __asan_unpoison_memory_region(start, (size_t)bytes);
    __asan_poison_memory_region(a->at + bytes, (size_t)(whole - bytes));
    a->at += whole;
    return start;
}

/* Buffers of both directions. Rows are padded to `wide`, so that loops over them need no remainder. */
typedef struct {
    bank b;
    int32_t wide;
    int32_t *values;
    uint16_t *indexes;                  /* encoder: of a channel; decoder: of a row */
    uint8_t *up, *above, *now, *before; /* magnitudes of rows; before is of all rows */
    uint8_t *context;                   /* the table of each symbol of a row */
    uint32_t *at;                       /* position of its entry */
    uint32_t seen[CONTEXTS];            /* symbols of the row per context */
    uint32_t *scratch;
} work;

static int prepare(work *w, arena *a, const sr_tables *t, const sr_plane *p, int adapt, int decode) {
    const int32_t count = p->indexes ? t->rows : adapt ? CONTEXTS : 1, wide = (p->width + 31) & ~31;
    const int64_t held = decode ? wide : (int64_t)p->height * p->width + 32;
    memset(w, 0, sizeof *w);
    bank *b = &w->b;
    w->wide = wide;
    b->count = count;
    b->stride = t->stride;
    b->entries = take(a, 4ll * count * t->stride);
    b->counts = take(a, 4ll * COPIES * count * t->stride);
    b->seen = take(a, 4ll * count);
    b->next = take(a, 4ll * count);
    b->buckets = decode ? take(a, 2ll * BUCKET_STEP * count) : 0;
    w->values = take(a, 4 * held);
    w->indexes = take(a, 2 * held);
    w->context = take(a, wide);
    w->at = take(a, 4ll * wide);
    w->scratch = take(a, 4ll * t->stride);
    uint8_t *planes = take(a, 3ll * (wide + 2));
    w->before = take(a, (int64_t)p->height * wide);
    if (!b->entries || !b->counts || !b->seen || !b->next || (decode && !b->buckets) || !w->values || !w->indexes ||
        !w->context || !w->at || !w->scratch || !planes || !w->before)
        return NO_ROOM;
    memset(planes, 0, 3u * ((uint32_t)wide + 2));
    w->up = planes + 1, w->above = w->up + wide + 2, w->now = w->above + wide + 2;
    memset(w->indexes, 0, 2 * (size_t)held);
    memset(w->context, 0, (size_t)wide);
    memset(w->before, 0, (size_t)p->height * wide);
    for (int32_t r = 0; r < p->height; r++) memset(w->before + (int64_t)r * wide, 16, (size_t)p->width);
    return 0;
}

/* Point the bank at the tables of channel c. */
INLINE void enter(work *w, const sr_tables *t, const sr_plane *p, int32_t c, int adapt) {
    bank *b = &w->b;
    if (p->indexes) {
        if (c) return; /* one bank for all channels */
        b->shared = 0, b->symbols = t->symbols, b->modes = t->modes;
        b->priors = t->frequencies, b->prior_stride = t->stride;
    } else {
        b->shared = 1, b->symbols = t->symbols + c, b->mode = t->modes[c];
        b->prior_stride = t->stride;
        b->priors = adapt ? t->priors + (int64_t)c * CONTEXTS * t->stride : t->frequencies + (int64_t)c * t->stride;
    }
    b->shift = b->shared && *b->symbols <= 40 ? 10 : 8; /* fewer parts for tables that are updated often */
    bank_reset(b);
}

/* Choose the table of each symbol of a row, after adapting to the rows before. */
INLINE void choose(work *w, const sr_plane *p, int64_t row, int32_t r, int adapt) {
    const int32_t n = p->width;
    if (p->indexes)
        for (int32_t i = 0; i < n; i++) w->context[i] = (uint8_t)p->indexes[row * n + i];
    else if (adapt)
        contexts(r ? w->up : 0, w->above, w->before + (int64_t)r * w->wide, n, w->wide, w->context, w->seen);
    if (adapt) bank_learn(&w->b, w->scratch);
}

/* Positions of the entries of a row. */
INLINE void place(const uint8_t *restrict context, const uint16_t *restrict indexes, uint32_t stride, int32_t n,
                  uint32_t *restrict at) {
    for (int32_t i = 0; i < n; i++) at[i] = context[i] * stride + indexes[i];
}

/* After a row: count its symbols and the uses of each table, and store its magnitudes. */
INLINE void leave_row(work *w, const sr_tables *t, const sr_plane *p, const uint16_t *indexes, int32_t c, int32_t r) {
    const int32_t n = p->width, wide = w->wide;
    count_row(&w->b, w->at, n);
    if (p->indexes) {
        for (int32_t i = 0; i < n; i++) w->b.seen[w->context[i]]++;
        return;
    }
    for (int32_t k = 0; k < CONTEXTS; k++) w->b.seen[k] += w->seen[k];
    magnitudes(indexes, wide, t->modes[c], t->inverses[c], w->now);
    memset(w->now + n, 0, (size_t)(wide - n));
    fade(w->before + (int64_t)r * wide, w->now, wide);
    uint8_t *last = w->above;
    w->above = w->up, w->up = w->now, w->now = last;
    if (r == p->height - 1) { /* the next channel starts without rows above */
        memset(w->up, 0, (size_t)n);
        memset(w->above, 0, (size_t)n);
    }
}

/* Rows at the end that lane 0 codes alone; its words fill the other lanes' initial states. */
static int64_t tail_rows(int64_t rows, int lanes) {
    if (lanes == 1) return rows;
    return rows / 128 ? rows / 128 : 1;
}

/* ---- encoder --------------------------------------------------------------------------------------------------- */

INLINE uint64_t quotient(uint64_t x, uint32_t f) {
#if defined(__SIZEOF_INT128__)
    /* exact for x < 2^48 and f <= 2^16: (x + 1) times the error of the reciprocal is below 2^64 / f */
    return (uint64_t)((unsigned __int128)(x + 1) * reciprocals[f] >> 64);
#else
    return x / f;
#endif
}

INLINE uint64_t put(uint64_t x, uint32_t entry, uint16_t **out) {
    const uint32_t f = (entry >> 16) + 1;
    const unsigned full = x >= (uint64_t)f << 32;
    (*out)[-1] = (uint16_t)x; /* no branch: it would be mispredicted */
    *out -= full;
    x >>= 16 * full;
    return x + (entry & 0xffff) + quotient(x, f) * (TOTAL - f);
}

INLINE uint16_t *put_row(uint64_t *states, const uint32_t *entries, int32_t n, uint16_t *out, const int lanes) {
    uint64_t x[MAX_LANES];
    int32_t i = n - n % lanes;
    for (int32_t k = n - 1; k >= i; k--) /* the remainder of the row; indexing by lanes would spill the registers */
        states[k - i] = put(states[k - i], entries[k], &out);
    UNROLL for (int k = 0; k < lanes; k++) x[k] = states[k];
    while (i) {
        i -= lanes;
        UNROLL for (int k = lanes - 1; k >= 0; k--) x[k] = put(x[k], entries[i + k], &out);
    }
    UNROLL for (int k = 0; k < lanes; k++) states[k] = x[k];
    return out;
}

static int64_t put_varint(uint8_t *out, int64_t at, uint64_t value) {
    for (; value >= 128; value >>= 7) out[at++] = (uint8_t)(value | 128);
    out[at++] = (uint8_t)value;
    return at;
}

typedef struct {
    uint32_t *entries;   /* one per symbol */
    uint8_t *escapes;    /* values outside the tables, in order */
    int64_t escape_bytes, escape_room;
    uint64_t plain_bits; /* code length by the model's tables, in 1/256 bits */
} model_pass;

/* Indexes of a channel's symbols; values outside the tables are appended to the escapes. */
INLINE int index_channel(const sr_tables *t, const sr_plane *p, work *w, int32_t c, model_pass *m) {
    const int64_t n = (int64_t)p->height * p->width;
    const int32_t *values = p->symbols ? p->symbols + c * n : w->values;
    const int32_t *rows = p->indexes ? p->indexes + c * n : 0;
    int escapes = 0;
    if (!p->symbols && quantise(p->latent + c * n, n, t->shift[c], t->scale[c], t->bits, w->values)) return INVALID;
    if (rows) {
        for (int64_t i = 0; i < n; i++) {
            const uint32_t last = (uint32_t)t->symbols[rows[i]] - 1;
            const uint32_t index = (uint32_t)values[i] - (uint32_t)t->offsets[rows[i]];
            escapes |= index >= last;
            w->indexes[i] = (uint16_t)(index < last ? index : last);
        }
    } else {
        escapes = to_indexes(values, n, t->offsets[c], t->symbols[c], w->indexes);
    }
    for (int64_t i = 0; escapes && i < n; i++) {
        const int32_t k = rows ? rows[i] : c, last = t->symbols[k] - 1;
        if (w->indexes[i] != last) continue;
        const int64_t below = (int64_t)t->offsets[k] - 1 - values[i], above = (int64_t)values[i] - t->offsets[k] - last;
        if (m->escape_room - m->escape_bytes < 5) return NO_ROOM;
        m->escape_bytes = put_varint(m->escapes, m->escape_bytes, (uint64_t)(below >= 0 ? 2 * below + 1 : 2 * above));
    }
    return 0;
}

/* Choose an entry for every symbol. */
CLONES("arch=x86-64-v4", "arch=x86-64-v3") static int model(const sr_tables *t, const sr_plane *p, work *w, int adapt, model_pass *m) {
    const int32_t n = p->width;
    const bank *b = &w->b;
    for (int32_t c = 0; c < p->channels; c++) {
        const int error = index_channel(t, p, w, c, m);
        if (error) return error;
        enter(w, t, p, c, adapt);
        for (int32_t r = 0; r < p->height; r++) {
            const int64_t row = (int64_t)c * p->height + r;
            const uint16_t *indexes = w->indexes + (int64_t)r * n;
            uint32_t *out = m->entries + row * n;
            choose(w, p, row, r, adapt);
            place(w->context, indexes, (uint32_t)b->stride, w->wide, w->at);
            look_up(b->entries, w->at, n, out);
            if (adapt)
                leave_row(w, t, p, indexes, c, r);
            else if (row % SAMPLED == 0)
                count_row(b, w->at, n);
        }
        if (!p->indexes || c == p->channels - 1) {
            for (int32_t k = 0; k < b->count; k++) {
                const int32_t symbols = bank_symbols(b, k);
                const uint32_t *counts = add_up(b, k, symbols);
                const uint32_t *costs = t->costs + (int64_t)(p->indexes ? k : c) * t->stride;
                for (int32_t i = 0; i < symbols; i++) m->plain_bits += (uint64_t)counts[i] * costs[i];
            }
        }
    }
    if (!adapt) m->plain_bits *= SAMPLED;
    return 0;
}

CLONES("arch=x86-64-v3") static uint16_t *put_rows(const uint32_t *entries, int64_t from, int64_t to, int32_t n, uint64_t *x, uint16_t *out,
                                 int lanes) {
    for (int64_t row = to - 1; row >= from; row--) {
        const uint32_t *at = entries + row * n;
        switch (lanes) {
        case 1: out = put_row(x, at, n, out, 1); break;
        case 2: out = put_row(x, at, n, out, 2); break;
        case 4: out = put_row(x, at, n, out, 4); break;
        default: out = put_row(x, at, n, out, 8); break;
        }
    }
    return out;
}

/* Bytes of workspace that sr_encode or sr_decode needs. */
API int64_t sr_workspace(const sr_tables *t, const sr_plane *p, int32_t decode) {
    const int64_t plane = (int64_t)p->height * p->width, wide = (p->width + 31) & ~31;
    const int64_t count = p->indexes ? t->rows : CONTEXTS;
    const int64_t either = 64 * 32 + count * ((4ll + 4 * COPIES) * t->stride + 2 * BUCKET_STEP + 8) + 4ll * t->stride +
                           16 * wide + p->height * wide;
    return either + (decode ? 2 * p->width * tail_rows((int64_t)p->channels * p->height, MAX_LANES) : (11ll * p->channels + 6) * plane);
}

/* The largest payload. */
API int64_t sr_bound(const sr_plane *p) {
    return 64 + 7ll * p->channels * p->height * p->width;
}

/* Write a payload; returns its length, or INVALID if the latent is not finite or too large. */
API int64_t sr_encode(const sr_tables *t, const sr_plane *p, int32_t adapt, uint8_t *space, int64_t room, uint8_t *out) {
    const int64_t n = (int64_t)p->channels * p->height * p->width, rows = (int64_t)p->channels * p->height;
    arena a = {space, space + room};
    model_pass m = {0};
    m.entries = take(&a, 4 * n);
    m.escape_room = 5 * n;
    m.escapes = take(&a, m.escape_room);
    uint16_t *words = take(&a, 2 * n + 64), *end;
    if (!m.entries || !m.escapes || !words) return NO_ROOM;
    arena rest = a;
    int64_t length = 0;
    adapt = adapt && (t->priors || p->indexes);
    for (;;) {
        work w;
        a = rest;
        int error = prepare(&w, &a, t, p, adapt, 0);
        m.escape_bytes = 0, m.plain_bits = 0;
        if (!error) error = model(t, p, &w, adapt, &m);
        if (error) return error;
        const uint64_t plain = m.plain_bits / 2048; /* bytes */
        const int log_lanes = plain < 2048 ? 0 : plain < 10240 ? 1 : plain < 16384 ? 2 : 3, lanes = 1 << log_lanes;
        const int64_t tail = tail_rows(rows, lanes);
        uint64_t x[MAX_LANES];
        x[0] = LOW;
        end = words + n + 16; /* written from the end */
        uint16_t *at = put_rows(m.entries, rows - tail, rows, p->width, x, end, 1);
        /* The words written first, so read last, become the other lanes' initial states. */
        int64_t filled = end - at;
        if (filled > 2 * (lanes - 1)) filled = 2 * (lanes - 1);
        end -= filled;
        for (int k = 1; k < lanes; k++) {
            x[k] = LOW;
            for (int half = 0; half < 2; half++)
                if (2 * (k - 1) + half < filled) x[k] |= (uint64_t)end[2 * (k - 1) + half] << (half ? 0 : 16);
        }
        if (lanes > 1) at = put_rows(m.entries, 0, rows - tail, p->width, x, at, lanes);
        uint8_t head = (uint8_t)(log_lanes | (adapt ? FLAG_ADAPT : 0) | (m.escape_bytes ? FLAG_ESCAPES : 0));
        length = 1;
        for (int k = 0; k < lanes; k++) {
            const int bytes = lanes == 8 || x[k] >> 40 ? 6 : 5;
            if (lanes < 8 && bytes == 6) head |= (uint8_t)(16 << k);
            for (int i = 0; i < bytes; i++) out[length++] = (uint8_t)(x[k] >> 8 * i);
        }
        out[0] = head;
        if (m.escape_bytes) {
            length = put_varint(out, length, (uint64_t)m.escape_bytes);
            memcpy(out + length, m.escapes, (size_t)m.escape_bytes);
            length += m.escape_bytes;
        }
        for (; at < end; at++) {
            out[length++] = (uint8_t)*at;
            out[length++] = (uint8_t)(*at >> 8);
        }
        if (!adapt || (uint64_t)length <= plain + 8 + (uint64_t)m.escape_bytes) return length;
        adapt = 0; /* adaptation costs more than it saves */
    }
}

/* ---- decoder --------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end; /* remaining words */
} reader;

/* One step. If words are seldom read, a branch is predicted and costs nothing; otherwise there must be none. */
INLINE uint64_t get(uint64_t x, const bank *b, int32_t shift, uint32_t context, const uint8_t **in, uint16_t *index,
                    const int seldom) {
    const uint32_t slot = (uint32_t)x & 0xffff;
    const uint32_t *entries = b->entries + context * (uint32_t)b->stride;
    uint32_t i = b->buckets[context * BUCKET_STEP + (slot >> shift)];
    uint32_t entry = entries[i];
    while (RARELY(slot - (entry & 0xffff) > entry >> 16)) entry = entries[++i];
    *index = (uint16_t)i;
    x = (uint64_t)((entry >> 16) + 1) * (x >> 16) + slot - (entry & 0xffff);
    const unsigned low = x < LOW;
    if (seldom && !low) return x;
    const uint64_t word = (uint64_t)(*in)[0] | (uint64_t)(*in)[1] << 8;
    *in += 2 * low;
    return x << 16 * low | (word & (0 - (uint64_t)low));
}

INLINE void get_row(uint64_t *states, const work *w, int32_t n, const uint8_t **in, const int lanes, const int seldom) {
    uint64_t x[MAX_LANES];
    const uint8_t *at = *in;
    const int32_t shift = w->b.shift;
    const uint8_t *restrict context = w->context;
    uint16_t *restrict indexes = w->indexes;
    int32_t i = 0;
    UNROLL for (int k = 0; k < lanes; k++) x[k] = states[k];
    for (; i + lanes <= n; i += lanes) {
        UNROLL for (int k = 0; k < lanes; k++) x[k] = get(x[k], &w->b, shift, context[i + k], &at, indexes + i + k, seldom);
    }
    UNROLL for (int k = 0; k < lanes; k++) states[k] = x[k];
    for (int k = 0; i < n; i++, k++) states[k] = get(states[k], &w->b, shift, context[i], &at, indexes + i, seldom);
    *in = at;
}

/* The same near the end of the words: every read is checked. */
static int get_row_safely(uint64_t *states, const work *w, int32_t n, reader *in, int lanes) {
    for (int32_t i = 0; i < n; i++) {
        static const uint8_t none[2];
        const uint8_t *at = in->end - in->at < 2 ? none : in->at, *after = at;
        states[i % lanes] = get(states[i % lanes], &w->b, w->b.shift, w->context[i], &after, w->indexes + i, 0);
        if (after != at) {
            if (at == none) return CORRUPT;
            in->at = after;
        }
    }
    return 0;
}

static int get_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 35 && *at < end; shift += 7) {
        const uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return byte || !shift ? 0 : CORRUPT;
    }
    return CORRUPT;
}

/* Indexes of a row to values; escapes are read on the way. */
INLINE int to_values(const sr_tables *t, const sr_plane *p, const work *w, int32_t c, int32_t *out, reader *escapes) {
    const int32_t n = p->width;
    uint32_t escaped = 0;
    if (p->indexes) {
        for (int32_t i = 0; i < n; i++) {
            const int32_t k = w->context[i];
            out[i] = (int32_t)((uint32_t)t->offsets[k] + w->indexes[i]);
            escaped |= w->indexes[i] == t->symbols[k] - 1;
        }
    } else {
        const uint32_t offset = (uint32_t)t->offsets[c];
        const uint16_t last = (uint16_t)(t->symbols[c] - 1);
        for (int32_t i = 0; i < n; i++) {
            out[i] = (int32_t)(offset + w->indexes[i]);
            escaped |= w->indexes[i] == last;
        }
    }
    if (!RARELY(escaped)) return 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t k = p->indexes ? w->context[i] : c;
        const int32_t last = t->symbols[k] - 1;
        uint64_t folded;
        if (w->indexes[i] != last) continue;
        if (get_varint(&escapes->at, escapes->end, &folded)) return CORRUPT;
        const int64_t half = (int64_t)(folded >> 1);
        const int64_t value = folded & 1 ? (int64_t)t->offsets[k] - 1 - half : (int64_t)t->offsets[k] + last + half;
        if (value != (int32_t)value) return CORRUPT;
        out[i] = (int32_t)value;
    }
    return 0;
}

CLONES("arch=x86-64-v3") static int decode(const sr_tables *t, const sr_plane *p, work *w, int adapt, int lanes, uint64_t *x, reader in,
                         reader escapes, uint8_t *tail_space) {
    const int32_t n = p->width;
    const int64_t rows = (int64_t)p->channels * p->height, tail = tail_rows(rows, lanes);
    int64_t words = n; /* running mean per row */
    for (int64_t row = 0; row < rows; row++) {
        const int32_t c = (int32_t)(row / p->height), r = (int32_t)(row % p->height);
        if (!r) enter(w, t, p, c, adapt);
        if (lanes > 1 && row == rows - tail) { /* the other lanes' states hold words now */
            const int64_t left = in.end - in.at;
            if (left > 2 * tail * n) return CORRUPT;
            memcpy(tail_space, in.at, (size_t)left);
            in.at = tail_space, in.end = tail_space + left;
            for (int k = 1; k < lanes; k++) {
                if (x[k] >> 32 != 1) return CORRUPT;
                const uint8_t words[4] = {(uint8_t)(x[k] >> 16), (uint8_t)(x[k] >> 24), (uint8_t)x[k], (uint8_t)(x[k] >> 8)};
                memcpy(tail_space + left + 4 * (k - 1), words, 4);
                in.end += 4;
            }
        }
        choose(w, p, row, r, adapt);
        const int now = row >= rows - tail ? 1 : lanes;
        if (in.end - in.at < 2ll * n + 2) {
            if (get_row_safely(x, w, n, &in, now)) return CORRUPT;
        } else {
            const uint8_t *before = in.at;
            switch (now * 2 + (words * 16 < n)) {
            case 2: get_row(x, w, n, &in.at, 1, 0); break;
            case 3: get_row(x, w, n, &in.at, 1, 1); break;
            case 4: get_row(x, w, n, &in.at, 2, 0); break;
            case 5: get_row(x, w, n, &in.at, 2, 1); break;
            case 8: get_row(x, w, n, &in.at, 4, 0); break;
            case 9: get_row(x, w, n, &in.at, 4, 1); break;
            case 16: get_row(x, w, n, &in.at, 8, 0); break;
            default: get_row(x, w, n, &in.at, 8, 1); break;
            }
            words = (words + (in.at - before) / 2) / 2;
        }
        int32_t *values = p->symbols ? p->symbols + row * n : w->values;
        if (to_values(t, p, w, c, values, &escapes)) return CORRUPT;
        if (!p->symbols)
            for (int32_t i = 0; i < n; i++) p->latent[row * n + i] = (float)values[i] / t->scale[c] + t->shift[c];
        if (adapt) {
            place(w->context, w->indexes, (uint32_t)w->b.stride, w->wide, w->at);
            leave_row(w, t, p, w->indexes, c, r);
        }
    }
    while (in.at < in.end && in.end - in.at <= 4 * (lanes - 1) && !*in.at) in.at++; /* unused initial states */
    return x[0] == LOW && in.at == in.end && escapes.at == escapes.end ? 0 : CORRUPT;
}

/* Read a payload into p->symbols or p->latent; 0, or CORRUPT. */
API int64_t sr_decode(const sr_tables *t, const sr_plane *p, const uint8_t *data, int64_t length, uint8_t *space,
                      int64_t room) {
    const uint8_t *at = data, *end = data + length;
    if (length < 1) return CORRUPT;
    const uint8_t head = *at++;
    const int lanes = 1 << (head & 3), adapt = (head & FLAG_ADAPT) != 0;
    if (head >> 4 && (lanes == 8 || head >> (4 + lanes))) return CORRUPT;
    if (adapt && !t->priors && !p->indexes) return CORRUPT;
    uint64_t x[MAX_LANES];
    for (int k = 0; k < lanes; k++) {
        const int bytes = lanes == 8 || head >> (4 + k) & 1 ? 6 : 5;
        if (end - at < bytes) return CORRUPT;
        x[k] = 0;
        for (int i = 0; i < bytes; i++) x[k] |= (uint64_t)*at++ << 8 * i;
        if (x[k] < LOW || (lanes < 8 && bytes == 6 && !(x[k] >> 40))) return CORRUPT;
    }
    reader escapes = {at, at};
    if (head & FLAG_ESCAPES) {
        uint64_t bytes;
        if (get_varint(&at, end, &bytes) || !bytes || bytes > (uint64_t)(end - at)) return CORRUPT;
        escapes.at = at, escapes.end = at += bytes;
    }
    if ((end - at) % 2) return CORRUPT;
    work w;
    arena a = {space, space + room};
    uint8_t *tail_space = take(&a, 2 * p->width * tail_rows((int64_t)p->channels * p->height, MAX_LANES) + 64);
    if (!tail_space || prepare(&w, &a, t, p, adapt, 1)) return NO_ROOM;
    reader in = {at, end};
    return decode(t, p, &w, adapt, lanes, x, in, escapes, tail_space);
}
