/* ---- image: 8-bit pixels to normalised rows of the network's input ---------------------------------------------- */

/* Bilinear interpolation as Pillow computes it, in integers of 22 bits, so that pixels are equal bit for bit.
 * Source: Pillow, src/libImaging/Resample.c. */

/* Pixel x of row y as RGB. YUV is BT.601, of the range that the format states. */
SR_INLINE_@ISA@ void sr_pixel_@ISA@(const @PREFIX@_image *image, const int format, int32_t y, int32_t x, int32_t *rgb) {
    const uint8_t *row = image->plane[0] + (int64_t)y * image->stride[0];
    if (format == @UPPER@_GREY) {
        rgb[0] = rgb[1] = rgb[2] = row[x];
    } else if (format == @UPPER@_RGB || format == @UPPER@_RGBA) {
        const uint8_t *p = row + (int64_t)x * (format == @UPPER@_RGB ? 3 : 4);
        rgb[0] = p[0], rgb[1] = p[1], rgb[2] = p[2];
    } else if (format == @UPPER@_RGB565) { /* the byte with red first, as cameras send it */
        const int32_t v = row[2 * x] << 8 | row[2 * x + 1];
        rgb[0] = (v >> 11) * 255 / 31, rgb[1] = (v >> 5 & 63) * 255 / 63, rgb[2] = (v & 31) * 255 / 31;
    } else {
        const int nv12 = format == @UPPER@_NV12, full = image->full_range;
        const uint8_t *u = image->plane[1] + (int64_t)(y / 2) * image->stride[1] + (x / 2) * (nv12 ? 2 : 1);
        const uint8_t *v = nv12 ? u + 1 : image->plane[2] + (int64_t)(y / 2) * image->stride[2] + x / 2;
        const int32_t l = full ? row[x] << 16 : (row[x] - 16) * 76309, b = *u - 128, r = *v - 128;
        rgb[0] = sr_byte((l + r * (full ? 91881 : 104597) + 32768) >> 16);
        rgb[1] = sr_byte((l - b * (full ? 22554 : 25675) - r * (full ? 46802 : 53279) + 32768) >> 16);
        rgb[2] = sr_byte((l + b * (full ? 116130 : 132201) + 32768) >> 16);
    }
}

#if SR_LANES_@ISA@ > 1 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* Interpolated pixels of 3 or 4 bytes, from windows of `taps` pixels: four bytes at a time, the last of them unused. */
SR_INLINE_@ISA@ void sr_windows_@ISA@(const uint8_t *row, const int bytes, const int taps, uint8_t *out) {
    const int32_t half = 1 << (SR_BITS - 1), *k = sr_resize.weights;
    for (int32_t x = 0; x < sr_resize.whole; x++, k += taps) {
        const uint8_t *p = row + sr_resize.first[x] * bytes;
        sr_int4 sum = {half, half, half, half};
        for (int i = 0; i < taps; i++) {
            int32_t pixel;
            memcpy(&pixel, p + i * bytes, 4);
            sr_bytes16 v = (sr_bytes16)(sr_int4){pixel};
            v = SR_SHUFFLE(v, 0, 4, 4, 4, 1, 4, 4, 4, 2, 4, 4, 4, 3, 4, 4, 4); /* byte 4 is zero */
            sum += (sr_int4)v * k[i];
        }
        sum >>= SR_BITS; /* 0 to 255, because weights are not negative */
        const sr_bytes16 v = (sr_bytes16)sum;
        const sr_int4 result = (sr_int4)SR_SHUFFLE(v, 0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        memcpy(out + 3 * x, &result, 4);
    }
}

/* The pixels whose windows end before the row does; returns how many. */
SR_INLINE_@ISA@ int32_t sr_across_bytes_@ISA@(const uint8_t *row, const int bytes, uint8_t *out) {
    switch (sr_resize.taps) {
    case 3: sr_windows_@ISA@(row, bytes, 3, out); break;
    case 4: sr_windows_@ISA@(row, bytes, 4, out); break;
    case 5: sr_windows_@ISA@(row, bytes, 5, out); break;
    case 6: sr_windows_@ISA@(row, bytes, 6, out); break;
    default: sr_windows_@ISA@(row, bytes, sr_resize.taps, out); break;
    }
    return sr_resize.whole;
}
#endif

/* Row y of the source, `width` pixels wide: resized horizontally, or as it is. */
SR_INLINE_@ISA@ void sr_across_format_@ISA@(const @PREFIX@_image *image, const int format, int32_t y, int32_t width,
                                            uint8_t *out) {
    int32_t rgb[3];
    if (width == image->width) {
        for (int32_t x = 0; x < width; x++) {
            sr_pixel_@ISA@(image, format, y, x, rgb);
            out[3 * x] = (uint8_t)rgb[0], out[3 * x + 1] = (uint8_t)rgb[1], out[3 * x + 2] = (uint8_t)rgb[2];
        }
        return;
    }
    int32_t x = 0;
#if SR_LANES_@ISA@ > 1 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (format == @UPPER@_RGB || format == @UPPER@_RGBA)
        x = sr_across_bytes_@ISA@(image->plane[0] + (int64_t)y * image->stride[0], format == @UPPER@_RGB ? 3 : 4, out);
#endif
    for (; x < width; x++) {
        const int32_t first = sr_resize.first[x], count = sr_resize.count[x], *k = sr_resize.weights + x * sr_resize.taps;
        int32_t r = 1 << (SR_BITS - 1), g = r, b = r;
        for (int32_t i = 0; i < count; i++) {
            sr_pixel_@ISA@(image, format, y, first + i, rgb);
            r += rgb[0] * k[i], g += rgb[1] * k[i], b += rgb[2] * k[i];
        }
        out[3 * x] = sr_clip8(r), out[3 * x + 1] = sr_clip8(g), out[3 * x + 2] = sr_clip8(b);
    }
}

SR_FUNCTION_@ISA@ void sr_across_@ISA@(int32_t y, uint8_t *out) {
    const @PREFIX@_image *image = sr_source.image;
    switch (image->format) {
    case @UPPER@_GREY: sr_across_format_@ISA@(image, @UPPER@_GREY, y, sr_source.width, out); break;
    case @UPPER@_RGB: sr_across_format_@ISA@(image, @UPPER@_RGB, y, sr_source.width, out); break;
    case @UPPER@_RGBA: sr_across_format_@ISA@(image, @UPPER@_RGBA, y, sr_source.width, out); break;
    case @UPPER@_RGB565: sr_across_format_@ISA@(image, @UPPER@_RGB565, y, sr_source.width, out); break;
    case @UPPER@_NV12: sr_across_format_@ISA@(image, @UPPER@_NV12, y, sr_source.width, out); break;
    default: sr_across_format_@ISA@(image, @UPPER@_I420, y, sr_source.width, out); break;
    }
}

/* Begin a row of the output that is interpolated between rows of the source. */
SR_FUNCTION_@ISA@ void sr_begin_row_@ISA@(int32_t i) {
    sr_sum *row = &sr_source.rows[i % 3];
    row->index = i;
    sr_span(sr_source.image->height, sr_source.scale_y, sr_source.support_y, i, &row->first, &row->count);
    row->total = 0;
    for (int32_t k = 0; k < row->count; k++) row->total += sr_weight(sr_source.scale_y, sr_source.support_y, i, row->first + k);
    for (int32_t x = 0; x < 3 * sr_source.width; x++) sr_resize.sums[i % 3][x] = 1 << (SR_BITS - 1);
}

SR_INLINE_@ISA@ int32_t sr_factor_@ISA@(const sr_sum *row, int32_t at) {
    const double weight = sr_weight(sr_source.scale_y, sr_source.support_y, row->index, at);
    return (int32_t)(0.5 + weight / row->total * (1 << SR_BITS));
}

/* Row i of the resized image, without borders. */
SR_FUNCTION_@ISA@ void sr_content_@ISA@(int32_t i, uint8_t *restrict out) {
    const int32_t n = 3 * sr_source.width;
    if (sr_source.height == sr_source.image->height) {
        sr_across_@ISA@(i, out);
        return;
    }
    if (!i) sr_begin_row_@ISA@(0);
    const sr_sum *row = &sr_source.rows[i % 3];
    if (sr_source.scale_y < 1) { /* enlarged: rows of the source are used several times */
        int32_t *restrict sums = sr_resize.sums[i % 3];
        for (int32_t r = row->first; r < row->first + row->count; r++) {
            uint8_t *restrict line = sr_resize.lines[r % SR_RING];
            for (; sr_source.source_next <= r; sr_source.source_next++)
                sr_across_@ISA@(sr_source.source_next, sr_resize.lines[sr_source.source_next % SR_RING]);
            const int32_t k = sr_factor_@ISA@(row, r);
            for (int32_t x = 0; x < n; x++) sums[x] += line[x] * k;
        }
    } else { /* reduced: each row of the source is added to the rows of the output that it is a part of */
        uint8_t *restrict line = sr_resize.lines[0];
        for (; sr_source.source_next < row->first + row->count; sr_source.source_next++) {
            const int32_t r = sr_source.source_next;
            sr_across_@ISA@(r, line);
            for (int32_t j = i; j < i + 3 && j < sr_source.height; j++) {
                sr_sum *sum = &sr_source.rows[j % 3];
                if (sum->index != j) sr_begin_row_@ISA@(j);
                if (r < sum->first) break;
                if (r >= sum->first + sum->count) continue;
                const int32_t k = sr_factor_@ISA@(sum, r);
                int32_t *restrict sums = sr_resize.sums[j % 3];
                for (int32_t x = 0; x < n; x++) sums[x] += line[x] * k;
            }
        }
    }
    const int32_t *restrict sums = sr_resize.sums[i % 3];
    for (int32_t x = 0; x < n; x++) out[x] = sr_clip8(sums[x]);
    if (i + 1 < sr_source.height && sr_source.rows[(i + 1) % 3].index != i + 1) sr_begin_row_@ISA@(i + 1);
}

/* Row y of the network's input: normalised RGB, pixel by pixel. */
SR_FUNCTION_@ISA@ void sr_input_row_@ISA@(int32_t y, float *restrict out) {
    static uint8_t line[3 * SR_INPUT_WIDTH];
    if (y < sr_source.top || y >= sr_source.top + sr_source.height) {
        memset(line, SR_FILL, sizeof line);
    } else {
        memset(line, SR_FILL, 3 * (size_t)sr_source.left);
        sr_content_@ISA@(y - sr_source.top, line + 3 * sr_source.left);
        const int32_t end = sr_source.left + sr_source.width;
        memset(line + 3 * end, SR_FILL, 3 * (size_t)(SR_INPUT_WIDTH - end));
    }
    for (int32_t x = 0; x < SR_INPUT_WIDTH; x++)
        for (int c = 0; c < 3; c++) out[3 * x + c] = (float)line[3 * x + c] * sr_input_scale[c] - sr_input_shift[c];
}
