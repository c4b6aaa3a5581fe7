/* What the example uses of ESP-IDF's UART driver. */
#pragma once
#include <stddef.h>
enum { UART_DATA_8_BITS = 3, UART_STOP_BITS_1 = 1 };
typedef struct {
    int baud_rate, data_bits, stop_bits;
} uart_config_t;
int uart_driver_install(int port, int rx, int tx, int queue, void *handle, int flags);
int uart_param_config(int port, const uart_config_t *config);
int uart_set_pin(int port, int tx, int rx, int rts, int cts);
int uart_write_bytes(int port, const void *data, size_t length);
