/* A camera board of the ESP32 class: frames from the camera, packets over UART, to a LoRa modem for instance.
 *
 *     splitreg publish zoo:camvid-small -o published --target '{name="c",size=[96,96],max_width=320}'
 *     cp published/targets/c/splitreg_model.* main/
 *     idf.py add-dependency espressif/esp32-camera && idf.py set-target esp32s3 && idf.py build
 *
 * The folder `host` has stand-ins of the board's headers, with which this file compiles on any machine.
 */
#include "driver/uart.h"
#include "esp_camera.h"
#include "freertos/FreeRTOS.h"
#include "splitreg_model.h"

enum { UART = 1, UART_TX = 43, BAUD = 9600, SECONDS = 10 };

static const camera_config_t camera = {
    .pin_pwdn = -1, .pin_reset = -1, .pin_xclk = 10, .pin_sccb_sda = 40, .pin_sccb_scl = 39,
    .pin_d7 = 48, .pin_d6 = 11, .pin_d5 = 12, .pin_d4 = 14, .pin_d3 = 16, .pin_d2 = 18, .pin_d1 = 17, .pin_d0 = 15,
    .pin_vsync = 38, .pin_href = 47, .pin_pclk = 13,
    .xclk_freq_hz = 20000000, .pixel_format = PIXFORMAT_RGB565, .frame_size = FRAMESIZE_QVGA, .fb_count = 1,
    .fb_location = CAMERA_FB_IN_PSRAM, .grab_mode = CAMERA_GRAB_LATEST,
};

/* A packet of 96x96 pixels has a few hundred bytes; a larger one is not sent. */
static uint8_t packet[2048];

/* The length in four bytes, little-endian, then the packet: `splitreg infer BUNDLE -` reads this from a pipe. */
static void send(const uint8_t *data, int32_t length) {
    const uint8_t head[4] = {(uint8_t)length, (uint8_t)(length >> 8), 0, 0};
    uart_write_bytes(UART, head, sizeof head);
    uart_write_bytes(UART, data, (size_t)length);
}

void app_main(void) {
    const uart_config_t serial = {.baud_rate = BAUD, .data_bits = UART_DATA_8_BITS, .stop_bits = UART_STOP_BITS_1};
    uart_driver_install(UART, 256, 4096, 0, 0, 0);
    uart_param_config(UART, &serial);
    uart_set_pin(UART, UART_TX, -1, -1, -1);
    if (esp_camera_init(&camera) != ESP_OK) return;
    for (;;) {
        camera_fb_t *frame = esp_camera_fb_get();
        if (frame) {
            const splitreg_model_image image = {
                .width = (int32_t)frame->width, .height = (int32_t)frame->height, .format = SPLITREG_MODEL_RGB565,
                .plane = {frame->buf}, .stride = {2 * (int32_t)frame->width},
            };
            const int32_t length = splitreg_model_encode(&image, -1, packet, sizeof packet);
            esp_camera_fb_return(frame);
            if (length > 0) send(packet, length);
        }
        vTaskDelay(SECONDS * 1000 / portTICK_PERIOD_MS);
    }
}
