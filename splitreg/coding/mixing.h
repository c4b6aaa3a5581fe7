/* A binary range coder whose probabilities are learned: adaptive probabilities mixed in the logistic domain.
 *
 * One function, `code`, encodes or decodes a bit, so that a model of data is written once for both directions. Integers
 * only: every compiler and CPU computes the same. splitreg/coding/mixing.py has the tables and the same steps in Python.
 *
 * Logistic mixing: Mahoney 2005, Florida Tech CS-2005-16. Range coder: Martin 1979; with carries, Schindler 1998.
 */
#ifndef SPLITREG_MIXING_H
#define SPLITREG_MIXING_H
#include <stdint.h>

_Static_assert((-3 >> 1) == -2, "right shifts of negative numbers must be arithmetic");

enum { MAX_INPUTS = 4 };
enum { CODER_FULL = -3, CODER_CORRUPT = -1 };

/* Tables of splitreg/coding/mixing.py. Logits are in 1/256 nats, from -2047 to 2047. */
typedef struct {
    const uint16_t *squash;      /* (4096) logit + 2048 -> probability in 1/65536 */
    const int16_t *stretch;      /* (4096) probability in 1/4096 -> logit */
    const uint16_t *reciprocals; /* (256) step size of a probability after n bits, in 1/65536 */
} sr_mixing;

typedef struct {
    const sr_mixing *tables;
    int decoding;
    uint32_t low, range, value;
    const uint8_t *in, *in_end;
    uint8_t *out, *out_start, *out_end;
    int32_t past_end; /* bytes that were read behind the end, or that did not fit */
} coder;

/* An adaptive probability: its value in 22 bits above the number of bits that it has seen in 10. */
typedef uint32_t slot;

static inline int32_t clamp(int64_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : (int32_t)v; }

static inline uint32_t squash(const sr_mixing *t, int64_t logit) { return t->squash[clamp(logit, -2047, 2047) + 2048]; }

static inline uint8_t next_byte(coder *c) {
    if (c->in < c->in_end) return *c->in++;
    c->past_end++;
    return 0;
}

static void coder_write(coder *c, const sr_mixing *tables, uint8_t *out, int64_t room) {
    *c = (coder){.tables = tables, .range = UINT32_MAX, .out = out, .out_start = out, .out_end = out + room};
}

static void coder_read(coder *c, const sr_mixing *tables, const uint8_t *in, int64_t length) {
    *c = (coder){.tables = tables, .decoding = 1, .range = UINT32_MAX, .in = in, .in_end = in + length};
    for (int i = 0; i < 4; i++) c->value = c->value << 8 | next_byte(c);
}

static inline void carry(coder *c) {
    for (uint8_t *p = c->out; p > c->out_start && ++*--p == 0;) {}
}

static inline void put_byte(coder *c, uint8_t byte) {
    if (c->out < c->out_end) *c->out++ = byte;
    else c->past_end++;
}

/* Encode or decode a bit that is 1 with a probability of p / 65536. */
static inline int code_with(coder *c, int bit, uint32_t p) {
    const uint32_t ones = (c->range >> 16) * p;
    if (c->decoding) {
        bit = c->value < ones;
        if (!bit) c->value -= ones, c->low += ones;
    } else if (!bit) {
        c->low += ones;
        if (c->low < ones) carry(c);
    }
    c->range = bit ? ones : c->range - ones;
    while (c->range < 1u << 24) {
        if (c->decoding) c->value = c->value << 8 | next_byte(c);
        else put_byte(c, (uint8_t)(c->low >> 24));
        c->low <<= 8, c->range <<= 8;
    }
    return bit;
}

/* Encode or decode the lowest `count` bits of a value, with probability 1/2 each, the highest first. */
static inline uint64_t code_plain(coder *c, uint64_t value, int count) {
    uint64_t found = 0;
    while (count-- > 0) found = found << 1 | (uint64_t)code_with(c, (int)(value >> count & 1), 1u << 15);
    return found;
}

/* Encode or decode a number from 1 on in Elias gamma code; 0 if a payload has one that does not fit 33 bits. */
static inline uint64_t code_gamma(coder *c, uint64_t value) {
    int length = 1;
    if (c->decoding) value = 0;
    while (code_with(c, value >> length != 0, 1u << 15))
        if (++length > 33) return 0;
    return 1ull << (length - 1) | code_plain(c, value, length - 1);
}

static inline void learn_bit(const sr_mixing *t, slot *s, int bit, uint32_t most) {
    uint32_t p = *s >> 10, seen = *s & 1023;
    const uint64_t rate = t->reciprocals[seen];
    if (bit) p += (uint32_t)((0x3fffff - p) * rate >> 16);
    else p -= (uint32_t)(p * rate >> 16);
    *s = p << 10 | (seen < most ? seen + 1 : seen);
}

/* Encode or decode a bit.
 *
 * The logits of `count` slots and of `prior` are weighed, and all learn from the bit. A slot that has seen nothing takes
 * the prior's probability. `weights` has count + 1 entries in 1/65536; `most` bounds how slowly a slot learns. */
static inline int code(coder *c, int bit, slot *const *slots, const int count, int32_t prior, int32_t *weights, uint32_t most) {
    const sr_mixing *t = c->tables;
    int32_t logits[MAX_INPUTS + 1];
    prior = clamp(prior, -2047, 2047);
    int64_t sum = (int64_t)weights[count] * prior;
    logits[count] = prior;
    for (int i = 0; i < count; i++) {
        if (!(*slots[i] & 1023)) *slots[i] = squash(t, prior) << 16 | 1;
        logits[i] = t->stretch[*slots[i] >> 20];
        sum += (int64_t)weights[i] * logits[i];
    }
    const uint32_t p = squash(t, sum >> 16);
    bit = code_with(c, bit, p);
    const int64_t error = ((int64_t)bit << 16) - p;
    for (int i = 0; i <= count; i++)
        weights[i] = clamp(weights[i] + ((logits[i] * error + (1 << 14)) >> 15), -(1 << 20), 1 << 20);
    for (int i = 0; i < count; i++) learn_bit(t, slots[i], bit, most);
    return bit;
}

/* End a payload with as few bytes as identify its interval; missing bytes are read as zeros. A decoder accepts those only, so
 * that a payload has one encoding, apart from zeros at its end. */
static int64_t coder_end(coder *c) {
    int bits = 32; /* how many of the last bits may be zero */
    uint64_t end = 0;
    for (;; bits -= 8) {
        const uint64_t ones = (1ull << bits) - 1;
        end = (c->low + ones) & ~ones;
        if (end - c->low < c->range) break;
    }
    if (c->decoding) return c->in == c->in_end && c->value == (uint32_t)(end - c->low) ? 0 : CODER_CORRUPT;
    if (end >> 32) carry(c);
    for (int shift = 24; shift >= bits; shift -= 8) put_byte(c, (uint8_t)(end >> shift));
    if (c->past_end) return CODER_FULL;
    while (c->out > c->out_start && !c->out[-1]) c->out--;
    return c->out - c->out_start;
}
#endif
