/* ---- rANS coder: an entry of a table for every symbol; docs/wire-format.md of splitreg describes the format --------- */

/* Round half to even for |v| <= 2^23, as numpy.rint. */
SR_INLINE_@ISA@ float sr_rounded_@ISA@(float v) {
    const float positive = (__builtin_fabsf(v) + 8388608.0f) - 8388608.0f;
    return __builtin_copysignf(positive, v);
}

#if SR_RATES
/* (latent - shift) * gain. Stored, so that no compiler joins it with the next operation: every step is rounded. */
SR_FUNCTION_@ISA@ void sr_scale_@ISA@(const float *restrict latent, const int32_t n, const float shift, const float gain,
                                      float *restrict out) {
    for (int32_t i = 0; i < n; i++) out[i] = (latent[i] - shift) * gain;
}
#endif

/* A channel of the latent, with the gain of the rate. */
SR_INLINE_@ISA@ const float *sr_channel_@ISA@(int32_t c, sr_work *w) {
    const float *latent = sr_latent + c * (SR_HEIGHT * SR_WIDTH);
#if SR_RATES
    sr_scale_@ISA@(latent, SR_HEIGHT * SR_WIDTH, sr_gain_shift[c], sr_gains[c], w->scaled);
    latent = w->scaled;
#endif
    (void)w;
    return latent;
}

/* Values of a channel; nonzero if the latent is not finite or too large. */
SR_FUNCTION_@ISA@ int sr_quantise_@ISA@(const float *restrict latent, const int32_t n, const float shift, const float scale,
                                        const int32_t bits, int32_t *restrict out) {
    int32_t bad = 0;
    if (bits) {
        const float top = (float)((1u << bits) - 1);
        for (int32_t i = 0; i < n; i++) {
            float v = (latent[i] - shift) * scale;
            bad |= !(__builtin_fabsf(latent[i]) <= 3.402823466e38f);
            v = v > 0.0f ? v : 0.0f;
            out[i] = (int32_t)sr_rounded_@ISA@(v < top ? v : top);
        }
    } else {
        for (int32_t i = 0; i < n; i++) {
            const float v = latent[i] - shift;
            const int32_t fine = __builtin_fabsf(v) <= 8388608.0f;
            bad |= !fine;
            out[i] = (int32_t)sr_rounded_@ISA@(fine ? v : 0.0f);
        }
    }
    return bad;
}

#if !SR_CONTEXT
/* Values to indexes into a row of the tables; returns whether there is an escape. */
SR_FUNCTION_@ISA@ int sr_indexes_@ISA@(const int32_t *restrict values, const int32_t n, const int32_t offset,
                                       const int32_t symbols, uint16_t *restrict out) {
    const uint32_t last = (uint32_t)symbols - 1;
    uint32_t escapes = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t index = (uint32_t)values[i] - (uint32_t)offset;
        index = index < last ? index : last;
        escapes |= index == last;
        out[i] = (uint16_t)index;
    }
    return escapes != 0;
}

/* Contexts of a row, from the rows above it and a running mean over the channels before. */
SR_FUNCTION_@ISA@ void sr_choose_@ISA@(const uint8_t *restrict up, const uint8_t *restrict above,
                                       const uint8_t *restrict before, const int first, uint8_t *restrict out,
                                       uint32_t *restrict seen) {
    uint16_t over[SR_CONTEXTS + 1] = {(uint16_t)sr_coded.width};
    for (int32_t i = 0; i < sr_coded.wide; i++) {
        const uint16_t local = first ? (uint16_t)(5 * before[i]) : (uint16_t)(2 * up[i] + up[i - 1] + up[i + 1] + above[i]);
        const uint16_t score = (uint16_t)(3 * local + 10 * before[i]);
        const uint16_t a = score > 80, b = score > 200, c = score > 360, d = score > 600, e = score > 960;
        over[1] += a, over[2] += b, over[3] += c, over[4] += d, over[5] += e;
        out[i] = (uint8_t)(a + b + c + d + e);
    }
    if (sr_coded.wide > sr_coded.width) /* only this element of the padding has a neighbour */
        for (int k = 1; k <= out[sr_coded.width]; k++) over[k]--;
    for (int k = 0; k < SR_CONTEXTS; k++) seen[k] = (uint32_t)(uint16_t)(over[k] - over[k + 1]);
}

/* Begin table k, which lies at `at` of the bank. */
SR_FUNCTION_@ISA@ void sr_begin_table_@ISA@(sr_work *w, const uint16_t *prior, int k, int32_t at, int32_t symbols) {
    for (int32_t i = 0; i < symbols; i++) w->scratch[i] = prior[i];
    sr_lay_out(w->scratch, symbols, w->bank + at);
    memset(w->counts + at, 0, 4 * (size_t)symbols);
    w->seen[k] = 0, w->next[k] = sr_patience(0, symbols);
}

/* Frequencies of table k from its prior, which weighs as much as 64 symbols, and the counts. */
SR_FUNCTION_@ISA@ void sr_learn_@ISA@(sr_work *w, const uint16_t *prior, int k, int32_t at, int32_t symbols, int32_t mode) {
    uint32_t *counts = w->counts + at;
#if (SR_HYPER ? SR_CHANNELS : 1) * SR_HEIGHT * SR_WIDTH >= 1 << 20
    if (w->seen[k] >> 20) { /* keeps the sums in 32 bits */
        w->seen[k] = 0;
        for (int32_t i = 0; i < symbols; i++) w->seen[k] += counts[i] >>= 1;
    }
#endif
    const uint64_t all = (uint64_t)SR_TOTAL + 1024ull * w->seen[k];
    const uint32_t scale = (uint32_t)(((uint64_t)(SR_TOTAL - (uint32_t)symbols) << 31) / all);
    uint32_t sum = 0;
    for (int32_t i = 0; i < symbols; i++) {
        const uint32_t f = 1 + (uint32_t)((uint64_t)(prior[i] + counts[i] * 1024u) * scale >> 31);
        w->scratch[i] = f;
        sum += f;
    }
    w->scratch[mode] += SR_TOTAL - sum;
    sr_lay_out(w->scratch, symbols, w->bank + at);
    w->next[k] = w->seen[k] + sr_patience(w->seen[k], symbols);
}

/* Choose an entry for every symbol; escapes are written to `escapes`. Returns their bytes, or an error. */
SR_FUNCTION_@ISA@ int32_t sr_model_@ISA@(const sr_tables *t, sr_work *w, const int adapt, uint8_t *escapes, int32_t room,
                                         uint64_t *plain_bits) {
    const int32_t n = sr_coded.height * sr_coded.width, wide = sr_coded.wide, contexts = adapt ? SR_CONTEXTS : 1;
    int32_t length = 0;
    uint8_t *up = w->planes + 1, *above = up + wide + 2, *now = above + wide + 2;
    *plain_bits = 0;
    memset(w->planes, 0, sizeof w->planes);
    memset(w->before, 0, sizeof w->before);
    memset(w->context, 0, sizeof w->context);
    memset(w->indexes, 0, sizeof w->indexes);
    for (int32_t r = 0; r < sr_coded.height; r++) memset(w->before + r * wide, 16, (size_t)sr_coded.width);
    for (int32_t c = 0; c < sr_coded.channels; c++) {
        const int32_t symbols = t->symbols[c], mode = t->modes[c], last = symbols - 1;
        const uint16_t *frequencies = t->frequencies + t->start[c], *costs = t->costs + t->start[c];
        const uint16_t *priors = adapt ? t->priors + SR_CONTEXTS * t->start[c] : frequencies;
#if SR_HYPER
        const float *latent = w->hyper + c * n;
#else
        const float *latent = sr_channel_@ISA@(c, w);
#endif
        if (sr_quantise_@ISA@(latent, n, t->shift[c], t->scale[c], t->bits, w->values)) return @UPPER@_BAD_LATENT;
#if defined(SR_STREAMS)
        memcpy(sr_symbols + c * n, w->values, 4 * (size_t)n);
#endif
        if (sr_indexes_@ISA@(w->values, n, t->offsets[c], symbols, w->indexes)) {
            for (int32_t i = 0; i < n; i++) {
                if (w->indexes[i] != last) continue;
                if (room - length < 5) return @UPPER@_NO_ROOM;
                length = sr_put_escape(escapes, length, w->values[i], t->offsets[c], last);
            }
        }
        for (int k = 0; k < contexts; k++) sr_begin_table_@ISA@(w, priors + k * symbols, k, k * SR_SYMBOLS, symbols);
        for (int32_t r = 0; r < sr_coded.height; r++) {
            const uint16_t *indexes = w->indexes + r * sr_coded.width;
            uint32_t *out = w->entries + c * n + r * sr_coded.width;
            uint8_t *before = w->before + r * wide;
            if (adapt) {
                sr_choose_@ISA@(up, above, before, !r, w->context, w->row_seen);
                for (int k = 0; k < SR_CONTEXTS; k++)
                    if (w->seen[k] >= w->next[k])
                        sr_learn_@ISA@(w, priors + k * symbols, k, k * SR_SYMBOLS, symbols, mode);
            }
            for (int32_t i = 0; i < sr_coded.width; i++) w->at[i] = w->context[i] * (uint32_t)SR_SYMBOLS + indexes[i];
            for (int32_t i = 0; i < sr_coded.width; i++) out[i] = w->bank[w->at[i]];
            if (!adapt) {
                if ((c * sr_coded.height + r) % SR_SAMPLED) continue;
                for (int32_t i = 0; i < sr_coded.width; i++) *plain_bits += costs[indexes[i]];
                continue;
            }
            for (int32_t i = 0; i < sr_coded.width; i++) w->counts[w->at[i]]++;
            for (int k = 0; k < SR_CONTEXTS; k++) w->seen[k] += w->row_seen[k];
            const uint32_t inverse = t->inverses[c];
            for (int32_t i = 0; i < sr_coded.width; i++) {
                const int32_t d = (int32_t)indexes[i] - mode;
                const uint32_t m = ((uint32_t)(d < 0 ? -d : d) * inverse) >> 8;
                now[i] = (uint8_t)(m < 255 ? m : 255);
            }
            for (int32_t i = 0; i < sr_coded.width; i++) before[i] = (uint8_t)((3 * before[i] + now[i]) >> 2);
            uint8_t *oldest = above;
            above = up, up = now, now = oldest;
        }
        if (adapt) {
            for (int k = 0; k < SR_CONTEXTS; k++)
                for (int32_t i = 0; i < symbols; i++) *plain_bits += (uint64_t)w->counts[k * SR_SYMBOLS + i] * costs[i];
            memset(up, 0, (size_t)sr_coded.width), memset(above, 0, (size_t)sr_coded.width);
        }
    }
    if (!adapt) *plain_bits *= SR_SAMPLED;
    return length;
}
#endif
