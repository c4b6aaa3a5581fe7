/* ---- packets ---------------------------------------------------------------------------------------------------- */

/* CRC-32 of data that follows bytes whose CRC-32 is `crc`; 0 if there are none. */
static uint32_t sr_crc(uint32_t crc, const uint8_t *data, int32_t length) {
    static const uint32_t nibbles[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    crc = ~crc;
    for (int32_t i = 0; i < length; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
}

static void sr_put16(uint8_t *out, uint32_t value) { out[0] = (uint8_t)value, out[1] = (uint8_t)(value >> 8); }
static void sr_put32(uint8_t *out, uint32_t value) { sr_put16(out, value & 0xffff), sr_put16(out + 2, value >> 16); }

static int32_t sr_dispatch(int32_t (*const *variants)(int32_t, uint8_t *, int32_t), int32_t rate, uint8_t *out, int32_t room) {
#if defined(SR_DISPATCH)
    static int level = -1;
    if (level < 0) {
        __builtin_cpu_init();
        const int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
        const int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        level = v4 ? 2 : v3;
    }
    return variants[level](rate, out, room);
#else
    return variants[0](rate, out, room);
#endif
}

static int32_t sr_analyse_and_code(int32_t rate, uint8_t *out, int32_t room) {
    static int32_t (*const variants[])(int32_t, uint8_t *, int32_t) = {
        sr_run_base,
#if defined(SR_DISPATCH)
        sr_run_v3, sr_run_v4,
#endif
    };
    return sr_dispatch(variants, rate, out, room);
}

const float *@PREFIX@_latent(void) { return sr_latent; }

int32_t @PREFIX@_encode(const @PREFIX@_image *image, int32_t rate, uint8_t *packet, int32_t capacity) {
    if (!image || image->width < 1 || image->height < 1 || image->width > @UPPER@_MAX_WIDTH || image->height > 65535 ||
        image->format < 0 || image->format > @UPPER@_NV12)
        return @UPPER@_BAD_IMAGE;
    if (rate > 255 || (rate >= 0 && !SR_RATES)) return @UPPER@_BAD_RATE;
    if (capacity < 64) return @UPPER@_NO_ROOM;
    sr_begin_image(image);
    const int32_t payload = sr_analyse_and_code(rate, packet + 16, capacity - 20);
    if (payload < 0) return payload;
    packet[0] = 'S', packet[1] = 'R', packet[2] = 1, packet[3] = SR_HYPER | SR_NO_CONTEXT << 6; /* version; flags */
    sr_put32(packet + 4, SR_MODEL_ID);
    sr_put16(packet + 8, (uint32_t)image->height), sr_put16(packet + 10, (uint32_t)image->width);
    sr_put16(packet + 12, SR_INPUT_HEIGHT), sr_put16(packet + 14, SR_INPUT_WIDTH);
    sr_put32(packet + 16 + payload, sr_crc(0, packet, 16 + payload));
    return 20 + payload;
}
