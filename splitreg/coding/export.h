/* How a function of the kernel is made visible to ctypes. */
#ifndef SPLITREG_EXPORT_H
#define SPLITREG_EXPORT_H
#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif
#endif
