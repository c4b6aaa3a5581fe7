/* ---- hyperprior: integer networks from the latent to its tables; docs/wire-format.md, "Hyperprior streams" ----------- */

/* A convolution in exact integers, zero-padded; channels of a position are neighbours. */
SR_FUNCTION_@ISA@ void sr_integers_@ISA@(const sr_layer *l, const int16_t *restrict in, int16_t *restrict out) {
    const int32_t reach = l->kernel / 2;
    const int16_t *weights = l->weights;
    for (int32_t o = 0; o < l->outputs; o++, weights += l->kernel * l->kernel * l->inputs) {
        for (int32_t i = 0; i < SR_POSITIONS; i++) {
            const int32_t y = i / SR_HYPER_WIDTH - reach, x = i % SR_HYPER_WIDTH - reach;
            sr_exact sum = (sr_exact)l->bias[o] + (((sr_exact)1 << l->shift) >> 1);
            for (int32_t k = 0; k < l->kernel * l->kernel; k++) {
                const int32_t r = y + k / l->kernel, q = x + k % l->kernel;
                if ((uint32_t)r >= SR_HYPER_HEIGHT || (uint32_t)q >= SR_HYPER_WIDTH) continue;
                const int16_t *a = weights + k * l->inputs, *b = in + (r * SR_HYPER_WIDTH + q) * l->inputs;
                for (int32_t c = 0; c < l->inputs; c++) sum += (sr_exact)a[c] * b[c];
            }
            sum >>= l->shift;
            out[i * l->outputs + o] = (int16_t)(sum < l->low ? l->low : sum > l->high ? l->high : sum);
        }
    }
}

/* Run layers on the first map; returns the last one's output. */
SR_FUNCTION_@ISA@ const int16_t *sr_chain_@ISA@(sr_work *w, const sr_layer *first, const sr_layer *end) {
    int16_t *in = w->maps, *out = in + SR_MAP;
    for (const sr_layer *l = first; l < end; l++) {
        sr_integers_@ISA@(l, in, out);
        int16_t *next = out;
        out = in, in = next;
    }
    return in;
}

static inline int16_t sr_clipped_@ISA@(int32_t v, int32_t low, int32_t high) {
    return (int16_t)(v < low ? low : v > high ? high : v);
}

/* Where an element of the latent lies in a map of `channels`, in which blocks are channels. */
static inline int32_t sr_block_@ISA@(int32_t c, int32_t y, int32_t x, int32_t channels) {
    const int32_t position = y / SR_FACTOR * SR_HYPER_WIDTH + x / SR_FACTOR;
    return position * channels * SR_FACTOR * SR_FACTOR + (c * SR_FACTOR + y % SR_FACTOR) * SR_FACTOR + x % SR_FACTOR;
}

/* Compute the hyper-latent; nonzero if the latent is not finite or too large. */
SR_FUNCTION_@ISA@ int sr_analyse_@ISA@(sr_work *w) {
    int32_t bad = 0;
    for (int32_t c = 0; c < SR_CHANNELS; c++) {
        const float *latent = sr_channel_@ISA@(c, w);
        for (int32_t y = 0; y < SR_HYPER_HEIGHT * SR_FACTOR; y++) {
            const float *row = latent + (y < SR_HEIGHT ? y : SR_HEIGHT - 1) * SR_WIDTH;
            for (int32_t x = 0; x < SR_HYPER_WIDTH * SR_FACTOR; x++) {
                const float v = row[x < SR_WIDTH ? x : SR_WIDTH - 1];
                const int32_t fine = __builtin_fabsf(v) <= 8388608.0f;
                const float fixed = (fine ? v : 0.0f) * SR_READ_UNIT;
                const int32_t value = (int32_t)sr_rounded_@ISA@(fixed < -32767.0f ? -32767.0f : fixed > 32767.0f ? 32767.0f : fixed);
                int16_t *out = w->maps + sr_block_@ISA@(c, y, x, (1 + SR_MEANS) * SR_CHANNELS);
                bad |= !fine;
#if SR_MEANS
                *out = sr_clipped_@ISA@(value, SR_READ_LOW, SR_READ_HIGH);
                out += SR_CHANNELS * SR_FACTOR * SR_FACTOR;
#endif
                *out = sr_clipped_@ISA@(value < 0 ? -value : value, SR_READ_LOW, SR_READ_HIGH);
            }
        }
    }
    const int16_t *map = sr_chain_@ISA@(w, sr_layers, sr_layers + SR_ANALYSIS_END);
    for (int32_t n = 0; n < SR_HYPER_CHANNELS; n++)
        for (int32_t i = 0; i < SR_POSITIONS; i++) w->hyper[n * SR_POSITIONS + i] = map[i * SR_HYPER_CHANNELS + n];
    return bad;
}

/* Run the synthesis and a network after it on the hyper-latent: a number for every element of the latent. */
SR_FUNCTION_@ISA@ void sr_predict_@ISA@(sr_work *w, const sr_layer *first, const sr_layer *end, int16_t *out) {
    for (int32_t n = 0; n < SR_HYPER_CHANNELS; n++)
        for (int32_t i = 0; i < SR_POSITIONS; i++)
            w->maps[i * SR_HYPER_CHANNELS + n] =
                sr_clipped_@ISA@((int32_t)w->hyper[n * SR_POSITIONS + i], SR_PREDICT_LOW, SR_PREDICT_HIGH);
    const int16_t *map = sr_chain_@ISA@(w, first, end);
    for (int32_t c = 0; c < SR_CHANNELS; c++)
        for (int32_t y = 0; y < SR_HEIGHT; y++)
            for (int32_t x = 0; x < SR_WIDTH; x++) *out++ = map[sr_block_@ISA@(c, y, x, SR_CHANNELS)];
}

/* As sr_model, for the latent: a table per row of the scales, for all channels, and a row for every symbol. */
SR_FUNCTION_@ISA@ int32_t sr_model_rows_@ISA@(const sr_tables *t, sr_work *w, const int adapt, uint8_t *escapes, int32_t room,
                                              uint64_t *plain_bits) {
    enum { AREA = SR_HEIGHT * SR_WIDTH };
    int32_t length = 0;
    for (int k = 0; k < SR_SCALE_ROWS; k++)
        sr_begin_table_@ISA@(w, t->frequencies + t->start[k], k, t->start[k], t->symbols[k]);
    for (int32_t c = 0; c < SR_CHANNELS; c++) {
        const int16_t *rows = w->rows + c * AREA;
        const float *latent = sr_channel_@ISA@(c, w);
#if SR_MEANS
        const int16_t *means = w->means + c * AREA; /* times a power of two: exact, also if joined with the difference */
        for (int32_t i = 0; i < AREA; i++) w->scaled[i] = latent[i] - (float)means[i] * SR_MEAN_UNIT;
        latent = w->scaled;
#endif
        if (sr_quantise_@ISA@(latent, AREA, 0.0f, 1.0f, 0, w->values)) return @UPPER@_BAD_LATENT;
#if defined(SR_STREAMS)
        memcpy(sr_symbols + SR_HYPER_SYMBOLS + c * AREA, w->values, sizeof w->values);
#endif
        for (int32_t i = 0; i < AREA; i++) {
            const int32_t offset = t->offsets[rows[i]], last = t->symbols[rows[i]] - 1;
            const uint32_t index = (uint32_t)w->values[i] - (uint32_t)offset;
            w->indexes[i] = (uint16_t)(index < (uint32_t)last ? index : (uint32_t)last);
            if (index < (uint32_t)last) continue;
            if (room - length < 5) return @UPPER@_NO_ROOM;
            length = sr_put_escape(escapes, length, w->values[i], offset, last);
        }
        for (int32_t r = 0; r < SR_HEIGHT; r++) {
            const uint32_t counted = adapt || !((c * SR_HEIGHT + r) % SR_SAMPLED);
            for (int k = 0; adapt && k < SR_SCALE_ROWS; k++)
                if (w->seen[k] >= w->next[k])
                    sr_learn_@ISA@(w, t->frequencies + t->start[k], k, t->start[k], t->symbols[k], t->modes[k]);
            for (int32_t i = r * SR_WIDTH; i < (r + 1) * SR_WIDTH; i++) {
                const int32_t at = t->start[rows[i]] + w->indexes[i];
                w->entries[c * AREA + i] = w->bank[at];
                w->counts[at] += counted, w->seen[rows[i]] += counted;
            }
        }
    }
    *plain_bits = 0;
    for (int32_t i = 0; i < SR_SCALE_ENTRIES; i++) *plain_bits += (uint64_t)w->counts[i] * t->costs[i];
    if (!adapt) *plain_bits *= SR_SAMPLED;
    return length;
}
