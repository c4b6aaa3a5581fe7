/* ---- rANS coder: entries to a payload ----------------------------------------------------------------------------- */

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
        const uint32_t *at = entries + (int64_t)row * sr_coded.width;
        if (out - limit < 2 * sr_coded.width + 2) return 0;
        if (lanes == 1) {
            uint64_t x = states[0];
            for (int32_t i = sr_coded.width - 1; i >= 0; i--) x = sr_put_@ISA@(x, at[i], &out);
            states[0] = x;
            continue;
        }
        for (int32_t i = sr_coded.width - 1; i >= 0; i--) states[i % lanes] = sr_put_@ISA@(states[i % lanes], at[i], &out);
    }
    return out;
}

/* Write the payload to out[0 .. room); returns its length, or an error. */
SR_FUNCTION_@ISA@ int32_t sr_payload_@ISA@(const sr_tables *t, uint8_t *out, int32_t room) {
    enum { HEAD = 1 + 6 * SR_MAX_LANES + 5 }; /* at most, with the length of the escapes */
    const int32_t rows = sr_coded.channels * sr_coded.height;
    sr_work *w = &sr_arena.coder;
    int adapt = t->adapted;
    if (room < HEAD + 2 * sr_coded.width + 4) return @UPPER@_NO_ROOM;
    for (;;) {
        uint64_t bits, x[SR_MAX_LANES];
        uint8_t *escapes = out + HEAD;
#if SR_HYPER
        const int32_t escaped = (t == SR_SCALES ? sr_model_rows_@ISA@ : sr_model_@ISA@)(t, w, adapt, escapes, room - HEAD, &bits);
#else
        const int32_t escaped = sr_model_@ISA@(t, w, adapt, escapes, room - HEAD, &bits);
#endif
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
