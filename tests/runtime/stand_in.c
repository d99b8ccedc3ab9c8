/* A CUDA that computes nothing, for ONNX Runtime's real CUDA provider to run on without a GPU.

   Memory is the host's, streams and events are numbers, kernels do nothing. What is told of a call goes to the
   file that STAND_IN_LOG names, one line each. STAND_IN_GPUS is how many there are. STAND_IN_FULL (bytes), STAND_IN_BLAS, STAND_IN_LAST and
   STAND_IN_END make calls fail, from when they are set to when they are removed. */

#define _GNU_SOURCE
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uintptr_t Handle;
enum { OUT_OF_MEMORY = 2, RELAXED = 2 };
static Handle made = 0x1000, capturing;
static long capturer;
static __thread int mode;

static void tell(const char *format, ...) {
  static FILE *file;
  if (!file && getenv("STAND_IN_LOG")) setlinebuf(file = fopen(getenv("STAND_IN_LOG"), "a"));
  if (!file) return;
  char line[200];
  va_list values;
  va_start(values, format);
  vsnprintf(line, sizeof line, format, values);
  va_end(values);
  fprintf(file, "%s\n", line);
}

static long set(const char *name) { return getenv(name) ? atol(getenv(name)) : 0; }
static int make(Handle *handle) { return *handle = __sync_add_and_fetch(&made, 1), 0; }

/* What CUDA refuses while a thread captures: some calls by the thread's mode, some in every thread. */
static void unsafe(const char *name, int whole_gpu) {
  int own = capturer == syscall(SYS_gettid);
  if (capturing && (whole_gpu || mode == 0 || (own && mode != RELAXED))) tell("BROKEN by %s", name);
}

/* The CUDA runtime. */
static __thread int current; /* contexts are numbered by device */
static int gpus(void) { return set("STAND_IN_GPUS") ? (int)set("STAND_IN_GPUS") : 1; }
int cudaGetDeviceCount(int *count) { return *count = gpus(), 0; }
int cudaGetDevice(int *device) { return *device = current, 0; }
int cudaSetDevice(int device) { return current = device, 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { return *value = 1024, 0; }
int cudaRuntimeGetVersion(int *version) { return *version = 13000, 0; }
int cudaDriverGetVersion(int *version) { return *version = 13000, 0; }
int cudaGetDeviceProperties(char *about, int device) {
  memset(about, 0, 700);
  strcpy(about, "stand-in");
  *(size_t *)(about + 288) = 1ull << 33;                               /* totalGlobalMem */
  *(int *)(about + 308) = 32;                                          /* warpSize */
  *(int *)(about + 320) = 1024;                                        /* maxThreadsPerBlock */
  for (int at = 324; at < 348; at += 4) *(int *)(about + at) = 1024;   /* maxThreadsDim, maxGridSize */
  *(int *)(about + 360) = 9;                                           /* major */
  return 0;
}
int cudaMemGetInfo(size_t *free_bytes, size_t *all) { return *free_bytes = *all = 1ull << 33, 0; }
int cudaMalloc(void **memory, size_t size) {
  unsafe("cudaMalloc", 0);
  if (set("STAND_IN_FULL") && size >= (size_t)set("STAND_IN_FULL")) return OUT_OF_MEMORY;
  return *memory = calloc(1, size + 256), 0;
}
int cudaFree(void *memory) { return unsafe("cudaFree", 0), free(memory), 0; }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) {
  return unsafe("cudaHostAlloc", 0), *memory = calloc(1, size), 0;
}
int cudaFreeHost(void *memory) { return unsafe("cudaFreeHost", 0), free(memory), 0; }
int cudaStreamCreateWithFlags(Handle *stream, unsigned flags) { return make(stream); }
int cudaEventCreateWithFlags(Handle *event, unsigned flags) { return make(event); }
int cudaEventSynchronize(Handle event) { return unsafe("cudaEventSynchronize", 0), tell("wait"), 0; }
int cudaStreamSynchronize(Handle stream) {
  return unsafe("cudaStreamSynchronize", stream == capturing), tell("wait %lx", stream), 0;
}
int cudaDeviceSynchronize(void) { return unsafe("cudaDeviceSynchronize", 1), 0; }
int cudaMemcpyAsync(void *to, void *from, size_t size, int kind, Handle stream) {
  return tell("copy %zu kind %d", size, kind), memmove(to, from, size), 0;
}
int cudaMemcpy(void *to, void *from, size_t size, int kind) {
  return unsafe("cudaMemcpy", 0), memmove(to, from, size), 0;
}
int cudaMemset(void *memory, int value, size_t size) {
  return unsafe("cudaMemset", 0), tell("fill on no stream"), memset(memory, value, size), 0;
}
int cudaStreamBeginCapture(Handle stream, int how) {
  return tell("capture %lx mode %d", stream, how), capturer = syscall(SYS_gettid), capturing = stream, 0;
}
int cudaStreamEndCapture(Handle stream, Handle *graph) {
  capturing = 0;
  *graph = 0;
  return set("STAND_IN_END") ? (int)set("STAND_IN_END") : make(graph);
}
int cudaStreamIsCapturing(Handle stream, int *status) { return *status = stream && stream == capturing, 0; }
int cudaGraphInstantiate(Handle *ready, Handle graph, unsigned long long flags) { return make(ready); }
int cudaGraphLaunch(Handle ready, Handle stream) { return tell("launch %lx", stream), 0; }
int cudaGraphExecDestroy(Handle ready) { return unsafe("cudaGraphExecDestroy", 0), tell("graph gone"), 0; }
int cudaGetLastError(void) { return (int)set("STAND_IN_LAST"); }
int cudaPointerGetAttributes(int *about, void *memory) { return about[0] = 2, about[1] = 0; }
const char *cudaGetErrorString(int error) { return error == OUT_OF_MEMORY ? "out of memory" : "an error"; }
const char *cudaGetErrorName(int error) { return "cudaError"; }
int __cudaLaunchKernel(void *kernel, ...) { return tell("kernel"), 0; }
int cudaLaunchKernel(void *kernel, ...) { return tell("kernel"), 0; }
int __cudaGetKernel(Handle *kernel, void *function) { return make(kernel); }
void **__cudaRegisterFatBinary(void *binary) { static void *registered; return &registered; }

/* cuBLAS and cuDNN. */
int cublasCreate_v2(Handle *handle) { return make(handle); }
int cublasDestroy_v2(Handle handle) { return unsafe("cublasDestroy", 1), 0; }
int cublasLtCreate(Handle *handle) { return make(handle); }
int cublasGetMathMode(Handle handle, int *value) { return *value = 0; }
int cublasSetMathMode(Handle handle, int value) { return tell("math mode %d", value), 0; }
int cublasSgemm_v2(Handle handle, ...) {
  return tell(current ? "product on %d" : "product", current), (int)set("STAND_IN_BLAS");
}
const char *cublasGetStatusString(int status) {
  return status == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : "CUBLAS_STATUS_EXECUTION_FAILED";
}
const char *cublasGetStatusName(int status) { return cublasGetStatusString(status); }
int cudnnCreate(Handle *handle) { return make(handle); }
size_t cudnnGetVersion(void) { return 91300; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int status) { return "CUDNN_STATUS"; }
int cudnnSetConvolutionMathType(Handle convolution, int mode) { return tell("convolution math %d", mode), 0; }
/* One engine for each convolution, on tensor cores: CUDNN_NUMERICAL_NOTE_TENSOR_CORE is 0. */
int cudnnBackendGetAttribute(Handle of, int name, int type, long most, long *count, void *values) {
  enum { FOUND = 202, ENGINE = 300, SHARED_MEMORY = 304, WORKSPACE = 402, INDEX = 1301, NOTES = 1303 };
  if (count) *count = name == FOUND || name == ENGINE || name == INDEX || name == NOTES;
  if (name == FOUND && most) tell("engines asked for");
  if (values && (name == WORKSPACE || name == INDEX)) *(int64_t *)values = 0;
  if (values && (name == SHARED_MEMORY || name == NOTES)) *(int *)values = 0;
  return 0;
}
int cudnnBackendSetAttribute(Handle of, int name, int type, long count, int *values) {
  enum { HEURISTIC_MODE = 200, TENSORS_OF_A_CALL = 1001 };
  if (name == HEURISTIC_MODE) tell("heuristic mode %d", *values);
  if (name == TENSORS_OF_A_CALL) tell("%ld tensors", count);
  return 0;
}
int cudnnFindConvolutionForwardAlgorithmEx(Handle handle, ...) { return tell("search"), 0; }
int cudnnAddTensor(Handle handle, ...) { return tell("addition"), 0; }
int cudnnBackendExecute(Handle handle, Handle plan, Handle memory) { return tell("convolution"), 0; }

/* The driver, as far as nncompile calls it. */
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = gpus(), 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDevicePrimaryCtxRetain(Handle *context, int device) { return *context = device, 0; }
static __thread int before[64], depth;
int cuCtxPushCurrent_v2(Handle context) { return before[depth++] = current, current = context, 0; }
int cuCtxPopCurrent_v2(Handle *context) { return *context = current, current = before[--depth], 0; }
int cuCtxSynchronize(void) { return unsafe("cuCtxSynchronize", 1), 0; }
int cuThreadExchangeStreamCaptureMode(int *next) {
  int last = mode;
  return mode = *next, *next = last, 0;
}
int cuStreamCreate(Handle *stream, unsigned flags) { return make(stream); }
int cuStreamDestroy_v2(Handle stream) { return 0; }
int cuStreamSynchronize(Handle stream) { return unsafe("cuStreamSynchronize", 0), tell("wait %lx", stream), 0; }
int cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return tell("order"), 0; }
int cuStreamIsCapturing(Handle stream, int *status) { return *status = 0; }
int cuEventCreate(Handle *event, unsigned flags) { return make(event); }
int cuEventDestroy_v2(Handle event) { return 0; }
int cuEventRecord(Handle event, Handle stream) { return 0; }
int cuEventSynchronize(Handle event) { return unsafe("cuEventSynchronize", 0), tell("answer"), 0; }
int cuMemAlloc_v2(void **memory, size_t size) { return unsafe("cuMemAlloc", 0), *memory = calloc(1, size), 0; }
int cuMemFree_v2(void *memory) { return unsafe("cuMemFree", 0), free(memory), 0; }
int cuMemHostAlloc(void **memory, size_t size, unsigned flags) { return cuMemAlloc_v2(memory, size); }
int cuMemFreeHost(void *memory) { return cuMemFree_v2(memory); }
int cuMemsetD8Async(void *memory, unsigned char value, size_t size, Handle stream) {
  return memset(memory, value, size), 0;
}
static int copied(void *to, void *from, size_t size) { return tell("driver copy %zu", size), memcpy(to, from, size), 0; }
int cuMemcpyAsync(void *to, void *from, size_t size, Handle stream) { return copied(to, from, size); }
