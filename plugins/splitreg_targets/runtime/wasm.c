/* What JavaScript calls: input(bytes) -> address of the pixels, encode(...), output() -> address of the packet. */
#include "splitreg_model.c"

#define EXPORT(name) __attribute__((export_name(name)))

extern unsigned char __heap_base;
static uint8_t wasm_packet[SPLITREG_MODEL_MAX_PACKET];
static const int32_t wasm_info[4] = {(int32_t)SR_MODEL_ID, SR_INPUT_HEIGHT, SR_INPUT_WIDTH, SR_RATES};

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

EXPORT("info") const int32_t *wasm_get_info(void) { return wasm_info; }
EXPORT("output") uint8_t *wasm_output(void) { return wasm_packet; }
EXPORT("input") uint8_t *wasm_input(uint32_t bytes) {
    const uint64_t need = (uint64_t)(uintptr_t)&__heap_base + bytes, have = (uint64_t)__builtin_wasm_memory_size(0) << 16;
    if (need > have && __builtin_wasm_memory_grow(0, (size_t)((need - have + 65535) >> 16)) == (size_t)-1) return 0;
    return &__heap_base;
}
EXPORT("encode") int32_t wasm_encode(int32_t width, int32_t height, int32_t format, int32_t rate) {
    static const int32_t bytes[] = {3, 4, 1, 2};
    if (format < 0 || format > SPLITREG_MODEL_RGB565) return SPLITREG_MODEL_BAD_IMAGE;
    const splitreg_model_image image = {width, height, format, 0, {&__heap_base}, {width * bytes[format]}};
    return splitreg_model_encode(&image, rate, wasm_packet, sizeof wasm_packet);
}
