/* @SUMMARY@
 *
 * One image to one packet of splitreg. No allocation, no dependency; everything is static, so one image at a time.
 * Compile @FILE@.c with GCC or clang: cc -O3 -c @FILE@.c
 */
#ifndef @UPPER@_H
#define @UPPER@_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The widest image that can be encoded; memory grows by 8 bytes for each pixel. */
#ifndef @UPPER@_MAX_WIDTH
#define @UPPER@_MAX_WIDTH @MAX_WIDTH@
#endif

/* No packet is larger. Typical ones are much smaller; a smaller buffer gives @UPPER@_NO_ROOM where it does not suffice. */
#define @UPPER@_MAX_PACKET @MAX_PACKET@
/* (C, h, w) of the latent, and (height, width) of the network's input. */
#define @UPPER@_CHANNELS @CHANNELS@
#define @UPPER@_LATENT_HEIGHT @HEIGHT@
#define @UPPER@_LATENT_WIDTH @WIDTH@
#define @UPPER@_INPUT_HEIGHT @INPUT_HEIGHT@
#define @UPPER@_INPUT_WIDTH @INPUT_WIDTH@

/* Formats of pixels, 8 bits each: interleaved RGB and RGBA (alpha is ignored), grey, RGB565 (the byte with red first),
 * planes Y, U and V (I420), a plane Y and one of U and V (NV12). */
enum {
    @UPPER@_RGB, @UPPER@_RGBA, @UPPER@_GREY, @UPPER@_RGB565, @UPPER@_I420, @UPPER@_NV12
};

/* Errors of @PREFIX@_encode. */
enum {
    @UPPER@_BAD_IMAGE = -1,  /* no such format, or a size of 0 or above the limits */
    @UPPER@_BAD_LATENT = -2, /* the network returned NaN, infinite or huge values */
    @UPPER@_NO_ROOM = -3,    /* the packet does not fit */
    @UPPER@_BAD_RATE = -4    /* not 0 to 255, or the model has one rate */
};

typedef struct {
    int32_t width, height; /* in pixels */
    int32_t format;
    int32_t full_range;       /* YUV: 1 if black is 0 (JPEG), 0 if it is 16 (video) */
    const uint8_t *plane[3];  /* one is used, except for I420 (3) and NV12 (2) */
    int32_t stride[3];        /* bytes from one row of a plane to the next */
} @PREFIX@_image;

/* Encode an image; returns the length of the packet, or an error. rate: 0 (fewest bytes) to 255 (most), or -1: default. */
int32_t @PREFIX@_encode(const @PREFIX@_image *image, int32_t rate, uint8_t *packet, int32_t capacity);

/* The latent of the image encoded last, (C, h, w). */
const float *@PREFIX@_latent(void);

#ifdef __cplusplus
}
#endif
#endif
