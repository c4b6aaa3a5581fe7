/* ---- streams: a frame is coded given the frames before it; docs/wire-format.md, "Video streams" ------------------ */

#include "temporal.c"
#include "temporal_tables.h"

enum { SR_PLANE = (SR_WIDTH + 2 * PAD) * (SR_HEIGHT + 2 * PAD), SR_KEY = 1, SR_RATE = 2, SR_LENGTH_BYTES = 5 };
enum { SR_SLOT_COUNT = QUIET_SLOTS + NEAR_SLOTS + PAST_SLOTS + UP_SLOTS + FAR_SLOTS };
enum { SR_SYMBOL_COUNT = sizeof sr_symbols / sizeof *sr_symbols, SR_STREAM_COUNT = 1 + SR_HYPER };

/* What a payload codes: its shape, its place in arrays of all symbols, all channels, and all rows of tables. */
typedef struct {
    int32_t channels, height, width, symbols, first_channel, rows, first_row;
} sr_part;

#if SR_HYPER
static const sr_part sr_parts[] = {
    {SR_HYPER_CHANNELS, SR_HYPER_HEIGHT, SR_HYPER_WIDTH, 0, 0, SR_HYPER_CHANNELS, 0},
    {SR_CHANNELS, SR_HEIGHT, SR_WIDTH, SR_HYPER_SYMBOLS, SR_HYPER_CHANNELS, SR_SCALE_ROWS, SR_HYPER_CHANNELS},
};
enum { SR_CHANNEL_COUNT = SR_HYPER_CHANNELS + SR_CHANNELS, SR_ROW_COUNT = SR_HYPER_CHANNELS + SR_SCALE_ROWS };
#define SR_TABLES_OF(part, position) (&sr_models[part])
#else
static const sr_part sr_parts[] = {{SR_CHANNELS, SR_HEIGHT, SR_WIDTH, 0, 0, SR_CHANNELS, 0}};
enum { SR_CHANNEL_COUNT = SR_CHANNELS, SR_ROW_COUNT = SR_CHANNELS };
#if SR_RATES
#define SR_TABLES_OF(part, position) (&sr_models[sr_chosen[position]])
#else
#define SR_TABLES_OF(part, position) (&sr_models[0])
#endif
#endif

static struct {
    int32_t previous[SR_SYMBOL_COUNT], background[SR_SYMBOL_COUNT], alternative[SR_SYMBOL_COUNT];
    uint8_t votes[SR_SYMBOL_COUNT], age[SR_SYMBOL_COUNT];
    uint32_t rates[SR_CHANNEL_COUNT], inverses[SR_ROW_COUNT];
    int32_t modes[SR_ROW_COUNT], weights[SR_STREAM_COUNT][MIXES * (MAX_INPUTS + 1)];
    slot slots[SR_STREAM_COUNT][SR_SLOT_COUNT];
#if SR_HYPER
    int32_t row_of[SR_CHANNELS * SR_HEIGHT * SR_WIDTH]; /* of every symbol of the latent */
#endif
#if SR_MEANS
    int16_t means[SR_CHANNELS * SR_HEIGHT * SR_WIDTH]; /* that the symbols of the latent are relative to */
#endif
    SR_ALIGNED uint8_t space[3 * SR_PLANE + 16 * SR_WIDTH + 64];
    uint8_t alone[SPLITREG_MODEL_MAX_PACKET]; /* the streams of the frame as a key frame, as in a packet */
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

static int32_t sr_get_varint(const uint8_t **from) {
    int32_t value = 0, shift = 0;
    for (; **from & 128; shift += 7) value |= (*(*from)++ & 127) << shift;
    return value | *(*from)++ << shift;
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
    memcpy(sr_stream.previous, sr_symbols, sizeof sr_symbols);
    memcpy(sr_stream.background, sr_symbols, sizeof sr_symbols);
    memcpy(sr_stream.alternative, sr_symbols, sizeof sr_symbols);
    memset(sr_stream.votes, SR_FIRST_VOTES, sizeof sr_stream.votes);
    memset(sr_stream.age, NEVER, sizeof sr_stream.age);
    memset(sr_stream.slots, 0, sizeof sr_stream.slots);
    for (int c = 0; c < SR_CHANNEL_COUNT; c++) sr_stream.rates[c] = SR_FIRST_RATE;
    for (int part = 0; part < SR_STREAM_COUNT; part++) {
        const sr_tables *t = SR_TABLES_OF(part, position);
        const int32_t first = sr_parts[part].first_row;
        memcpy(sr_stream.weights[part], sr_first_weights, sizeof sr_stream.weights[part]);
        for (int32_t row = 0; row < sr_parts[part].rows; row++)
            sr_stream.modes[first + row] = t->modes[row] + t->offsets[row], sr_stream.inverses[first + row] = t->inverses[row];
    }
#if SR_MEANS
    memcpy(sr_stream.means, sr_arena.coder.means, sizeof sr_stream.means);
#endif
    sr_stream.key_bytes = key_bytes, sr_stream.position = position;
}

#if SR_MEANS
/* Express the symbols of the frame before relative to the means of this one. */
static void sr_follow_means(void) {
    const int16_t *means = sr_arena.coder.means;
    int32_t *const planes[] = {sr_stream.previous, sr_stream.background, sr_stream.alternative};
    if (!memcmp(sr_stream.means, means, sizeof sr_stream.means)) return;
    for (int k = 0; k < 3; k++)
        for (int32_t i = 0; i < SR_CHANNELS * SR_HEIGHT * SR_WIDTH; i++) {
            int32_t *symbol = planes[k] + SR_HYPER_SYMBOLS + i;
            const float value = (float)*symbol + (float)sr_stream.means[i] * SR_MEAN_UNIT, limit = 4194304.0f;
            const float inside = value < -limit ? -limit : value > limit ? limit : value;
            *symbol = (int32_t)sr_rounded_base(inside - (float)means[i] * SR_MEAN_UNIT);
        }
    memcpy(sr_stream.means, means, sizeof sr_stream.means);
}
#endif

/* The temporal payload of a part; its length, or an error, after which the state is of no use. */
static int32_t sr_code_change(int part, uint8_t *out, int32_t room) {
    const sr_part *p = &sr_parts[part];
    const int32_t at = p->symbols;
    const sr_mixing mixing = {sr_squash, sr_stretch, sr_reciprocals};
    const sr_history history = {
        p->channels, p->height, p->width, sr_stream.previous + at, sr_stream.background + at, sr_stream.alternative + at,
        sr_stream.votes + at, sr_stream.age + at, sr_stream.rates + p->first_channel, sr_stream.slots[part],
        sr_stream.weights[part],
    };
    sr_frame frame = {sr_stream.modes + p->first_row, sr_stream.inverses + p->first_row, 0, sr_scores, sr_symbols + at};
#if SR_HYPER
    if (part) {
        for (int32_t i = 0; i < SR_CHANNELS * SR_HEIGHT * SR_WIDTH; i++) sr_stream.row_of[i] = sr_arena.coder.rows[i];
        frame.indexes = sr_stream.row_of;
    }
#endif
    return (int32_t)sr_temporal_encode(&mixing, &history, &frame, sr_stream.space, out, room);
}

/* Write the streams of the frame given the frames before to out[0 .. room); returns their length, or an error, after which
 * the state is of no use. `bytes` gets the length without those of the lengths. */
static int32_t sr_code_changes(uint8_t *out, int32_t room, int32_t *bytes) {
    uint8_t *payloads = out + SR_HYPER * SR_LENGTH_BYTES;
    const int32_t most = 2 * sr_stream.key_bytes + 64;
    int32_t first = 0, length = 0, head = 0;
    room -= SR_HYPER * SR_LENGTH_BYTES;
#if SR_MEANS
    sr_follow_means();
#endif
    for (int part = 0; part < SR_STREAM_COUNT; part++) {
        const int32_t left = room - length, size = sr_code_change(part, payloads + length, most < left ? most : left);
        if (size < 0) return size;
        if (!part) first = size;
        length += size;
    }
    *bytes = length;
    if (SR_HYPER) head = sr_put_varint(out, 0, (uint64_t)first);
    memmove(out + head, payloads, (size_t)length);
    return head + length;
}

/* Encode the next frame into `packet` of SPLITREG_MODEL_MAX_PACKET bytes; returns its length, or an error. All images of
 * a stream have one size. A frame with another rate than the one before is a key frame. */
static int32_t sr_encode_frame(const splitreg_model_image *image, int32_t rate, int key, uint8_t *packet) {
    enum { HEAD = 2, TAIL = 4 };
    if (image->width < 1 || image->height < 1 || image->width > SPLITREG_MODEL_MAX_WIDTH || image->height > 65535)
        return SPLITREG_MODEL_BAD_IMAGE;
    if (rate > 255 || (rate >= 0 && !SR_RATES)) return SPLITREG_MODEL_BAD_RATE;
    sr_begin_image(image);
    const int32_t alone = sr_analyse_and_code(rate, sr_stream.alone, sizeof sr_stream.alone - HEAD - TAIL);
    if (alone < 0) return alone;
    const uint8_t *from = sr_stream.alone;
    const int32_t first = SR_HYPER ? sr_get_varint(&from) - SR_RATES : 0, position = SR_RATES ? *from++ : 0;
    const int32_t alone_bytes = alone - (int32_t)(from - sr_stream.alone), before = sr_stream.key_bytes;
    int32_t change = -1, change_bytes = 0, length = HEAD;
    if (!key && before && position == sr_stream.position)
        change = sr_code_changes(packet + HEAD, SPLITREG_MODEL_MAX_PACKET - HEAD - TAIL, &change_bytes);
    key = change < 0 || (2 * (int64_t)change_bytes > before && alone_bytes <= change_bytes);
    packet[0] = (uint8_t)(SR_HYPER << 4 | (key ? SR_KEY | SR_NO_CONTEXT << 2 | (SR_RATES ? SR_RATE : 0) : 0));
    packet[1] = ++sr_stream.number;
    if (key) {
        if (SR_RATES) packet[length++] = (uint8_t)position;
        if (SR_HYPER) length = sr_put_varint(packet, length, (uint64_t)first);
        memcpy(packet + length, from, (size_t)alone_bytes);
        length += alone_bytes;
        sr_begin_history(alone_bytes, position);
    } else
        length += change;
    sr_stream.chain = sr_crc(key ? sr_stream.start : sr_stream.chain, packet, length);
    sr_put32(packet + length, sr_stream.chain);
    return length + TAIL;
}
