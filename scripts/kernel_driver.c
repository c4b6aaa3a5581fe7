/* Runs the rANS kernel over a dump of the golden corpus, without Python: kernel_driver CORPUS [PACKETS [SEED]].
 *
 * Every case is encoded (from symbols, and from its latent) and decoded (likewise) and compared to the last byte; then
 * PACKETS damaged or random payloads are decoded. Every buffer has exactly the size that it may use, so that a sanitizer
 * sees each access beyond. scripts/dump_kernel_corpus.py writes the dump; sanitize.sh and cross_check.sh run this.
 */
#include "../splitreg/coding/rans.c"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    sr_tables tables;
    sr_plane plane;
    int32_t adapt, length, values;
    int32_t *symbols;
    float *latent, *restored;
    uint8_t *payload;
} example;

static FILE *file;

static void fail(const char *what, int number) {
    printf("FAILED: %s, case %d\n", what, number);
    exit(1);
}

static int32_t number(void) {
    uint8_t b[4];
    if (fread(b, 1, 4, file) != 4) fail("the dump ends early", -1);
    return (int32_t)((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
}

/* Numbers after their count, in this machine's byte order; NULL if there are none. */
static void *array(void) {
    const int32_t count = number();
    if (!count) return 0;
    int32_t *values = malloc(4 * (size_t)count);
    for (int32_t i = 0; i < count; i++) values[i] = number();
    return values;
}

static void load(example *e) {
    sr_tables *t = &e->tables;
    t->rows = number(), t->stride = number(), t->bits = number();
    e->plane.channels = number(), e->plane.height = number(), e->plane.width = number();
    e->adapt = number();
    number();
    t->symbols = array(), t->offsets = array(), t->modes = array(), t->inverses = array(), t->frequencies = array();
    t->costs = array(), t->priors = array(), t->shift = array(), t->scale = array(), e->plane.indexes = array();
    e->symbols = array(), e->latent = array(), e->restored = array();
    e->values = e->plane.channels * e->plane.height * e->plane.width;
    e->length = number();
    e->payload = malloc((size_t)e->length);
    for (int32_t i = 0; i < (e->length + 3) / 4; i++) {
        const uint32_t four = (uint32_t)number();
        for (int32_t k = 0; k < 4 && 4 * i + k < e->length; k++) e->payload[4 * i + k] = (uint8_t)(four >> 8 * k);
    }
}

static int64_t encode_one(const example *e, const sr_plane *p, uint8_t **out) {
    const int64_t room = sr_workspace(&e->tables, p, 0);
    uint8_t *space = malloc((size_t)room);
    *out = malloc((size_t)sr_bound(p));
    const int64_t length = sr_encode(&e->tables, p, e->adapt, space, room, *out);
    free(space);
    return length;
}

static int64_t decode_one(const example *e, const sr_plane *p, const uint8_t *data, int64_t length) {
    const int64_t room = sr_workspace(&e->tables, p, 1);
    uint8_t *space = malloc((size_t)room);
    const int64_t result = sr_decode(&e->tables, p, data, length, space, room);
    free(space);
    return result;
}

static void check(const example *e, int k) {
    for (int latent = 0; latent < (e->latent ? 2 : 1); latent++) {
        sr_plane p = e->plane;
        uint8_t *out;
        if (latent) p.latent = e->latent;
        else p.symbols = e->symbols;
        const int64_t length = encode_one(e, &p, &out);
        if (length != e->length || memcmp(out, e->payload, (size_t)length)) fail("other bytes", k);
        free(out);
        void *output = malloc(4 * (size_t)e->values);
        p.symbols = latent ? 0 : output, p.latent = latent ? output : 0;
        if (decode_one(e, &p, e->payload, e->length)) fail("the payload is rejected", k);
        if (memcmp(output, latent ? (void *)e->restored : (void *)e->symbols, 4 * (size_t)e->values)) fail("other values", k);
        free(output);
    }
}

static uint64_t state;
static uint32_t below(uint32_t n) { /* xorshift64*, Vigna 2016 */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)((state * 2685821657736338717ull >> 32) % n);
}

/* A damaged copy of a payload (cut, changed, lengthened), or random bytes after a first byte that may be valid. */
static uint8_t *damage(const example *e, int32_t *length) {
    const int32_t max_length = e->length + 16;
    const int kind = (int)below(8);
    int32_t n = kind < 5 ? e->length : kind == 5 ? (int32_t)below((uint32_t)e->length + 1) : (int32_t)below((uint32_t)max_length);
    uint8_t *data = malloc((size_t)(n ? n : 1));
    for (int32_t i = 0; i < n; i++) data[i] = kind < 7 && i < e->length ? e->payload[i] : (uint8_t)below(256);
    if (n && kind == 7) data[0] &= 15;
    if (n && kind < 5) /* many changes near the start, where lengths and states are */
        for (uint32_t i = below(3); i + 1; i--)
            data[below(below(2) && n > 48 ? 48 : (uint32_t)n)] = below(2) ? (uint8_t)below(256) : (uint8_t)(255 * below(2));
    if (n && below(4) == 0) data[0] ^= (uint8_t)(1u << below(8));
    *length = n;
    return data;
}

int main(int argc, char **argv) {
    if (argc < 2 || !(file = fopen(argv[1], "rb"))) {
        fprintf(stderr, "usage: kernel_driver CORPUS [PACKETS [SEED]]\n");
        return 2;
    }
    const long packets = argc > 2 ? atol(argv[2]) : 0;
    state = argc > 3 ? strtoull(argv[3], 0, 10) * 2 + 1 : 1;
    if (sr_init() != ABI) fail("sr_init", -1);
    const int32_t count = number();
    example *all = calloc((size_t)count, sizeof *all);
    for (int32_t k = 0; k < count; k++) {
        load(all + k);
        check(all + k, k);
    }
    long damaged = 0, accepted = 0, recoded = 0;
    for (long i = 0; i < packets; i++) {
        const example *e = all + below((uint32_t)count);
        int32_t length;
        uint8_t *data = damage(e, &length);
        sr_plane p = e->plane;
        void *output = malloc(4 * (size_t)e->values);
        const int latent = e->latent && below(2);
        p.symbols = latent ? 0 : output, p.latent = latent ? output : 0;
        alarm(10); /* a hang ends here */
        const int64_t result = decode_one(e, &p, data, length);
        alarm(0);
        if (result && result != CORRUPT) fail("neither rejected nor read", (int)(e - all));
        const int whole = length == e->length && !memcmp(data, e->payload, (size_t)length);
        damaged += !whole && !latent;
        if (whole ? result != 0 : 0) fail("the payload is rejected", (int)(e - all));
        if (!result && !whole && !latent && ++accepted) {
            example as = *e;
            uint8_t *out;
            as.adapt = data[0] & FLAG_ADAPT;
            const int64_t again = encode_one(&as, &p, &out);
            recoded += again == length && !memcmp(out, data, (size_t)length);
            free(out);
        }
        free(output);
        free(data);
    }
    printf("%d cases reproduced; %ld payloads decoded; of %ld damaged ones (as symbols) %ld accepted, %ld of them as they "
           "would be written\n", count, packets, damaged, accepted, recoded);
    return 0;
}
