/* What JavaScript calls: input(bytes) -> address of the pixels, encode(...), output() -> address of the packet; for
 * streams begin(number), then frame(...). */
#define SR_STREAMS
#include "splitreg_model.c"

#include "stream.c"

#define EXPORT(name) __attribute__((export_name(name)))

extern unsigned char __heap_base;
static uint8_t wasm_packet[SPLITREG_MODEL_MAX_PACKET];
static const int32_t wasm_info[7] = {
    (int32_t)SR_MODEL_ID, SR_INPUT_HEIGHT, SR_INPUT_WIDTH, SR_RATES, SR_CHANNELS, SR_HEIGHT, SR_WIDTH,
};

/* There is no C library. */
__attribute__((no_builtin("memset"))) void *memset(void *to, int value, size_t count) {
    for (uint8_t *at = to, *end = at + count; at < end; at++) *at = (uint8_t)value;
    return to;
}
__attribute__((no_builtin("memcpy", "memmove"))) void *memmove(void *to, const void *from, size_t count) {
    uint8_t *d = to;
    const uint8_t *s = from;
    if (d <= s)
        for (size_t i = 0; i < count; i++) d[i] = s[i];
    else
        for (size_t i = count; i > 0; i--) d[i - 1] = s[i - 1];
    return to;
}
void *memcpy(void *to, const void *from, size_t count) { return memmove(to, from, count); }
__attribute__((no_builtin("memcmp", "bcmp"))) int memcmp(const void *a, const void *b, size_t count) {
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < count; i++)
        if (x[i] != y[i]) return x[i] - y[i];
    return 0;
}

EXPORT("info") const int32_t *wasm_get_info(void) { return wasm_info; }
EXPORT("output") uint8_t *wasm_output(void) { return wasm_packet; }
EXPORT("input") uint8_t *wasm_input(uint32_t bytes) {
    const uint64_t need = (uint64_t)(uintptr_t)&__heap_base + bytes, have = (uint64_t)__builtin_wasm_memory_size(0) << 16;
    if (need > have && __builtin_wasm_memory_grow(0, (size_t)((need - have + 65535) >> 16)) == (size_t)-1) return 0;
    return &__heap_base;
}
static int wasm_describe(int32_t width, int32_t height, int32_t format, splitreg_model_image *image) {
    static const int32_t bytes[] = {3, 4, 1, 2};
    if (format < 0 || format > SPLITREG_MODEL_RGB565) return 0;
    *image = (splitreg_model_image){width, height, format, 0, {&__heap_base}, {width * bytes[format]}};
    return 1;
}
EXPORT("encode") int32_t wasm_encode(int32_t width, int32_t height, int32_t format, int32_t rate) {
    splitreg_model_image image;
    if (!wasm_describe(width, height, format, &image)) return SPLITREG_MODEL_BAD_IMAGE;
    return splitreg_model_encode(&image, rate, wasm_packet, sizeof wasm_packet);
}
EXPORT("begin") void wasm_begin(uint32_t number) { sr_begin_stream(number); }
EXPORT("frame") int32_t wasm_frame(int32_t width, int32_t height, int32_t format, int32_t rate, int32_t key) {
    splitreg_model_image image;
    if (!wasm_describe(width, height, format, &image)) return SPLITREG_MODEL_BAD_IMAGE;
    return sr_encode_frame(&image, rate, key, wasm_packet);
}
