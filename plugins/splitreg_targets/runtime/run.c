/* Analyse the image and code the latent; the payload with the byte of the rate. */
SR_FUNCTION_@ISA@ int32_t sr_run_@ISA@(int32_t rate, uint8_t *out, int32_t room) {
    sr_network_@ISA@();
#if SR_RATES
    const int32_t position = rate < 0 ? SR_DEFAULT_RATE : rate;
    sr_gains = sr_all_gains + position * SR_CHANNELS;
    out[0] = (uint8_t)position;
    const int32_t length = sr_payload_@ISA@(&sr_models[sr_chosen[position]], out + 1, room - 1);
    return length < 0 ? length : length + 1;
#else
    (void)rate;
    return sr_payload_@ISA@(&sr_models[0], out, room);
#endif
}
