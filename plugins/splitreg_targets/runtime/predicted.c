/* ---- coder with a context network: symbols to a payload ------------------------------------------------------------- */

/* Write the payload to out[0 .. room); returns its length, or an error. */
SR_FUNCTION_@ISA@ int32_t sr_payload_@ISA@(const sr_tables *t, uint8_t *out, int32_t room) {
    const sr_mixing mixing = {sr_squash, sr_stretch, sr_reciprocals};
    const int32_t n = SR_HEIGHT * SR_WIDTH;
    sr_work *w = &sr_arena.coder;
    for (int32_t c = 0; c < SR_CHANNELS; c++) {
        const float *latent = sr_channel_@ISA@(c, w);
        if (sr_quantise_@ISA@(latent, n, t->shift[c], t->scale[c], t->bits, w->symbols + c * n)) return @UPPER@_BAD_LATENT;
    }
#if defined(SR_STREAMS)
    memcpy(sr_symbols, w->symbols, sizeof w->symbols);
#endif
    const int64_t length = sr_context_encode(&mixing, &sr_contexts[t - sr_models], w->space, w->symbols, SR_HEIGHT, SR_WIDTH, out, room);
    return length < 0 ? @UPPER@_NO_ROOM : (int32_t)length;
}
