/* Coding with a context model: the tables' probabilities, corrected by a small integer network of the symbols before.
 *
 * Position by position, row by row; at each position, channel by channel. Most symbols are zero. Every
 * other one adds its weights to the sums that it takes part in, so zeros cost nothing. splitreg/coding/context_numpy.py is the same, byte for byte; docs/wire-format.md describes it.
 */
#include <string.h>

#include "export.h"
#include "mixing.h"

#ifndef CONTEXT_CLONES
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(SR_PLAIN)
#define CONTEXT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CONTEXT_CLONES
#endif
#endif

enum { CTX_STEPS = 7, CTX_LEVELS = 16, CTX_FAR = 6, CTX_FRACTION = 4, CTX_NEIGHBOURS = 12 };
enum { ZERO_MIX, SIGN_MIX, STEP_MIX, CTX_MIXES };

typedef struct {
    int32_t shift, low, high;
} sr_rule;

typedef struct {
    int32_t channels, width, units, level; /* C, U, H; level of the rate */
    int32_t stride;                        /* of cdf */
    const int32_t *cdf;                    /* (C, stride) cumulative frequencies, the escape last */
    const int32_t *lengths, *offsets;      /* (C) entries of each row; value of its first symbol */
    const int32_t *table_logits;           /* (C, 2 + CTX_STEPS) */
    const int16_t *around;                 /* (24 C + 1, U) */
    const int16_t *hidden;                 /* (U, U) */
    const int16_t *here;                   /* (U + 2 C, C H) */
    const int16_t *output;                 /* (C, 3, H) */
    const int32_t *around_bias, *hidden_bias, *here_bias, *output_bias;
    const int32_t *first_weights;          /* (CTX_MIXES, MAX_INPUTS + 1) */
    sr_rule rules[4];                      /* of around, hidden, here, output */
} sr_context;

typedef struct {
    slot *slots;                           /* 2 C CTX_LEVELS + CTX_STEPS CTX_LEVELS */
    int32_t *sums;                         /* (3 rows, w + 4 columns, U): first layer, rows in a ring */
    int32_t *units, *next, *here;          /* (U), (U), (C H) */
    int32_t weights[CTX_MIXES * (MAX_INPUTS + 1)];
} context_state;

static int64_t context_slots(const sr_context *m) { return (2ll * m->channels + CTX_STEPS) * CTX_LEVELS; }

static inline int32_t apply(const sr_rule *r, int32_t sum) {
    return clamp(((int64_t)sum + ((1 << r->shift) >> 1)) >> r->shift, r->low, r->high);
}

/* sums += weights * value, for n sums */
CONTEXT_CLONES static void add(int32_t *restrict sums, const int16_t *restrict weights, int32_t value, int32_t n) {
    for (int32_t i = 0; i < n; i++) sums[i] += weights[i] * value;
}

/* The probability of a part of a whole, in 1/65536. */
static inline uint32_t part_of(int64_t part, int64_t whole) { return (uint32_t)clamp((part << 16) / whole, 1, 65535); }

static inline int32_t level_of(int32_t logit) { return clamp((logit + 2048) >> 8, 0, CTX_LEVELS - 1); }

static inline int decide(coder *e, context_state *s, int bit, slot *chosen, int32_t prior, int mix) {
    slot *slots[1] = {chosen};
    return code(e, bit, slots, 1, prior, s->weights + mix * (MAX_INPUTS + 1), 255);
}

static inline int32_t correction(const sr_context *m, const int32_t *units, int32_t c, int decision) {
    const int16_t *w = m->output + (c * 3 + decision) * (int64_t)m->units;
    int32_t sum = m->output_bias[c * 3 + decision];
    for (int32_t i = 0; i < m->units; i++) sum += w[i] * units[i];
    return apply(&m->rules[3], sum);
}

/* Encode or decode how far a symbol is from zero, beyond all steps, by the tables: escape or not, then by bisection. */
static int64_t code_tail(coder *e, const sr_context *m, int32_t c, int positive, int64_t size, int *corrupt) {
    const int32_t *cdf = m->cdf + (int64_t)c * m->stride;
    const int64_t escape = m->lengths[c] - 2, offset = m->offsets[c], sign = positive ? 1 : -1, far = sign * (CTX_STEPS + 1) - offset;
    int64_t low = positive ? (far > 0 ? far : 0) : 0, high = positive ? escape : (far + 1 < escape ? far + 1 : escape);
    const int64_t index = sign * size - offset;
    int escaped = high <= low;
    if (!escaped) {
        const int64_t outside = cdf[escape + 1] - cdf[escape], all = outside + cdf[high] - cdf[low];
        escaped = code_with(e, index < low || index >= high, part_of(outside, all));
    }
    if (escaped) {
        const int64_t found = CTX_STEPS + (int64_t)code_gamma(e, (uint64_t)(size - CTX_STEPS)), place = sign * found - offset;
        if (found == CTX_STEPS || (place >= low && place < high)) *corrupt = 1;
        return found;
    }
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (code_with(e, index >= middle, part_of(cdf[high] - cdf[middle], cdf[high] - cdf[low]))) low = middle;
        else high = middle;
    }
    return sign * (low + offset);
}

/* Encode or decode a symbol; *corrupt is set if it does not fit 32 bits. */
static int32_t code_symbol(coder *e, const sr_context *m, context_state *s, const int32_t *units, int32_t c, int64_t symbol, int *corrupt) {
    const int32_t *logits = m->table_logits + c * (2 + CTX_STEPS);
    int32_t prior = logits[0] + correction(m, units, c, 0);
    if (!decide(e, s, symbol != 0, s->slots + c * CTX_LEVELS + level_of(prior), prior, ZERO_MIX)) return 0;
    prior = logits[1] + correction(m, units, c, 1);
    const int64_t first = (int64_t)m->channels * CTX_LEVELS;
    const int positive = decide(e, s, symbol > 0, s->slots + first + c * CTX_LEVELS + level_of(prior), prior, SIGN_MIX);
    const int64_t size = symbol > 0 ? symbol : -symbol;
    const int32_t further = correction(m, units, c, 2);
    int64_t found = 1;
    for (; found <= CTX_STEPS; found++) {
        prior = logits[1 + found] + further;
        if (!decide(e, s, size > found, s->slots + 2 * first + (found - 1) * CTX_LEVELS + level_of(prior), prior, STEP_MIX)) break;
    }
    if (found > CTX_STEPS) found = code_tail(e, m, c, positive, size, corrupt);
    if (!positive) found = -found;
    if (found != (int32_t)found) *corrupt = 1;
    return (int32_t)found;
}

static int code_position(coder *e, const sr_context *m, context_state *s, int32_t *symbols, int64_t plane, int32_t *rows[3], int32_t x) {
    const int32_t U = m->width, all = m->channels * m->units;
    int32_t *sums = rows[0] + (int64_t)(x + 2) * U;
    int corrupt = 0;
    for (int32_t i = 0; i < U; i++) s->units[i] = apply(&m->rules[0], sums[i]);
    memcpy(s->next, m->hidden_bias, 4 * (size_t)U);
    for (int32_t i = 0; i < U; i++)
        if (s->units[i]) add(s->next, m->hidden + (int64_t)i * U, s->units[i], U);
    memcpy(s->here, m->here_bias, 4 * (size_t)all);
    for (int32_t i = 0; i < U; i++) {
        const int32_t unit = apply(&m->rules[1], s->next[i]);
        if (unit) add(s->here, m->here + (int64_t)i * all, unit, all);
    }
    for (int32_t c = 0; c < m->channels; c++) {
        int32_t *here = s->here + c * m->units, *symbol = symbols + c * plane + x;
        for (int32_t i = 0; i < m->units; i++) here[i] = apply(&m->rules[2], here[i]);
        const int64_t found = code_symbol(e, m, s, here, c, e->decoding ? 0 : *symbol, &corrupt);
        if (corrupt) return CODER_CORRUPT;
        if (e->decoding) *symbol = (int32_t)found;
        if (!found) continue;
        const int32_t size = clamp(found < 0 ? -found : found, 0, CTX_FAR), source = found > 0 ? c : m->channels + c;
        const int32_t later = (c + 1) * m->units;
        add(s->here + later, m->here + (int64_t)(U + source) * all + later, size << CTX_FRACTION, all - later);
        for (int n = 0; n < CTX_NEIGHBOURS; n++) { /* as a neighbour of positions to come */
            const int32_t up = n < 10 ? 2 - n / 5 : 0, left = n < 10 ? n % 5 - 2 : n - 12;
            add(rows[up] + (int64_t)(x + 2 - left) * U, m->around + (int64_t)(n * 2 * m->channels + source) * U, size, U);
        }
    }
    return 0;
}

/* A row of sums before any symbol: biases and the level. */
static void clear_row(const sr_context *m, int32_t *row, int32_t columns) {
    for (int32_t i = 0; i < m->width; i++)
        row[i] = m->around_bias[i] + m->around[(int64_t)CTX_NEIGHBOURS * 2 * m->channels * m->width + i] * m->level;
    for (int32_t x = 1; x < columns; x++) memcpy(row + (int64_t)x * m->width, row, 4 * (size_t)m->width);
}

/* `space` has the bytes of ContextTables.workspace. */
static int64_t code_plane(coder *e, const sr_context *m, uint8_t *space, int32_t *symbols, int32_t height, int32_t width) {
    const int64_t row = (int64_t)(width + 4) * m->width;
    context_state s = {.slots = (slot *)(((uintptr_t)space + 15) & ~(uintptr_t)15)};
    s.sums = (int32_t *)(s.slots + context_slots(m));
    s.units = s.sums + 3 * row, s.next = s.units + m->width, s.here = s.next + m->width;
    memset(s.slots, 0, 4 * (size_t)context_slots(m));
    memcpy(s.weights, m->first_weights, sizeof s.weights);
    for (int i = 0; i < 3; i++) clear_row(m, s.sums + i * row, width + 4);
    for (int32_t y = 0; y < height; y++) {
        int32_t *rows[3];
        for (int i = 0; i < 3; i++) rows[i] = s.sums + (y + i) % 3 * row;
        for (int32_t x = 0; x < width; x++)
            if (code_position(e, m, &s, symbols + (int64_t)y * width, (int64_t)height * width, rows, x)) return CODER_CORRUPT;
        clear_row(m, rows[0], width + 4);
    }
    return coder_end(e);
}

/* Encode (C, height, width) symbols into at most `room` bytes; the length, or CODER_FULL. */
API int64_t sr_context_encode(const sr_mixing *t, const sr_context *m, uint8_t *space, const int32_t *symbols, int32_t height, int32_t width, uint8_t *out, int64_t room) {
    coder e;
    coder_write(&e, t, out, room);
    return code_plane(&e, m, space, (int32_t *)symbols, height, width);
}

/* Decode (C, height, width) symbols; 0, or CODER_CORRUPT. */
API int64_t sr_context_decode(const sr_mixing *t, const sr_context *m, uint8_t *space, int32_t *symbols, int32_t height, int32_t width, const uint8_t *data, int64_t length) {
    coder e;
    if (length && !data[length - 1]) return CODER_CORRUPT; /* an encoder leaves zeros out */
    coder_read(&e, t, data, length);
    return code_plane(&e, m, space, symbols, height, width);
}
