/* Analyse the image and code the latent: the streams of a packet, with the byte of the rate. */
SR_FUNCTION_@ISA@ int32_t sr_run_@ISA@(int32_t rate, uint8_t *out, int32_t room) {
    sr_network_@ISA@();
#if SR_RATES
    const int32_t position = rate < 0 ? SR_DEFAULT_RATE : rate;
    sr_gains = sr_all_gains + position * SR_CHANNELS;
#else
    (void)rate;
#endif
#if SR_HYPER
    enum { LEAD = 5 + SR_RATES }; /* at most, before the first payload: the length of its stream, the byte of the rate */
    sr_work *w = &sr_arena.coder;
    if (sr_analyse_@ISA@(w)) return @UPPER@_BAD_LATENT;
    sr_predict_@ISA@(w, sr_layers + SR_ANALYSIS_END, sr_layers + SR_ROWS_END, w->rows);
#if SR_MEANS
    sr_predict_@ISA@(w, sr_layers + SR_ROWS_END, sr_layers + SR_MEANS_END, w->means);
#endif
    sr_coded = (sr_shape){SR_HYPER_CHANNELS, SR_HYPER_HEIGHT, SR_HYPER_WIDTH, (SR_HYPER_WIDTH + 31) / 32 * 32};
    const int32_t first = sr_payload_@ISA@(&sr_models[0], out + LEAD, room - LEAD);
    if (first < 0) return first;
#if SR_RATES
    out[LEAD - 1] = (uint8_t)position;
#endif
    int32_t length = sr_put_varint(out, 0, (uint64_t)(first + SR_RATES));
    memmove(out + length, out + 5, (size_t)(first + SR_RATES));
    length += first + SR_RATES;
    sr_coded = (sr_shape){SR_CHANNELS, SR_HEIGHT, SR_WIDTH, SR_WIDE};
    const int32_t second = sr_payload_@ISA@(SR_SCALES, out + length, room - length);
    return second < 0 ? second : length + second;
#elif SR_RATES
    out[0] = (uint8_t)position;
    const int32_t length = sr_payload_@ISA@(&sr_models[sr_chosen[position]], out + 1, room - 1);
    return length < 0 ? length : length + 1;
#else
    return sr_payload_@ISA@(&sr_models[0], out, room);
#endif
}
