/* ---- definitions ------------------------------------------------------------------------------------------------ */

#include <stddef.h>

#include "@FILE@.h"

/* The compiler's own, or the C library's; declared here because not every toolchain has <string.h>. */
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);

#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "floats are not computed as floats here, so latents would be rounded otherwise; on 32-bit x86 use -msse2 -mfpmath=sse"
#endif

#if defined(__clang__)
#define SR_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define SR_UNROLL _Pragma("GCC unroll 32")
#else
#error "this file needs GCC or clang"
#endif
#define SR_JOIN_(a, b) a##b
#define SR_JOIN(a, b) SR_JOIN_(a, b)
#define SR_ALIGNED __attribute__((aligned(64)))

/* Activations; p and q are their parameters. */
enum { SR_NONE, SR_RELU, SR_CLIP, SR_LEAKY, SR_ABS, SR_HSWISH, SR_HSIGMOID, SR_SIGMOID, SR_SQRT, SR_SQUARE, SR_RECIPROCAL, SR_QUANT };
enum { SR_ADD, SR_SUB, SR_MUL, SR_DIV };
enum { SR_CONTEXTS = 6, SR_MAX_LANES = 8, SR_SAMPLED = 4, SR_FILL = 114, SR_BITS = 22, SR_RING = 4 };
enum { SR_FLAG_ADAPT = 4, SR_FLAG_ESCAPES = 8, SR_NO_ROOM = -3 };
#define SR_LOW (1ull << 32) /* states of the coder are in [2^32, 2^48) */
#define SR_TOTAL 65536u

/* Tables of one model: a row per channel. A row's frequencies begin at `start`, its priors at 6 times `start`. */
typedef struct {
    int32_t bits, adapted;
    const uint16_t *symbols, *modes;
    const int32_t *offsets, *start;
    const uint32_t *inverses;
    const uint16_t *frequencies, *costs, *priors;
    const float *shift, *scale;
} sr_tables;

typedef uint8_t sr_bytes16 __attribute__((vector_size(16)));
typedef int32_t sr_int4 __attribute__((vector_size(16)));

#if defined(__clang__) || __GNUC__ >= 12
#define SR_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define SR_SHUFFLE(v, ...) __builtin_shuffle(v, (__typeof__(v)){__VA_ARGS__})
#endif

/* A row of the resized image that is being summed up. */
typedef struct {
    int32_t index, first, count;
    double total;
} sr_sum;

/* exp by a polynomial of 2^x; relative error below 2e-7. */
static inline float sr_exp(float v) {
    v = v > 88.0f ? 88.0f : v < -87.0f ? -87.0f : v;
    const float x = v * 1.44269504f;
    const int32_t whole = (int32_t)(x < 0 ? x - 0.5f : x + 0.5f);
    const float r = v - (float)whole * 0.693359375f + (float)whole * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f, y = y * r + 8.3334519073e-3f, y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f, y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    union {
        int32_t i;
        float f;
    } power = {(whole + 127) * (1 << 23)};
    return y * power.f;
}
