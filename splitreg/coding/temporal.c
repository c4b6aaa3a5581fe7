/* Temporal coding: the symbols of a frame, given those of the frames before it.
 *
 * For each symbol, "is it the one of the previous frame?", and where it is not, the direction and the distance. A row's
 * symbols whose neighbourhood is quiet share one answer. All probabilities are learned since the last key frame.
 * splitreg/coding/temporal_numpy.py is the same, byte for byte; docs/wire-format.md describes it.
 */
#include <string.h>

#include "export.h"
#include "mixing.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(SR_PLAIN)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

enum { NEVER = 255, MAX_VOTES = 20, MAX_COUNT = 8, UNARY = 20, QUIET = -1350, PAD = 2 };
/* Slots: of quiet rows, of changes by neighbours and by history, of directions, of distances. */
enum { QUIET_SLOTS = 8 * 16 * 2, NEAR_SLOTS = 225 * 16, PAST_SLOTS = 60 * 16 * 8, UP_SLOTS = 15 * 4 * 7 + 225, FAR_SLOTS = 512 + 256 + 288 };
enum { QUIET_MIX, CHANGE_MIX, UP_MIX, FAR_MIX, MIXES = FAR_MIX + 3 };
enum { SCORES = 18, S_BIAS = 0, S_W, S_WW, S_N, S_NW, S_NE, S_NN, S_BELOW, S_BELOW4, S_COUNT, S_COUNT4, S_AGE, S_AWAY = S_AGE + 4, S_MAGNITUDE, S_RATE };

/* What both sides keep of a stream; splitreg/coding/temporal.py allocates it. */
typedef struct {
    int32_t channels, height, width;
    int32_t *previous;    /* (channels, height, width) symbols of the frame before */
    int32_t *background;  /* what they are most of the time */
    int32_t *alternative; /* what they were before their last change */
    uint8_t *votes;       /* how sure the background is */
    uint8_t *age;         /* frames since the last change, at most NEVER */
    uint32_t *rates;      /* (channels) fraction that changes, in 1/65536 */
    slot *slots;          /* (QUIET_SLOTS + ...) */
    int32_t *weights;     /* (MIXES, MAX_INPUTS + 1) */
} sr_history;

typedef struct {
    const int32_t *modes;     /* (rows) most frequent symbol */
    const uint32_t *inverses; /* (rows) see rans.c */
    const int32_t *indexes;   /* (channels, height, width) row of each symbol, or NULL: a row per channel */
    const int32_t *scores;    /* (SCORES) logits of a change */
    int32_t *symbols;         /* (channels, height, width) to encode, or where to decode to */
} sr_frame;

typedef struct {
    int64_t stride;                     /* of padded planes */
    uint8_t *changed, *below, *count;   /* padded: this channel, the one before, how many channels so far */
    int32_t *order;             /* (width) */
    int16_t *score, *magnitude; /* (width) */
    uint8_t *quiet;             /* (width) */
} workspace;

API int64_t sr_temporal_slots(void) { return QUIET_SLOTS + NEAR_SLOTS + PAST_SLOTS + UP_SLOTS + FAR_SLOTS; }

static int64_t padded(const sr_history *h) { return (int64_t)(h->width + 2 * PAD) * (h->height + 2 * PAD); }

API int64_t sr_temporal_workspace(const sr_history *h) { return 3 * padded(h) + 16ll * h->width + 64; }

/* Logits of a change before the row's own symbols are known, and which of them are quiet; returns their number.
 *
 * All sums are below 2^15 for the scores of temporal_state.py, so they are computed in 16 bits. */
CLONES static int32_t score_row(const sr_history *h, const sr_frame *f, const workspace *w, int32_t c, int32_t y, int32_t rate) {
    const int32_t n = h->width;
    const int64_t at = ((int64_t)c * h->height + y) * n, p = (y + PAD) * w->stride + PAD, stride = w->stride;
    const int32_t *restrict previous = h->previous + at, *restrict background = h->background + at;
    const uint8_t *restrict age = h->age + at;
    const uint8_t *restrict up = w->changed + p - stride, *restrict up2 = up - stride;
    const uint8_t *restrict below = w->below + p, *restrict count = w->count + p;
    int16_t *restrict score = w->score, *restrict magnitude = w->magnitude, s[SCORES];
    uint8_t *restrict quiet = w->quiet;
    int32_t quiets = 0;
    for (int k = 0; k < SCORES; k++) s[k] = (int16_t)f->scores[k];
    s[S_BIAS] = (int16_t)(s[S_BIAS] + rate);
    for (int32_t x = 0; x < n; x++) {
        const int32_t row = f->indexes ? f->indexes[at + x] : c, mode = f->modes[row];
        uint32_t d = previous[x] > mode ? (uint32_t)previous[x] - (uint32_t)mode : (uint32_t)mode - (uint32_t)previous[x];
        d = (d < 4096 ? d : 4096) * f->inverses[row] >> 8;
        magnitude[x] = (int16_t)(d < 64 ? d : 64);
    }
    for (int32_t x = 0; x < n; x++) {
        const int16_t around = (int16_t)(below[x - 1] + below[x + 1] + below[x - stride] + below[x + stride]);
        const int16_t counts = (int16_t)(count[x - 1] + count[x + 1] + count[x - stride] + count[x + stride]);
        int16_t v = (int16_t)(s[S_BIAS] + (magnitude[x] * s[S_MAGNITUDE] >> 4));
        v = (int16_t)(v + up[x] * s[S_N] + up[x - 1] * s[S_NW] + up[x + 1] * s[S_NE] + up2[x] * s[S_NN]);
        v = (int16_t)(v + below[x] * s[S_BELOW] + around * s[S_BELOW4] + count[x] * s[S_COUNT] + counts * s[S_COUNT4]);
        v = (int16_t)(v + (age[x] < 2) * s[S_AGE] + (age[x] < 4) * s[S_AGE + 1] + (age[x] < 12) * s[S_AGE + 2]);
        score[x] = (int16_t)(v + (age[x] < NEVER) * s[S_AGE + 3]);
    }
    for (int32_t x = 0; x < n; x++) {
        score[x] = (int16_t)(score[x] + (previous[x] != background[x]) * s[S_AWAY]);
        quiet[x] = score[x] < QUIET;
        quiets += quiet[x];
    }
    return quiets;
}

/* Whether a quiet symbol of the row has changed. */
CLONES static int32_t hides(const int32_t *restrict symbols, const int32_t *restrict previous, const uint8_t *restrict quiet, int32_t n) {
    int32_t hidden = 0;
    for (int32_t x = 0; x < n; x++) hidden |= quiet[x] & (symbols[x] != previous[x]);
    return hidden;
}

/* How many bits a number has, at most `most`. */
static inline int32_t bits_of(uint32_t v, int32_t most) {
    int32_t n = 0;
    for (; v && n < most; v >>= 1) n++;
    return n;
}

static inline int32_t sign(int64_t v) { return (v > 0) - (v < 0); }

/* How a distance that is at least k relates to another: none, reached, beyond, short of it. */
static inline int32_t relation(int64_t target, int32_t k) { return target <= 0 ? 0 : target == k ? 1 : target > k ? 2 : 3; }

static inline int32_t age_class(int32_t age) { return age < 2 ? 0 : age < 4 ? 1 : age < 12 ? 2 : 3; }

/* A symbol's surroundings, as differences from what it was. */
typedef struct {
    int64_t west, north, east, south; /* west and north of this frame, east and south of the one before */
    int64_t background, alternative, mode;
    int32_t moved; /* the largest change of a neighbour, at most 3 */
    int32_t near, history, age, count;
} surroundings;

static inline int32_t moved(const sr_history *h, const sr_frame *f, int64_t i) {
    const int64_t d = (int64_t)f->symbols[i] - h->previous[i];
    return clamp(d < 0 ? -d : d, 0, 3);
}

static surroundings look_around(const sr_history *h, const sr_frame *f, const workspace *w, int32_t c, int32_t y, int32_t x) {
    const int32_t n = h->width;
    const int64_t plane = (int64_t)n * h->height, i = (int64_t)c * plane + (int64_t)y * n + x, was = h->previous[i];
    surroundings s = {0};
    if (x) s.west = f->symbols[i - 1] - was, s.moved = moved(h, f, i - 1);
    if (x + 1 < n) s.east = h->previous[i + 1] - was;
    if (y) {
        const int32_t m = moved(h, f, i - n);
        s.north = f->symbols[i - n] - was, s.moved = m > s.moved ? m : s.moved;
    }
    if (y + 1 < h->height) s.south = h->previous[i + n] - was;
    if (c) {
        const int32_t m = moved(h, f, i - plane);
        s.moved = m > s.moved ? m : s.moved;
    }
    s.background = h->background[i] - was;
    s.alternative = h->alternative[i] - was;
    s.mode = f->modes[f->indexes ? f->indexes[i] : c] - was;
    s.near = ((clamp(s.west, -2, 2) + 2) * 5 + clamp(s.north, -2, 2) + 2) * 9 + (sign(s.east) + 1) * 3 + sign(s.south) + 1;
    s.history = (sign(s.background) + 1) * 5 + clamp(s.alternative, -2, 2) + 2;
    s.age = age_class(h->age[i]);
    s.count = w->count[(y + PAD) * w->stride + PAD + x];
    s.count = s.count < 7 ? s.count : 7;
    return s;
}

/* A symbol that differs from the previous one: direction, distance less one in unary, a long rest in Elias gamma code. */
static int change(coder *e, const sr_history *h, const surroundings *s, int64_t was, int32_t *value) {
    slot *up_slots = h->slots + QUIET_SLOTS + NEAR_SLOTS + PAST_SLOTS, *far_slots = up_slots + UP_SLOTS;
    slot *slots[MAX_INPUTS];
    slots[0] = up_slots + (s->history * 4 + s->age) * 7 + clamp(s->mode, -3, 3) + 3;
    slots[1] = up_slots + 420 + s->near;
    const int up = code(e, *value > was, slots, 2, 0, h->weights + UP_MIX * (MAX_INPUTS + 1), 60);
    const int64_t way = up ? 1 : -1, distance = way * (*value - was);
    int64_t k = 1;
    for (; k < UNARY; k++) {
        const int32_t step = (int32_t)(k < 7 ? k : 7), kk = (int32_t)k;
        slots[0] = far_slots + ((relation(way * s->alternative, kk) * 4 + relation(way * s->background, kk)) * 4 + relation(way * s->mode, kk)) * 8 + step;
        slots[1] = far_slots + 512 + (s->moved * 8 + step) * 8 + s->count;
        const int32_t west = 1 + sign(way * s->west - k), north = 1 + sign(way * s->north - k);
        const int32_t ahead = (way * s->east > k) + (way * s->south > k);
        slots[2] = far_slots + 768 + ((west * 3 + north) * 3 + ahead) * 8 + step;
        int32_t *weights = h->weights + (FAR_MIX + (step < 3 ? step - 1 : 2)) * (MAX_INPUTS + 1);
        if (!code(e, distance > k, slots, 3, -200, weights, 60)) break;
    }
    if (k == UNARY) {
        const int64_t rest = (int64_t)code_gamma(e, (uint64_t)(distance - UNARY + 1));
        if (!rest) return CODER_CORRUPT;
        k = UNARY - 1 + rest;
    }
    const int64_t found = was + way * k;
    if (found != (int32_t)found) return CODER_CORRUPT;
    *value = (int32_t)found;
    return 0;
}

static int code_row(coder *e, const sr_history *h, const sr_frame *f, workspace *w, int32_t c, int32_t y, int32_t busy, int *restless) {
    const int32_t n = h->width, *s = f->scores;
    const int64_t at = ((int64_t)c * h->height + y) * n;
    uint8_t *changed = w->changed + (y + PAD) * w->stride + PAD;
    const int32_t rate = e->tables->stretch[h->rates[c] >> 4] * s[S_RATE] >> 8;
    const int32_t quiet = score_row(h, f, w, c, y, rate);
    int32_t hidden = 0, visited = 0;
    if (e->decoding) memcpy(f->symbols + at, h->previous + at, 4 * (size_t)n);
    else if (quiet) hidden = hides(f->symbols + at, h->previous + at, w->quiet, n);
    if (quiet) {
        slot *slots[1] = {h->slots + (bits_of((uint32_t)quiet, 7) * 16 + bits_of((uint32_t)busy, 15)) * 2 + *restless};
        hidden = code(e, hidden, slots, 1, rate + 90 * bits_of((uint32_t)quiet, 15) + s[S_BIAS], h->weights + QUIET_MIX * (MAX_INPUTS + 1), 255);
        *restless = hidden;
    }
    if (quiet == n && !hidden) return 0;
    for (int32_t x = 0; x < n; x++) {
        w->order[visited] = x;
        visited += hidden | !w->quiet[x];
    }
    slot *near_slots = h->slots + QUIET_SLOTS, *past_slots = near_slots + NEAR_SLOTS;
    for (int32_t v = 0; v < visited; v++) {
        const int32_t x = w->order[v];
        const surroundings around = look_around(h, f, w, c, y, x);
        const int32_t score = w->score[x] + changed[x - 1] * s[S_W] + changed[x - 2] * s[S_WW] + (w->quiet[x] ? 300 : 0);
        const int32_t level = clamp((score + 2000) / 240, 0, 15);
        slot *slots[2] = {near_slots + around.near * 16 + level, past_slots + ((around.history * 4 + around.age) * 16 + level) * 8 + around.count};
        int32_t *value = f->symbols + at + x;
        const int32_t was = h->previous[at + x];
        if (!code(e, *value != was, slots, 2, score, h->weights + CHANGE_MIX * (MAX_INPUTS + 1), 127)) continue;
        changed[x] = 1;
        if (change(e, h, &around, was, value)) return CODER_CORRUPT;
    }
    return 0;
}

/* What both sides remember of a frame. */
CLONES static void remember(const sr_history *h, const int32_t *restrict symbols) {
    const int64_t n = (int64_t)h->channels * h->height * h->width;
    int32_t *restrict previous = h->previous, *restrict background = h->background, *restrict alternative = h->alternative;
    uint8_t *restrict votes = h->votes, *restrict age = h->age;
    for (int64_t i = 0; i < n; i++) {
        const int32_t now = symbols[i], differs = now != previous[i], same = now == background[i];
        const uint8_t sure = (uint8_t)(same ? votes[i] + (votes[i] < MAX_VOTES) : votes[i] - 1);
        age[i] = (uint8_t)(differs ? 1 : age[i] + (age[i] < NEVER));
        alternative[i] = differs ? previous[i] : alternative[i];
        background[i] = sure ? background[i] : now;
        votes[i] = sure ? sure : 1;
        previous[i] = now;
    }
}

static int64_t code_frame(coder *e, const sr_history *h, const sr_frame *f, uint8_t *space) {
    const int64_t plane = padded(h);
    workspace w = {.stride = h->width + 2 * PAD, .changed = space, .below = space + plane, .count = space + 2 * plane};
    w.order = (int32_t *)(((uintptr_t)(space + 3 * plane) + 15) & ~(uintptr_t)15);
    w.score = (int16_t *)(w.order + h->width), w.magnitude = w.score + h->width;
    w.quiet = (uint8_t *)(w.magnitude + h->width);
    memset(space, 0, 3 * (size_t)plane);
    int64_t before = 0;
    for (int32_t c = 0; c < h->channels; c++) {
        int restless = 0;
        uint32_t total = 0;
        const int32_t busy = (int32_t)(before / (c + 1));
        for (int32_t y = 0; y < h->height; y++)
            if (code_row(e, h, f, &w, c, y, busy, &restless)) return CODER_CORRUPT;
        for (int64_t i = 0; i < plane; i++) {
            total += w.changed[i];
            w.count[i] = (uint8_t)(w.count[i] + (w.changed[i] & (w.count[i] < MAX_COUNT)));
        }
        before += total;
        const uint32_t rate = (uint32_t)((7ull * h->rates[c] + 65535ull * total / (uint64_t)(h->width * (int64_t)h->height)) / 8);
        h->rates[c] = rate > 16 ? rate : 16;
        uint8_t *done = w.below;
        w.below = w.changed, w.changed = done;
        memset(w.changed, 0, (size_t)plane);
    }
    const int64_t length = coder_end(e);
    if (length >= 0) remember(h, f->symbols);
    return length;
}

static size_t frame_bytes(const sr_history *h) { return 4 * (size_t)h->channels * (size_t)h->height * (size_t)h->width; }

/* Encode f->symbols into at most `room` bytes; the length, or CODER_FULL, after which the history must be discarded. */
API int64_t sr_temporal_encode(const sr_mixing *t, const sr_history *h, const sr_frame *f, uint8_t *space, uint8_t *out, int64_t room) {
    coder e;
    if (!memcmp(f->symbols, h->previous, frame_bytes(h))) {
        remember(h, f->symbols);
        return 0;
    }
    coder_write(&e, t, out, room);
    const int64_t length = code_frame(&e, h, f, space);
    if (length || !room) return length ? length : CODER_FULL;
    *out = 0; /* because an empty payload is a frame without change */
    return 1;
}

/* Decode into f->symbols; 0, or CODER_CORRUPT, after which the history must be discarded. */
API int64_t sr_temporal_decode(const sr_mixing *t, const sr_history *h, const sr_frame *f, uint8_t *space, const uint8_t *data, int64_t length) {
    coder e;
    if (!length) {
        memcpy(f->symbols, h->previous, frame_bytes(h));
        remember(h, f->symbols);
        return 0;
    }
    if (length > 1 && !data[length - 1]) return CODER_CORRUPT; /* an encoder leaves zeros out */
    coder_read(&e, t, data, length);
    return code_frame(&e, h, f, space);
}
