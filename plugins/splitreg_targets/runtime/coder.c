/* ---- rANS coder: the latent to a payload; docs/wire-format.md of splitreg describes the format -------------------- */

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
    uint16_t over[SR_CONTEXTS + 1] = {(uint16_t)SR_WIDTH};
    for (int32_t i = 0; i < SR_WIDE; i++) {
        const uint16_t local = first ? (uint16_t)(5 * before[i]) : (uint16_t)(2 * up[i] + up[i - 1] + up[i + 1] + above[i]);
        const uint16_t score = (uint16_t)(3 * local + 10 * before[i]);
        const uint16_t a = score > 80, b = score > 200, c = score > 360, d = score > 600, e = score > 960;
        over[1] += a, over[2] += b, over[3] += c, over[4] += d, over[5] += e;
        out[i] = (uint8_t)(a + b + c + d + e);
    }
    if (SR_WIDE > SR_WIDTH) /* only this element of the padding has a neighbour */
        for (int k = 1; k <= out[SR_WIDTH]; k++) over[k]--;
    for (int k = 0; k < SR_CONTEXTS; k++) seen[k] = (uint32_t)(uint16_t)(over[k] - over[k + 1]);
}

/* Frequencies of a context from its prior, which weighs as much as 64 symbols, and the counts. */
SR_FUNCTION_@ISA@ void sr_learn_@ISA@(sr_work *w, const uint16_t *prior, int k, int32_t symbols, int32_t mode) {
    const uint32_t *counts = w->counts + k * SR_SYMBOLS;
    const uint64_t all = (uint64_t)SR_TOTAL + 1024ull * w->seen[k];
    const uint32_t scale = (uint32_t)(((uint64_t)(SR_TOTAL - (uint32_t)symbols) << 31) / all);
    uint32_t sum = 0;
    for (int32_t i = 0; i < symbols; i++) {
        const uint32_t f = 1 + (uint32_t)((uint64_t)(prior[i] + counts[i] * 1024u) * scale >> 31);
        w->scratch[i] = f;
        sum += f;
    }
    w->scratch[mode] += SR_TOTAL - sum;
    sr_lay_out(w->scratch, symbols, w->bank + k * SR_SYMBOLS);
    w->next[k] = w->seen[k] + sr_patience(w->seen[k], symbols);
}

/* Choose an entry for every symbol; escapes are written to `escapes`. Returns their bytes, or an error. */
SR_FUNCTION_@ISA@ int32_t sr_model_@ISA@(const sr_tables *t, sr_work *w, const int adapt, uint8_t *escapes, int32_t room,
                                         uint64_t *plain_bits) {
    const int32_t n = SR_HEIGHT * SR_WIDTH, contexts = adapt ? SR_CONTEXTS : 1;
    int32_t length = 0;
    uint8_t *up = w->planes + 1, *above = up + SR_WIDE + 2, *now = above + SR_WIDE + 2;
    *plain_bits = 0;
    memset(w->planes, 0, sizeof w->planes);
    memset(w->before, 0, sizeof w->before);
    memset(w->context, 0, sizeof w->context);
    memset(w->indexes, 0, sizeof w->indexes);
    for (int32_t r = 0; r < SR_HEIGHT; r++) memset(w->before + r * SR_WIDE, 16, SR_WIDTH);
    for (int32_t c = 0; c < SR_CHANNELS; c++) {
        const int32_t symbols = t->symbols[c], mode = t->modes[c], last = symbols - 1;
        const uint16_t *frequencies = t->frequencies + t->start[c], *costs = t->costs + t->start[c];
        const uint16_t *priors = adapt ? t->priors + SR_CONTEXTS * t->start[c] : frequencies;
        const float *latent = sr_latent + c * n;
#if SR_RATES
        sr_scale_@ISA@(latent, n, sr_gain_shift[c], sr_gains[c], w->scaled);
        latent = w->scaled;
#endif
        if (sr_quantise_@ISA@(latent, n, t->shift[c], t->scale[c], t->bits, w->values)) return @UPPER@_BAD_LATENT;
#if defined(SR_STREAMS)
        memcpy(sr_symbols + c * n, w->values, sizeof w->values);
#endif
        if (sr_indexes_@ISA@(w->values, n, t->offsets[c], symbols, w->indexes)) {
            for (int32_t i = 0; i < n; i++) {
                if (w->indexes[i] != last) continue;
                const int64_t below = (int64_t)t->offsets[c] - 1 - w->values[i];
                const int64_t over = (int64_t)w->values[i] - t->offsets[c] - last;
                if (room - length < 5) return @UPPER@_NO_ROOM;
                length = sr_put_varint(escapes, length, (uint64_t)(below >= 0 ? 2 * below + 1 : 2 * over));
            }
        }
        for (int k = 0; k < contexts; k++) {
            for (int32_t i = 0; i < symbols; i++) w->scratch[i] = priors[k * symbols + i];
            sr_lay_out(w->scratch, symbols, w->bank + k * SR_SYMBOLS);
            memset(w->counts + k * SR_SYMBOLS, 0, 4 * (size_t)symbols);
            w->seen[k] = 0, w->next[k] = sr_patience(0, symbols);
        }
        for (int32_t r = 0; r < SR_HEIGHT; r++) {
            const uint16_t *indexes = w->indexes + r * SR_WIDTH;
            uint32_t *out = w->entries + c * n + r * SR_WIDTH;
            uint8_t *before = w->before + r * SR_WIDE;
            if (adapt) {
                sr_choose_@ISA@(up, above, before, !r, w->context, w->row_seen);
                for (int k = 0; k < SR_CONTEXTS; k++)
                    if (w->seen[k] >= w->next[k]) sr_learn_@ISA@(w, priors + k * symbols, k, symbols, mode);
            }
            for (int32_t i = 0; i < SR_WIDTH; i++) w->at[i] = w->context[i] * (uint32_t)SR_SYMBOLS + indexes[i];
            for (int32_t i = 0; i < SR_WIDTH; i++) out[i] = w->bank[w->at[i]];
            if (!adapt) {
                if ((c * SR_HEIGHT + r) % SR_SAMPLED) continue;
                for (int32_t i = 0; i < SR_WIDTH; i++) *plain_bits += costs[indexes[i]];
                continue;
            }
            for (int32_t i = 0; i < SR_WIDTH; i++) w->counts[w->at[i]]++;
            for (int k = 0; k < SR_CONTEXTS; k++) w->seen[k] += w->row_seen[k];
            const uint32_t inverse = t->inverses[c];
            for (int32_t i = 0; i < SR_WIDTH; i++) {
                const int32_t d = (int32_t)indexes[i] - mode;
                const uint32_t m = ((uint32_t)(d < 0 ? -d : d) * inverse) >> 8;
                now[i] = (uint8_t)(m < 255 ? m : 255);
            }
            for (int32_t i = 0; i < SR_WIDTH; i++) before[i] = (uint8_t)((3 * before[i] + now[i]) >> 2);
            uint8_t *oldest = above;
            above = up, up = now, now = oldest;
        }
        if (adapt) {
            for (int k = 0; k < SR_CONTEXTS; k++)
                for (int32_t i = 0; i < symbols; i++) *plain_bits += (uint64_t)w->counts[k * SR_SYMBOLS + i] * costs[i];
            memset(up, 0, SR_WIDTH), memset(above, 0, SR_WIDTH);
        }
    }
    if (!adapt) *plain_bits *= SR_SAMPLED;
    return length;
}

SR_INLINE_@ISA@ uint64_t sr_put_@ISA@(uint64_t x, uint32_t entry, uint8_t **out) {
    const uint32_t f = (entry >> 16) + 1;
#if defined(__SIZEOF_INT128__) && !defined(__wasm__)
    const uint64_t inverse = UINT64_MAX / f; /* does not depend on the state, so it is ready when that is */
#endif
    const unsigned full = x >= (uint64_t)f << 32;
    (*out)[-2] = (uint8_t)x, (*out)[-1] = (uint8_t)(x >> 8); /* no branch: it would be mispredicted */
    *out -= 2 * full;
    x >>= 16 * full;
#if defined(__SIZEOF_INT128__) && !defined(__wasm__)
    /* exact for x < 2^48 and f <= 2^16 */
    const uint64_t quotient = (uint64_t)((unsigned __int128)(x + 1) * inverse >> 64);
#else
    const uint64_t quotient = x / f;
#endif
    return x + (entry & 0xffff) + quotient * (SR_TOTAL - f);
}

/* Rows to - 1 down to `from`, with the states taking turns. Returns where the words begin, or null if they do not fit. */
SR_FUNCTION_@ISA@ uint8_t *sr_put_rows_@ISA@(const uint32_t *entries, int32_t from, int32_t to, uint64_t *states,
                                             const int lanes, uint8_t *out, const uint8_t *limit) {
    for (int32_t row = to - 1; row >= from; row--) {
        const uint32_t *at = entries + (int64_t)row * SR_WIDTH;
        if (out - limit < 2 * SR_WIDTH + 2) return 0;
        if (lanes == 1) {
            uint64_t x = states[0];
            for (int32_t i = SR_WIDTH - 1; i >= 0; i--) x = sr_put_@ISA@(x, at[i], &out);
            states[0] = x;
            continue;
        }
        for (int32_t i = SR_WIDTH - 1; i >= 0; i--) states[i % lanes] = sr_put_@ISA@(states[i % lanes], at[i], &out);
    }
    return out;
}

/* Write the payload to out[0 .. room); returns its length, or an error. */
SR_FUNCTION_@ISA@ int32_t sr_payload_@ISA@(const sr_tables *t, uint8_t *out, int32_t room) {
    enum { HEAD = 1 + 6 * SR_MAX_LANES + 5 }; /* at most, with the length of the escapes */
    const int32_t rows = SR_CHANNELS * SR_HEIGHT;
    sr_work *w = &sr_arena.coder;
    int adapt = t->adapted;
    if (room < HEAD + 2 * SR_WIDTH + 4) return @UPPER@_NO_ROOM;
    for (;;) {
        uint64_t bits, x[SR_MAX_LANES];
        uint8_t *escapes = out + HEAD;
        const int32_t escaped = sr_model_@ISA@(t, w, adapt, escapes, room - HEAD, &bits);
        if (escaped < 0) return escaped;
        const uint64_t plain = bits / 2048; /* bytes */
        const int log_lanes = plain < 2048 ? 0 : plain < 10240 ? 1 : plain < 16384 ? 2 : 3, lanes = 1 << log_lanes;
        const int32_t tail = lanes == 1 ? rows : rows / 128 ? rows / 128 : 1;
        uint8_t *end = out + room, *limit = escapes + escaped;
        x[0] = SR_LOW;
        uint8_t *at = sr_put_rows_@ISA@(w->entries, rows - tail, rows, x, 1, end, limit);
        if (!at) return @UPPER@_NO_ROOM;
        /* The words written first, so read last, become the other lanes' initial states. */
        int32_t filled = (int32_t)(end - at) / 2;
        if (filled > 2 * (lanes - 1)) filled = 2 * (lanes - 1);
        end -= 2 * filled;
        for (int k = 1; k < lanes; k++) {
            x[k] = SR_LOW;
            for (int half = 0; half < 2; half++) {
                const int word = 2 * (k - 1) + half;
                if (word < filled) x[k] |= (uint64_t)(end[2 * word] | end[2 * word + 1] << 8) << (half ? 0 : 16);
            }
        }
        if (lanes > 1) at = sr_put_rows_@ISA@(w->entries, 0, rows - tail, x, lanes, at, limit);
        if (!at) return @UPPER@_NO_ROOM;
        int32_t length = 1;
        uint8_t head = (uint8_t)(log_lanes | (adapt ? SR_FLAG_ADAPT : 0) | (escaped ? SR_FLAG_ESCAPES : 0));
        for (int k = 0; k < lanes; k++) {
            const int bytes = lanes == 8 || x[k] >> 40 ? 6 : 5;
            if (lanes < 8 && bytes == 6) head |= (uint8_t)(16 << k);
            for (int i = 0; i < bytes; i++) out[length++] = (uint8_t)(x[k] >> 8 * i);
        }
        out[0] = head;
        if (escaped) {
            length = sr_put_varint(out, length, (uint64_t)escaped);
            memmove(out + length, escapes, (size_t)escaped);
            length += escaped;
        }
        memmove(out + length, at, (size_t)(end - at));
        length += (int32_t)(end - at);
        if (!adapt || (uint64_t)length <= plain + 8 + (uint64_t)escaped) return length;
        adapt = 0; /* adaptation costs more than it saves */
    }
}
