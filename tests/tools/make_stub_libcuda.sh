#!/usr/bin/env bash
# Builds FOLDER/libcuda.so.1, a stand-in for the NVIDIA driver, so that what depends on a driver can be tried without one:
#
#     bash tests/tools/make_stub_libcuda.sh FOLDER
#     LD_LIBRARY_PATH=FOLDER STUB_CUDA_GPUS=7.5,9.0 bash scripts/setup.sh --dry-run
#
# It shows GPUs of the compute capabilities in STUB_CUDA_GPUS (none if unset) and calls itself CUDA STUB_CUDA_VERSION
# (12040 if unset). It computes nothing: whatever else MXNet may call answers "no device".
set -euo pipefail

folder=${1:?usage: make_stub_libcuda.sh FOLDER}
mkdir -p "$folder"
gcc -shared -fPIC -O1 -Wall -Wl,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" -x c - <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, MOST = 16 };

/* The capabilities "7.5,9.0" as 75, 90. */
static int gpus(int capability[MOST]) {
    const char *text = getenv("STUB_CUDA_GPUS");
    int count = 0, major, minor;
    while (text && count < MOST && sscanf(text, "%d.%d", &major, &minor) == 2) {
        capability[count++] = 10 * major + minor;
        text = strchr(text, ',');
        if (text) text++;
    }
    return count;
}

int cuInit(unsigned flags) { int all[MOST]; return gpus(all) ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int *version) {
    const char *text = getenv("STUB_CUDA_VERSION");
    *version = text ? atoi(text) : 12040;
    return SUCCESS;
}
int cuDeviceGetCount(int *count) { int all[MOST]; *count = gpus(all); return SUCCESS; }
int cuDeviceGet(int *device, int index) {
    int all[MOST];
    if (index < 0 || index >= gpus(all)) return NO_DEVICE;
    *device = index;
    return SUCCESS;
}
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Stub GPU %d", device); return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int all[MOST];
    if (device < 0 || device >= gpus(all)) return NO_DEVICE;
    if (attribute == 75) *value = all[device] / 10;      /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */
    else if (attribute == 76) *value = all[device] % 10; /* ..._MINOR */
    else return INVALID_VALUE;
    return SUCCESS;
}

/* The other functions that the MXNet of mxnet-cu112 links to. */
#define ABSENT(function) int function(void) { return NO_DEVICE; }
ABSENT(cuDevicePrimaryCtxRetain)
ABSENT(cuGetErrorString)
ABSENT(cuGraphKernelNodeGetParams)
ABSENT(cuGraphNodeGetType)
ABSENT(cuLaunchKernel)
ABSENT(cuModuleGetFunction)
ABSENT(cuModuleLoadData)
ABSENT(cuModuleLoadDataEx)
ABSENT(cuModuleUnload)
END
