/* Encodes raw pixels from stdin, to packets on stdout: WIDTH HEIGHT FORMAT RATE [REPEATS]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "splitreg_model.h"

static uint8_t packet[1 << 20];

int main(int count, char **arguments) {
    if (count < 5) return 2;
    splitreg_model_image image = {atoi(arguments[1]), atoi(arguments[2]), atoi(arguments[3]), 0, {0}, {0}};
    const int rate = atoi(arguments[4]), repeats = count > 5 ? atoi(arguments[5]) : 1;
    const size_t pixels = (size_t)image.width * image.height;
    uint8_t *data = malloc(pixels * 4);
    const size_t length = fread(data, 1, pixels * 4, stdin);
    static const int widths[] = {3, 4, 1, 2, 1, 1};
    const int half = (image.width + 1) / 2;
    image.plane[0] = data, image.stride[0] = image.width * widths[image.format];
    image.plane[1] = data + pixels, image.stride[1] = image.format == SPLITREG_MODEL_NV12 ? 2 * half : half;
    image.plane[2] = image.plane[1] + (size_t)half * ((image.height + 1) / 2), image.stride[2] = half;
    if (!length) return 3;
    int32_t bytes = 0;
    const clock_t begin = clock();
    for (int i = 0; i < repeats; i++) bytes = splitreg_model_encode(&image, rate, packet, sizeof packet);
    fprintf(stderr, "%.6f\n", (double)(clock() - begin) / CLOCKS_PER_SEC / repeats);
    if (bytes < 0) return 10 - bytes;
    fwrite(packet, 1, (size_t)bytes, stdout);
    free(data);
    return 0;
}
