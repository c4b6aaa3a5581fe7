/* ---- vectors ---------------------------------------------------------------------------------------------------- */

#if SR_LANES_@ISA@ > 1
#define SR_DECLARE_@ISA@(lanes)                                                                                        \
    typedef float sr_v##lanes##_@ISA@ __attribute__((vector_size(4 * lanes)));                                        \
    typedef float sr_u##lanes##_@ISA@ __attribute__((vector_size(4 * lanes), aligned(4), may_alias));                 \
    typedef int32_t sr_i##lanes##_@ISA@ __attribute__((vector_size(4 * lanes)));                                      \
    SR_INLINE_@ISA@ void sr_select##lanes##_@ISA@(sr_v##lanes##_@ISA@ *v, sr_i##lanes##_@ISA@ mask,                    \
                                                  const sr_v##lanes##_@ISA@ other) {                                   \
        *v = (sr_v##lanes##_@ISA@)(((sr_i##lanes##_@ISA@)*v & mask) | ((sr_i##lanes##_@ISA@)other & ~mask));           \
    }
#else
#define SR_DECLARE_@ISA@(lanes)                                                                                        \
    typedef float sr_v##lanes##_@ISA@;                                                                                 \
    typedef float sr_u##lanes##_@ISA@;                                                                                 \
    SR_INLINE_@ISA@ void sr_select##lanes##_@ISA@(float *v, int mask, const float other) { *v = mask ? *v : other; }
#endif

/* The activation of a vector; `kind` is a constant wherever this is called, so one case remains. */
#define SR_ACTIVATE_@ISA@(lanes)                                                                                       \
    SR_INLINE_@ISA@ void sr_act##lanes##_@ISA@(sr_v##lanes##_@ISA@ *v, const int kind, const float p, const float q) { \
        const sr_v##lanes##_@ISA@ zero = *v - *v, low = zero + p, high = zero + q;                                     \
        if (kind == SR_RELU) sr_select##lanes##_@ISA@(v, *v > zero, zero);                                             \
        if (kind == SR_CLIP) {                                                                                         \
            sr_select##lanes##_@ISA@(v, *v > low, low);                                                                \
            sr_select##lanes##_@ISA@(v, *v < high, high);                                                              \
        }                                                                                                              \
        if (kind == SR_LEAKY) sr_select##lanes##_@ISA@(v, *v > zero, *v * p);                                          \
        if (kind == SR_ABS) sr_select##lanes##_@ISA@(v, *v > zero, -*v);                                               \
        if (kind == SR_HSWISH || kind == SR_HSIGMOID) {                                                                \
            sr_v##lanes##_@ISA@ t = *v * p + q;                                                                        \
            sr_select##lanes##_@ISA@(&t, t > zero, zero);                                                              \
            sr_select##lanes##_@ISA@(&t, t < zero + 1.0f, zero + 1.0f);                                                \
            *v = kind == SR_HSWISH ? *v * t : t;                                                                       \
        }                                                                                                              \
    }

/* mr pixels times nv vectors of a convolution: kh rows of len values per pixel, times packed weights.
 * Weights lie in blocks of `block` channels: (kh * len, block); blocks are `apart` values apart. */
#define SR_MICRO_@ISA@(lanes)                                                                                          \
    SR_INLINE_@ISA@ void sr_micro##lanes##_@ISA@(                                                                      \
        const float *const *rows, const int kh, const int len, const int step, const float *w, const int block,       \
        const int apart, const float *bias, float *out, const int out_step, const int nv, const int mr, const int x,  \
        const int kind, const float p, const float q) {                                                                \
        sr_v##lanes##_@ISA@ acc[SR_MR_@ISA@][SR_NV_@ISA@];                                                             \
        SR_UNROLL for (int m = 0; m < mr; m++)                                                                         \
            SR_UNROLL for (int n = 0; n < nv; n++)                                                                     \
                acc[m][n] = *(const sr_u##lanes##_@ISA@ *)(bias + n * lanes);                                          \
        for (int ky = 0; ky < kh; ky++) {                                                                              \
            const float *a = rows[ky] + (int64_t)x * step, *b = w + (int64_t)ky * len * block;                         \
            for (int k = 0; k < len; k++) {                                                                            \
                sr_v##lanes##_@ISA@ weight[SR_NV_@ISA@];                                                               \
                SR_UNROLL for (int n = 0; n < nv; n++)                                                                 \
                    weight[n] = *(const sr_u##lanes##_@ISA@ *)(b + k * block + n * lanes / block * apart +             \
                                                               n * lanes % block);                                     \
                SR_UNROLL for (int m = 0; m < mr; m++) {                                                               \
                    const float value = a[m * step + k];                                                               \
                    SR_UNROLL for (int n = 0; n < nv; n++) acc[m][n] += value * weight[n];                             \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        SR_UNROLL for (int m = 0; m < mr; m++)                                                                         \
            SR_UNROLL for (int n = 0; n < nv; n++) {                                                                   \
                sr_act##lanes##_@ISA@(&acc[m][n], kind, p, q);                                                         \
                *(sr_u##lanes##_@ISA@ *)(out + (x + m) * out_step + n * lanes) = acc[m][n];                            \
            }                                                                                                          \
    }

/* One vector of channels of a row of a depthwise convolution, four pixels at a time. */
#define SR_DEPTH_@ISA@(lanes)                                                                                          \
    SR_INLINE_@ISA@ void sr_depth##lanes##_@ISA@(const float *const *rows, const int kh, const int kw, const int step, \
                                                 const int channels, const float *w, const float *bias, float *out,    \
                                                 const int x, const int mr, const int kind, const float p,             \
                                                 const float q) {                                                      \
        sr_v##lanes##_@ISA@ acc[4];                                                                                    \
        SR_UNROLL for (int m = 0; m < mr; m++) acc[m] = *(const sr_u##lanes##_@ISA@ *)bias;                            \
        SR_UNROLL for (int ky = 0; ky < kh; ky++)                                                                      \
            SR_UNROLL for (int kx = 0; kx < kw; kx++) {                                                                \
                const sr_v##lanes##_@ISA@ weight = *(const sr_u##lanes##_@ISA@ *)(w + (ky * kw + kx) * channels);      \
                SR_UNROLL for (int m = 0; m < mr; m++)                                                                 \
                    acc[m] += weight * *(const sr_u##lanes##_@ISA@ *)(rows[ky] + (x + m) * step + kx * channels);      \
            }                                                                                                          \
        SR_UNROLL for (int m = 0; m < mr; m++) {                                                                       \
            sr_act##lanes##_@ISA@(&acc[m], kind, p, q);                                                                \
            *(sr_u##lanes##_@ISA@ *)(out + (x + m) * channels) = acc[m];                                               \
        }                                                                                                              \
    }

#define SR_KERNELS_@ISA@(lanes)                                                                                        \
    SR_DECLARE_@ISA@(lanes) SR_ACTIVATE_@ISA@(lanes) SR_MICRO_@ISA@(lanes) SR_DEPTH_@ISA@(lanes)

#if SR_LANES_@ISA@ == 16
SR_KERNELS_@ISA@(16)
SR_KERNELS_@ISA@(8)
#define SR_WIDE_@ISA@(name) SR_JOIN(name##16_, @ISA@)
#define SR_NARROW_@ISA@(name) SR_JOIN(name##8_, @ISA@)
#elif SR_LANES_@ISA@ == 8
SR_KERNELS_@ISA@(8)
#define SR_WIDE_@ISA@(name) SR_JOIN(name##8_, @ISA@)
#define SR_NARROW_@ISA@(name) SR_JOIN(name##8_, @ISA@)
#elif SR_LANES_@ISA@ == 4
SR_KERNELS_@ISA@(4)
#define SR_WIDE_@ISA@(name) SR_JOIN(name##4_, @ISA@)
#define SR_NARROW_@ISA@(name) SR_JOIN(name##4_, @ISA@)
#else
SR_KERNELS_@ISA@(1)
#define SR_WIDE_@ISA@(name) SR_JOIN(name##1_, @ISA@)
#define SR_NARROW_@ISA@(name) SR_JOIN(name##1_, @ISA@)
#endif
#define SR_NARROW_LANES_@ISA@ (SR_LANES_@ISA@ < 8 ? SR_LANES_@ISA@ : 8)

/* ---- layers: one row each; sizes are constants where they are called -------------------------------------------- */

/* A dense convolution; `channels` is a multiple of 8. Weights: blocks of 16 channels, then one of 8 if there is one. */
SR_INLINE_@ISA@ void sr_conv_@ISA@(const float *const *rows, float *out, const float *w, const float *bias, const int kh,
                                   const int len, const int step, const int width, const int channels, const int kind,
                                   const float p, const float q) {
    const int block = 16 * kh * len;
    int c = 0;
    for (; c + SR_TILE_@ISA@ <= channels; c += SR_TILE_@ISA@) {
        int x = 0;
        for (; x + SR_MR_@ISA@ <= width; x += SR_MR_@ISA@)
            SR_WIDE_@ISA@(sr_micro)(rows, kh, len, step, w + c / 16 * block, 16, block, bias + c, out + c, channels,
                                    SR_TILE_@ISA@ / SR_LANES_@ISA@, SR_MR_@ISA@, x, kind, p, q);
        if (x < width)
            SR_WIDE_@ISA@(sr_micro)(rows, kh, len, step, w + c / 16 * block, 16, block, bias + c, out + c, channels,
                                    SR_TILE_@ISA@ / SR_LANES_@ISA@, width % SR_MR_@ISA@, x, kind, p, q);
    }
    for (; c + 16 <= channels; c += 16) {
        int x = 0;
        for (; x + SR_MR_@ISA@ <= width; x += SR_MR_@ISA@)
            SR_WIDE_@ISA@(sr_micro)(rows, kh, len, step, w + c / 16 * block, 16, block, bias + c, out + c, channels,
                                    16 / SR_LANES_@ISA@, SR_MR_@ISA@, x, kind, p, q);
        if (x < width)
            SR_WIDE_@ISA@(sr_micro)(rows, kh, len, step, w + c / 16 * block, 16, block, bias + c, out + c, channels,
                                    16 / SR_LANES_@ISA@, width % SR_MR_@ISA@, x, kind, p, q);
    }
    if (c < channels) {
        int x = 0;
        for (; x + SR_MR_@ISA@ <= width; x += SR_MR_@ISA@)
            SR_NARROW_@ISA@(sr_micro)(rows, kh, len, step, w + c / 16 * block, 8, block, bias + c, out + c, channels,
                                      8 / SR_NARROW_LANES_@ISA@, SR_MR_@ISA@, x, kind, p, q);
        if (x < width)
            SR_NARROW_@ISA@(sr_micro)(rows, kh, len, step, w + c / 16 * block, 8, block, bias + c, out + c, channels,
                                      8 / SR_NARROW_LANES_@ISA@, width % SR_MR_@ISA@, x, kind, p, q);
    }
}

SR_INLINE_@ISA@ void sr_depthwise_@ISA@(const float *const *rows, float *out, const float *w, const float *bias,
                                        const int kh, const int kw, const int stride, const int width,
                                        const int channels, const int kind, const float p, const float q) {
    const int step = stride * channels;
    int c = 0;
    for (; c + SR_LANES_@ISA@ <= channels; c += SR_LANES_@ISA@) {
        const float *at[SR_MAX_KERNEL];
        for (int k = 0; k < kh; k++) at[k] = rows[k] + c;
        int x = 0;
        for (; x + 4 <= width; x += 4)
            SR_WIDE_@ISA@(sr_depth)(at, kh, kw, step, channels, w + c, bias + c, out + c, x, 4, kind, p, q);
        for (int rest = 0; rest < width % 4; rest++, x++)
            SR_WIDE_@ISA@(sr_depth)(at, kh, kw, step, channels, w + c, bias + c, out + c, x, 1, kind, p, q);
    }
    if (channels % SR_LANES_@ISA@) { /* 8 channels are left */
        const float *at[SR_MAX_KERNEL];
        for (int k = 0; k < kh; k++) at[k] = rows[k] + c;
        int x = 0;
        for (; x + 4 <= width; x += 4)
            SR_NARROW_@ISA@(sr_depth)(at, kh, kw, step, channels, w + c, bias + c, out + c, x, 4, kind, p, q);
        for (int rest = 0; rest < width % 4; rest++, x++)
            SR_NARROW_@ISA@(sr_depth)(at, kh, kw, step, channels, w + c, bias + c, out + c, x, 1, kind, p, q);
    }
}

/* The 8-bit integer of a value, rounded half to even as ONNX does. */
SR_INLINE_@ISA@ float sr_integer_@ISA@(float v, const float scale, const float zero) {
    v /= scale;
    v = v > -zero ? v : -zero, v = v < 255.0f - zero ? v : 255.0f - zero;
    return (v + 12582912.0f) - 12582912.0f + zero;
}

SR_INLINE_@ISA@ void sr_to_integers_@ISA@(const float *restrict in, uint8_t *restrict out, const int n, const float scale,
                                          const float zero) {
    for (int i = 0; i < n; i++) out[i] = (uint8_t)sr_integer_@ISA@(in[i], scale, zero);
}

/* Convolutions of 8-bit integers: sums in 32 bits, times a factor per channel, to floats. */
#define SR_QKERNELS_@ISA@(lanes, tile, vectors)                                                                        \
    SR_INLINE_@ISA@ void sr_qmicro##tile##_@ISA@(                                                                      \
        const uint8_t *const *rows, const int kh, const int len, const int step, const int8_t *w, const float *factors,\
        const float *bias, float *out, const int channels, const int mr, const int x) {                               \
        sr_q##lanes##_@ISA@ acc[4][vectors];                                                                           \
        SR_UNROLL for (int m = 0; m < mr; m++)                                                                         \
            SR_UNROLL for (int n = 0; n < vectors; n++) acc[m][n] = (sr_q##lanes##_@ISA@){0};                          \
        for (int ky = 0; ky < kh; ky++) {                                                                              \
            const uint8_t *a = rows[ky] + (int64_t)x * step;                                                           \
            const int8_t *b = w + (int64_t)ky * len * tile;                                                            \
            for (int k = 0; k < len; k++) {                                                                            \
                sr_q##lanes##_@ISA@ weight[vectors];                                                                   \
                SR_UNROLL for (int n = 0; n < vectors; n++)                                                            \
                    weight[n] = SR_WIDEN_@ISA@(lanes, *(const sr_s##lanes##_@ISA@ *)(b + k * tile + n * lanes));       \
                SR_UNROLL for (int m = 0; m < mr; m++)                                                                 \
                    SR_UNROLL for (int n = 0; n < vectors; n++) acc[m][n] += (int32_t)a[m * step + k] * weight[n];     \
            }                                                                                                          \
        }                                                                                                              \
        SR_UNROLL for (int m = 0; m < mr; m++)                                                                         \
            SR_UNROLL for (int n = 0; n < vectors; n++) {                                                              \
                int32_t sums[lanes];                                                                                   \
                memcpy(sums, &acc[m][n], sizeof sums);                                                                 \
                for (int i = 0; i < lanes; i++) {                                                                      \
                    const int c = n * lanes + i;                                                                       \
                    out[(x + m) * channels + c] = (float)sums[i] * factors[c] + bias[c];                               \
                }                                                                                                      \
            }                                                                                                          \
    }

#if SR_LANES_@ISA@ > 1
#define SR_WIDEN_@ISA@(lanes, v) __builtin_convertvector(v, sr_q##lanes##_@ISA@)
#define SR_QTYPES_@ISA@(lanes)                                                                                         \
    typedef int32_t sr_q##lanes##_@ISA@ __attribute__((vector_size(4 * lanes)));                                       \
    typedef int8_t sr_s##lanes##_@ISA@ __attribute__((vector_size(lanes), aligned(1), may_alias));
#else
#define SR_WIDEN_@ISA@(lanes, v) (v)
#define SR_QTYPES_@ISA@(lanes)                                                                                         \
    typedef int32_t sr_q##lanes##_@ISA@;                                                                               \
    typedef int8_t sr_s##lanes##_@ISA@;
#endif
#if SR_LANES_@ISA@ >= 8
SR_QTYPES_@ISA@(8)
SR_QKERNELS_@ISA@(8, 16, 2)
SR_QKERNELS_@ISA@(8, 8, 1)
#elif SR_LANES_@ISA@ == 4
SR_QTYPES_@ISA@(4)
SR_QKERNELS_@ISA@(4, 16, 4)
SR_QKERNELS_@ISA@(4, 8, 2)
#else
SR_QTYPES_@ISA@(1)
SR_QKERNELS_@ISA@(1, 16, 16)
SR_QKERNELS_@ISA@(1, 8, 8)
#endif

SR_INLINE_@ISA@ void sr_qconv_@ISA@(const uint8_t *const *rows, float *out, const int8_t *w, const float *factors,
                                    const float *bias, const int kh, const int len, const int step, const int width,
                                    const int channels) {
    for (int c = 0; c < channels; c += 16) {
        const int8_t *block = w + (int64_t)c * kh * len;
        int x = 0;
        if (channels - c >= 16) {
            for (; x + 4 <= width; x += 4)
                sr_qmicro16_@ISA@(rows, kh, len, step, block, factors + c, bias + c, out + c, channels, 4, x);
            for (int rest = 0; rest < width % 4; rest++, x++)
                sr_qmicro16_@ISA@(rows, kh, len, step, block, factors + c, bias + c, out + c, channels, 1, x);
        } else {
            for (; x + 4 <= width; x += 4)
                sr_qmicro8_@ISA@(rows, kh, len, step, block, factors + c, bias + c, out + c, channels, 4, x);
            for (int rest = 0; rest < width % 4; rest++, x++)
                sr_qmicro8_@ISA@(rows, kh, len, step, block, factors + c, bias + c, out + c, channels, 1, x);
        }
    }
}

SR_INLINE_@ISA@ void sr_qdepthwise_@ISA@(const uint8_t *const *rows, float *restrict out, const int8_t *w,
                                         const float *factors, const float *bias, const int kh, const int kw,
                                         const int stride, const int width, const int channels) {
    for (int x = 0; x < width; x++)
        for (int c = 0; c < channels; c += 8) {
            int32_t sums[8] = {0};
            for (int ky = 0; ky < kh; ky++)
                for (int kx = 0; kx < kw; kx++) {
                    const uint8_t *restrict in = rows[ky] + (x * stride + kx) * channels + c;
                    const int8_t *restrict weight = w + (ky * kw + kx) * channels + c;
                    for (int i = 0; i < 8; i++) sums[i] += (int32_t)in[i] * weight[i];
                }
            for (int i = 0; i < 8; i++) out[x * channels + c + i] = (float)sums[i] * factors[c + i] + bias[c + i];
        }
}

/* An activation alone, n values. */
SR_INLINE_@ISA@ void sr_unary_@ISA@(const float *restrict in, float *restrict out, const int n, const int kind,
                                    const float p, const float q) {
    for (int i = 0; i < n; i++) {
        float v = in[i];
        switch (kind) {
        case SR_RELU: v = v > 0.0f ? v : 0.0f; break;
        case SR_CLIP: v = v > p ? v : p, v = v < q ? v : q; break;
        case SR_LEAKY: v = v > 0.0f ? v : v * p; break;
        case SR_ABS: v = v > 0.0f ? v : -v; break;
        case SR_SQRT: v = __builtin_sqrtf(v); break;
        case SR_SQUARE: v = v * v; break;
        case SR_QUANT: v = (sr_integer_@ISA@(v, p, q) - q) * p; break;
        case SR_RECIPROCAL: v = 1.0f / v; break;
        case SR_SIGMOID: v = 1.0f / (1.0f + sr_exp(-v)); break;
        case SR_HSWISH:
        case SR_HSIGMOID: {
            float t = v * p + q;
            t = t > 0.0f ? t : 0.0f, t = t < 1.0f ? t : 1.0f;
            v = kind == SR_HSWISH ? v * t : t;
            break;
        }
        default: break;
        }
        out[i] = v;
    }
}

SR_INLINE_@ISA@ void sr_inplace_@ISA@(float *values, const int n, const int kind, const float p, const float q) {
    float chunk[64];
    for (int i = 0; i < n; i += 64) {
        const int count = n - i < 64 ? n - i : 64;
        sr_unary_@ISA@(values + i, chunk, count, kind, p, q);
        memcpy(values + i, chunk, 4 * (size_t)count);
    }
}

/* Two rows, or a row and one value per channel (`each` is 0). */
SR_INLINE_@ISA@ void sr_binary_@ISA@(const float *restrict a, const float *restrict b, float *restrict out,
                                     const int width, const int channels, const int each, const int kind) {
    for (int x = 0; x < width; x++) {
        for (int c = 0; c < channels; c++) {
            const float u = a[x * channels + c], v = b[each ? x * channels + c : c];
            out[x * channels + c] = kind == SR_ADD ? u + v : kind == SR_SUB ? u - v : kind == SR_MUL ? u * v : u / v;
        }
    }
}

/* The largest or mean value of a window; rows outside of the map are null, `left` columns before it do not exist. */
SR_INLINE_@ISA@ void sr_pool_@ISA@(const float *const *rows, const int kh, const int kw, const int stride, const int left,
                                   const int source_width, float *out, const int width, const int channels,
                                   const float scale, const int is_max) {
    for (int x = 0; x < width; x++)
        for (int c = 0; c < channels; c++) {
            float v = is_max ? -3.402823466e38f : 0.0f;
            for (int ky = 0; ky < kh; ky++)
                for (int kx = 0; rows[ky] && kx < kw; kx++) {
                    const int at = x * stride + kx - left;
                    if (at < 0 || at >= source_width) continue;
                    const float u = rows[ky][at * channels + c];
                    v = is_max ? (u > v ? u : v) : v + u;
                }
            out[x * channels + c] = is_max ? v : v * scale;
        }
}

/* Add a row to the sums of its channels. */
SR_INLINE_@ISA@ void sr_sum_row_@ISA@(const float *restrict in, float *restrict sums, const int width,
                                      const int channels) {
    for (int x = 0; x < width; x++)
        for (int c = 0; c < channels; c++) sums[c] += in[x * channels + c];
}

/* A row of the latent, pixel by pixel, to the planes of channels. */
SR_INLINE_@ISA@ void sr_planes_@ISA@(const float *restrict in, float *restrict latent, const int y, const int height,
                                     const int width, const int stride, const int channels) {
    for (int c = 0; c < channels; c++)
        for (int x = 0; x < width; x++) latent[((int64_t)c * height + y) * width + x] = in[x * stride + c];
}
