/* What the example uses of FreeRTOS. */
#pragma once
#define portTICK_PERIOD_MS 10
void vTaskDelay(unsigned ticks);
