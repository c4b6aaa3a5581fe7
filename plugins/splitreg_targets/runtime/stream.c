/* ---- streams: a frame is coded given the frames before it; docs/wire-format.md, "Video streams" ------------------ */

#include "temporal.c"
#include "temporal_tables.h"

enum { SR_SYMBOL_COUNT = SR_CHANNELS * SR_HEIGHT * SR_WIDTH, SR_PLANE = (SR_WIDTH + 2 * PAD) * (SR_HEIGHT + 2 * PAD) };
enum { SR_SLOT_COUNT = QUIET_SLOTS + NEAR_SLOTS + PAST_SLOTS + UP_SLOTS + FAR_SLOTS, SR_KEY = 1, SR_RATE = 2 };

#if SR_RATES
#define SR_CHOSEN(position) sr_chosen[position]
#else
#define SR_CHOSEN(position) 0
#endif

static struct {
    int32_t previous[SR_SYMBOL_COUNT], background[SR_SYMBOL_COUNT], alternative[SR_SYMBOL_COUNT];
    uint8_t votes[SR_SYMBOL_COUNT], age[SR_SYMBOL_COUNT];
    uint32_t rates[SR_CHANNELS], inverses[SR_CHANNELS];
    int32_t modes[SR_CHANNELS], weights[MIXES * (MAX_INPUTS + 1)];
    slot slots[SR_SLOT_COUNT];
    SR_ALIGNED uint8_t space[3 * SR_PLANE + 16 * SR_WIDTH + 64];
    uint8_t alone[SPLITREG_MODEL_MAX_PACKET]; /* the payload of the frame as a key frame, with the byte of the rate */
    uint32_t start, chain;             /* CRC-32 that key frames continue; of the packet before */
    int32_t key_bytes, position;       /* of the last key frame; key_bytes is 0 if there is none */
    uint8_t number;                    /* of the last frame */
} sr_stream; /* zeros, so that the file does not hold it */

static int32_t sr_put_decimal(uint8_t *out, int32_t length, uint32_t value, uint8_t end) {
    uint8_t digits[10];
    int32_t count = 0;
    do digits[count++] = (uint8_t)('0' + value % 10);
    while (value /= 10);
    while (count) out[length++] = digits[--count];
    if (end) out[length++] = end;
    return length;
}

/* Begin a stream; its first frame is a key frame. */
static void sr_begin_stream(uint32_t number) {
    const uint32_t values[5] = {SR_MODEL_ID, number, SR_CHANNELS, SR_HEIGHT, SR_WIDTH};
    uint8_t text[64];
    int32_t length = 0;
    for (int i = 0; i < 5; i++) length = sr_put_decimal(text, length, values[i], i < 4 ? ' ' : 0);
    sr_stream.start = sr_crc(0, text, length);
    sr_stream.key_bytes = 0, sr_stream.number = 255;
}

/* The state of both sides after a key frame. */
static void sr_begin_history(int32_t key_bytes, int32_t position) {
    const sr_tables *t = &sr_models[SR_CHOSEN(position)];
    memcpy(sr_stream.previous, sr_symbols, sizeof sr_symbols);
    memcpy(sr_stream.background, sr_symbols, sizeof sr_symbols);
    memcpy(sr_stream.alternative, sr_symbols, sizeof sr_symbols);
    memset(sr_stream.votes, SR_FIRST_VOTES, sizeof sr_stream.votes);
    memset(sr_stream.age, NEVER, sizeof sr_stream.age);
    memset(sr_stream.slots, 0, sizeof sr_stream.slots);
    memcpy(sr_stream.weights, sr_first_weights, sizeof sr_stream.weights);
    for (int c = 0; c < SR_CHANNELS; c++) {
        sr_stream.rates[c] = SR_FIRST_RATE;
        sr_stream.modes[c] = t->modes[c] + t->offsets[c], sr_stream.inverses[c] = t->inverses[c];
    }
    sr_stream.key_bytes = key_bytes, sr_stream.position = position;
}

/* The temporal payload of the symbols; its length, or an error, after which the state is of no use. */
static int32_t sr_code_change(uint8_t *out, int32_t room) {
    const sr_mixing mixing = {sr_squash, sr_stretch, sr_reciprocals};
    const sr_history history = {
        SR_CHANNELS, SR_HEIGHT, SR_WIDTH, sr_stream.previous, sr_stream.background, sr_stream.alternative,
        sr_stream.votes, sr_stream.age, sr_stream.rates, sr_stream.slots, sr_stream.weights,
    };
    const sr_frame frame = {sr_stream.modes, sr_stream.inverses, 0, sr_scores, sr_symbols};
    return (int32_t)sr_temporal_encode(&mixing, &history, &frame, sr_stream.space, out, room);
}

/* Encode the next frame into `packet` of SPLITREG_MODEL_MAX_PACKET bytes; returns its length, or an error. All images of
 * a stream have one size. A frame with another rate than the one before is a key frame. */
static int32_t sr_encode_frame(const splitreg_model_image *image, int32_t rate, int key, uint8_t *packet) {
    if (image->width < 1 || image->height < 1 || image->width > SPLITREG_MODEL_MAX_WIDTH || image->height > 65535)
        return SPLITREG_MODEL_BAD_IMAGE;
    if (rate > 255 || (rate >= 0 && !SR_RATES)) return SPLITREG_MODEL_BAD_RATE;
    sr_begin_image(image);
    int32_t alone = sr_analyse_and_code(rate, sr_stream.alone, sizeof sr_stream.alone), change = -1, length = 2;
    if (alone < 0) return alone;
    alone -= SR_RATES;
    const int32_t position = SR_RATES ? sr_stream.alone[0] : 0, before = sr_stream.key_bytes;
    const int32_t room = 2 * before + 64, most = SPLITREG_MODEL_MAX_PACKET - 6;
    if (!key && before && position == sr_stream.position)
        change = sr_code_change(packet + length, room < most ? room : most);
    key = change < 0 || (2 * (int64_t)change > before && alone <= change);
    packet[0] = (uint8_t)(key ? SR_KEY | (SR_RATES ? SR_RATE : 0) : 0);
    packet[1] = ++sr_stream.number;
    if (key) {
        memcpy(packet + length, sr_stream.alone, (size_t)(alone + SR_RATES));
        length += alone + SR_RATES;
        sr_begin_history(alone, position);
    } else
        length += change;
    sr_stream.chain = sr_crc(key ? sr_stream.start : sr_stream.chain, packet, length);
    sr_put32(packet + length, sr_stream.chain);
    return length + 4;
}
