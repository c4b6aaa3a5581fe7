/* ---- state: everything is static, so one image is encoded at a time --------------------------------------------- */

static struct {
    const @PREFIX@_image *image;
    int32_t top, left, height, width; /* where the image lies in the network's input */
    int32_t source_next;              /* the next row of the source */
    double scale_x, scale_y, support_x, support_y;
    sr_sum rows[3];
} sr_source;

/* Weights of the columns, `taps` for each, zeros behind its own; lines between the two passes of the interpolation. */
static struct {
    int32_t weights[2 * @UPPER@_MAX_WIDTH + 4 * SR_INPUT_WIDTH], taps;
    int32_t whole; /* columns from the left whose taps end before the row does */
    int32_t first[SR_INPUT_WIDTH];
    uint16_t count[SR_INPUT_WIDTH];
    int32_t sums[3][3 * SR_INPUT_WIDTH];
    uint8_t lines[SR_RING][3 * SR_INPUT_WIDTH];
} sr_resize;

#if SR_SUMS > 1
static SR_ALIGNED float sr_sums[SR_SUMS]; /* a row of sums of integers */
#endif
static SR_ALIGNED float sr_latent[SR_CHANNELS * SR_HEIGHT * SR_WIDTH];
#if defined(SR_STREAMS)
/* Of the image encoded last; those of a hyper-latent come first. */
static int32_t sr_symbols[SR_HYPER_SYMBOLS + SR_CHANNELS * SR_HEIGHT * SR_WIDTH];
#endif

/* What is coded: the latent; with a hyperprior, the hyper-latent before it. */
typedef struct {
    int32_t channels, height, width;
    int32_t wide; /* the width in whole vectors */
} sr_shape;

#if SR_HYPER
static sr_shape sr_coded;
#elif !SR_CONTEXT
static const sr_shape sr_coded = {SR_CHANNELS, SR_HEIGHT, SR_WIDTH, SR_WIDE};
#endif

/* Of the coder; the network's rows lie in the same memory, because it has run before. */
typedef struct {
#if SR_CONTEXT
    int32_t symbols[SR_CHANNELS * SR_HEIGHT * SR_WIDTH];
#if SR_RATES
    float scaled[SR_HEIGHT * SR_WIDTH];
#endif
    uint8_t space[SR_CONTEXT_SPACE];
} sr_work;
#else
#if SR_HYPER
    union {
        uint32_t entries[SR_COUNT];
        int16_t maps[SR_MAPS]; /* of the integer networks, which run before the coder */
    };
    float hyper[SR_HYPER_CHANNELS * SR_POSITIONS];    /* whole numbers */
    int16_t rows[SR_CHANNELS * SR_HEIGHT * SR_WIDTH]; /* the row of the scales of every symbol of the latent */
#if SR_MEANS
    int16_t means[SR_CHANNELS * SR_HEIGHT * SR_WIDTH];
#endif
#else
    uint32_t entries[SR_COUNT]; /* start | (frequency - 1) << 16 of every symbol */
#endif
    uint32_t bank[SR_BANK], counts[SR_BANK], scratch[SR_LONGEST];
    int32_t values[SR_HEIGHT * SR_WIDTH];
#if SR_RATES || SR_MEANS
    float scaled[SR_HEIGHT * SR_WIDTH];
#endif
    uint16_t indexes[SR_HEIGHT * SR_WIDTH + 32];
    uint32_t at[SR_WIDE];
    uint8_t context[SR_WIDE], planes[3 * (SR_WIDE + 2)], before[SR_HEIGHT * SR_WIDE];
    uint32_t seen[SR_TABLES], next[SR_TABLES], row_seen[SR_CONTEXTS];
} sr_work;
#endif

static SR_ALIGNED union {
    float rows[SR_ARENA];
    sr_work coder;
} sr_arena;

/* Products are stored before they are added to: no compiler joins the two operations, which would round otherwise. */
static void sr_span(int32_t size, double scale, double support, int32_t i, int32_t *first, int32_t *count) {
    const volatile double center = (i + 0.5) * scale;
    int32_t low = (int32_t)(center - support + 0.5), high = (int32_t)(center + support + 0.5);
    if (low < 0) low = 0;
    if (high > size) high = size;
    *first = low, *count = high - low;
}

static double sr_weight(double scale, double support, int32_t i, int32_t at) {
    const volatile double center = (i + 0.5) * scale;
    const volatile double distance = (at - center + 0.5) * (1.0 / support);
    const double v = distance < 0 ? -distance : distance;
    return v < 1 ? 1 - v : 0;
}

static inline uint8_t sr_clip8(int32_t v) {
    v >>= SR_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static inline uint8_t sr_byte(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

#if !SR_CONTEXT
static void sr_lay_out(const uint32_t *frequencies, int32_t symbols, uint32_t *entries) {
    uint32_t start = 0;
    for (int32_t i = 0; i < symbols; i++) {
        entries[i] = start | (frequencies[i] - 1) << 16;
        start += frequencies[i];
    }
}

static uint32_t sr_patience(uint32_t seen, int32_t symbols) {
    const uint32_t least = symbols > 32 ? (uint32_t)symbols : 32;
    return seen / 2 > least ? seen / 2 : least;
}
#endif

static int32_t sr_put_varint(uint8_t *out, int32_t at, uint64_t value) {
    for (; value >= 128; value >>= 7) out[at++] = (uint8_t)(value | 128);
    out[at++] = (uint8_t)value;
    return at;
}

/* The value of a symbol that is outside of a table of `last` values from `offset`. */
static inline int32_t sr_put_escape(uint8_t *out, int32_t at, int32_t value, int32_t offset, int32_t last) {
    const int64_t below = (int64_t)offset - 1 - value, over = (int64_t)value - offset - last;
    return sr_put_varint(out, at, (uint64_t)(below >= 0 ? 2 * below + 1 : 2 * over));
}

/* Position of the image in the network's input, and the weights of its columns. */
static void sr_begin_image(const @PREFIX@_image *image) {
    const int64_t h = image->height, w = image->width;
    sr_source.image = image;
    sr_source.height = SR_INPUT_HEIGHT, sr_source.width = SR_INPUT_WIDTH;
    if (SR_LETTERBOX) {
        if (h * SR_INPUT_WIDTH >= w * SR_INPUT_HEIGHT)
            sr_source.width = (int32_t)((w * SR_INPUT_HEIGHT * 2 + h) / (2 * h));
        else
            sr_source.height = (int32_t)((h * SR_INPUT_WIDTH * 2 + w) / (2 * w));
        if (sr_source.width < 1) sr_source.width = 1;
        if (sr_source.height < 1) sr_source.height = 1;
    }
    sr_source.top = (SR_INPUT_HEIGHT - sr_source.height) / 2, sr_source.left = (SR_INPUT_WIDTH - sr_source.width) / 2;
    sr_source.source_next = 0;
    sr_source.scale_x = (double)w / sr_source.width, sr_source.scale_y = (double)h / sr_source.height;
    sr_source.support_x = sr_source.scale_x < 1 ? 1 : sr_source.scale_x;
    sr_source.support_y = sr_source.scale_y < 1 ? 1 : sr_source.scale_y;
    for (int i = 0; i < 3; i++) sr_source.rows[i].index = -1;
    static int32_t from, to; /* of the weights that are already there: frames of a video have one size */
    if (sr_source.width == w || (from == w && to == sr_source.width)) return;
    from = (int32_t)w, to = sr_source.width;
    sr_resize.taps = (int32_t)(2 * sr_source.support_x) + 1, sr_resize.whole = 0;
    for (int32_t x = 0; x < sr_source.width; x++) {
        int32_t count, *k = sr_resize.weights + x * sr_resize.taps;
        double total = 0;
        sr_span(image->width, sr_source.scale_x, sr_source.support_x, x, &sr_resize.first[x], &count);
        sr_resize.count[x] = (uint16_t)count;
        sr_resize.whole += sr_resize.first[x] + sr_resize.taps < w;
        for (int32_t i = 0; i < count; i++) total += sr_weight(sr_source.scale_x, sr_source.support_x, x, sr_resize.first[x] + i);
        for (int32_t i = 0; i < sr_resize.taps; i++) {
            const double weight = i < count ? sr_weight(sr_source.scale_x, sr_source.support_x, x, sr_resize.first[x] + i) : 0;
            k[i] = i < count ? (int32_t)(0.5 + weight / total * (1 << SR_BITS)) : 0;
        }
    }
}
