/* Label maps: each label is coded given its neighbours and the map before. Integers only.
 *
 * splitreg/coding/labels_numpy.py does the same, byte for byte, and explains the steps; labels.py has the constants.
 * The neighbours of a label, in the order of the array `n`:
 *
 *         NNW NN  NNE
 *     NWW NW  N   NE  NEE
 *     WW  W   .
 */
#include "export.h"
#include "mixing.h"

enum { W, N, NW, NE, WW, NN, NNE, NNW, NEE, NWW, NEIGHBOURS };
enum { CLASSES = 32, BANDS = 16, RIVALS = 2, TRIES = 6, TREE = 256 };
enum { PATTERNS = 1 << NEIGHBOURS, BY_CLASS = CLASSES * 64, PAST = 128 * 8, PLACES = BANDS * CLASSES * 8 };
enum { PAIRS = CLASSES * CLASSES, SIDES = 64, PASTS = 16, RIVAL = PAIRS + SIDES + PASTS };
enum { SLOTS = PATTERNS + BY_CLASS + PAST + PLACES + RIVALS * RIVAL + TREE };
enum { FIRST_MIX = 0, RIVAL_MIX = 3, TREE_MIX = 5, LIMIT = 255, TREE_LIMIT = 30 };

typedef struct {
    int32_t height, width;
    uint8_t *labels;
    const uint8_t *previous; /* the map before, or null */
    slot *slots;
    int32_t *weights; /* (6, MAX_INPUTS + 1) */
} sr_labels;

API int64_t sr_labels_slots(void) { return SLOTS; }

static inline int32_t *mixer(const sr_labels *l, int row) { return l->weights + row * (MAX_INPUTS + 1); }

/* What lies dy rows above and dx to the right; `otherwise` outside of the map. */
static inline int look(const sr_labels *l, int32_t y, int32_t x, int32_t dy, int32_t dx, int otherwise) {
    if (y < dy || x + dx < 0 || x + dx >= l->width) return otherwise;
    return l->labels[(int64_t)(y - dy) * l->width + x + dx];
}

static inline int before(const sr_labels *l, int32_t y, int32_t x, int otherwise) {
    if (x < 0 || y < 0 || x >= l->width || y >= l->height) return otherwise;
    return l->previous[(int64_t)y * l->width + x];
}

static void code_label(coder *e, const sr_labels *l, int32_t y, int32_t x) {
    uint8_t *label = l->labels + (int64_t)y * l->width + x;
    const int west = x ? label[-1] : look(l, y, x, 1, 0, 0);
    const int n[NEIGHBOURS] = {
        west, look(l, y, x, 1, 0, west), look(l, y, x, 1, -1, west), look(l, y, x, 1, 1, west), look(l, y, x, 0, -2, west),
        look(l, y, x, 2, 0, west), look(l, y, x, 2, 1, west), look(l, y, x, 2, -1, west), look(l, y, x, 1, 2, west),
        look(l, y, x, 1, -2, west),
    };
    const int guess = west == n[NW] ? n[N] : west; /* an edge goes on as it went in the row above */
    int pattern = 0, equal = 0;
    for (int i = 0; i < NEIGHBOURS; i++) pattern |= (n[i] == guess) << i, equal += n[i] == guess;
    int was = -1, past = 0;
    if (l->previous) {
        was = before(l, y, x, 0);
        const int east = before(l, y, x + 1, was), south = before(l, y + 1, x, was);
        past = 64 | (was == guess) | (east == guess) << 1 | (south == guess) << 2 | (before(l, y + 1, x + 1, south) == guess) << 3;
        past |= (before(l, y, x - 1, was) == west) << 4 | (before(l, y - 1, x, was) == n[N]) << 5;
    }
    const int nearest = pattern & 3, corner = nearest * 2 + (pattern >> NE & 1), class = guess % CLASSES;
    slot *s = l->slots, *by_class = s + PATTERNS, *of_past = by_class + BY_CLASS, *places = of_past + PAST, *rivals = places + PLACES;
    slot *const first[4] = {
        s + pattern, by_class + class * 64 + (pattern & 63), of_past + past * 8 + corner,
        places + ((int64_t)y * BANDS / l->height * CLASSES + class) * 8 + corner,
    };
    const int certain = equal == NEIGHBOURS;
    const int row = FIRST_MIX + (certain ? 0 : equal > 6 ? 1 : 2);
    if (code(e, *label == guess, first, 4, certain ? 1400 : equal * 150 - 700, mixer(l, row), LIMIT)) {
        *label = (uint8_t)guess;
        return;
    }
    const int tries[TRIES] = {west, n[N], n[NE], n[NW], was, n[NN]};
    int refused = guess, tried = 0;
    for (int i = 0; i < TRIES && tried < RIVALS; i++) {
        const int rival = tries[i];
        if (rival < 0 || rival == guess || rival == refused) continue;
        int sides = (west == rival) | (n[N] == rival) << 1 | (n[NE] == rival) << 2 | (n[NW] == rival) << 3;
        sides |= (n[NN] == rival) << 4 | (n[WW] == rival) << 5;
        int pasts = 0;
        if (l->previous) {
            pasts = 8 | (was == rival) | (before(l, y, x + 1, was) == rival) << 1 | (before(l, y + 1, x, was) == rival) << 2;
        }
        slot *r = rivals + tried * RIVAL;
        slot *const chosen[3] = {r + class * CLASSES + rival % CLASSES, r + PAIRS + sides, r + PAIRS + SIDES + pasts};
        if (code(e, *label == rival, chosen, 3, tried ? 0 : 500, mixer(l, RIVAL_MIX + tried), LIMIT)) {
            *label = (uint8_t)rival;
            return;
        }
        refused = rival, tried++;
    }
    slot *tree = rivals + RIVALS * RIVAL;
    int node = 1;
    for (int bit = 7; bit >= 0; bit--) {
        slot *const chosen[1] = {tree + node};
        node = node * 2 + code(e, *label >> bit & 1, chosen, 1, 0, mixer(l, TREE_MIX), TREE_LIMIT);
    }
    *label = (uint8_t)node;
}

static int64_t code_labels(coder *e, const sr_labels *l) {
    for (int32_t y = 0; y < l->height; y++)
        for (int32_t x = 0; x < l->width; x++) code_label(e, l, y, x);
    return coder_end(e);
}

/* Encode l->labels into at most `room` bytes; the length, or CODER_FULL. Slots and weights learn. */
API int64_t sr_labels_encode(const sr_mixing *t, const sr_labels *l, uint8_t *out, int64_t room) {
    coder e;
    coder_write(&e, t, out, room);
    return code_labels(&e, l);
}

/* Decode into l->labels; 0, or CODER_CORRUPT. */
API int64_t sr_labels_decode(const sr_mixing *t, const sr_labels *l, const uint8_t *data, int64_t length) {
    coder e;
    coder_read(&e, t, data, length);
    return code_labels(&e, l);
}
