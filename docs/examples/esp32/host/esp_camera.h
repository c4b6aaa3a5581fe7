/* What the example uses of espressif/esp32-camera, so that it compiles without the board's tools. */
#pragma once
#include <stddef.h>
#include <stdint.h>
enum { ESP_OK, PIXFORMAT_RGB565, FRAMESIZE_QVGA, CAMERA_FB_IN_PSRAM, CAMERA_GRAB_LATEST };
typedef struct {
    int pin_pwdn, pin_reset, pin_xclk, pin_sccb_sda, pin_sccb_scl, pin_d7, pin_d6, pin_d5, pin_d4, pin_d3, pin_d2, pin_d1;
    int pin_d0, pin_vsync, pin_href, pin_pclk, xclk_freq_hz, pixel_format, frame_size, fb_count, fb_location, grab_mode;
} camera_config_t;
typedef struct {
    uint8_t *buf;
    size_t len, width, height;
} camera_fb_t;
int esp_camera_init(const camera_config_t *config);
camera_fb_t *esp_camera_fb_get(void);
void esp_camera_fb_return(camera_fb_t *frame);
