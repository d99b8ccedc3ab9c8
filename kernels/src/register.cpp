// The library's doors. This file is compiled for the plainest CPU of the architecture: it must be able to say no
// where the rest of the library cannot run.
#include "operator.h"
#include "report.h"

#if defined(NNCOMPILE_ISA_AVX512)
#define NNCOMPILE_ISA "avx512"
#elif defined(NNCOMPILE_ISA_AVX2)
#define NNCOMPILE_ISA "avx2"
#else
#define NNCOMPILE_ISA "portable"
#endif

#define NNCOMPILE_EXPORT extern "C" __attribute__((visibility("default")))

// 1 where this CPU has the instructions that the library was compiled for.
NNCOMPILE_EXPORT int nncompile_kernels_supported() {
#if defined(NNCOMPILE_ISA_AVX512)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#elif defined(NNCOMPILE_ISA_AVX2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 1;
#endif
}

NNCOMPILE_EXPORT const char* nncompile_kernels_isa() { return NNCOMPILE_ISA; }
NNCOMPILE_EXPORT const char* nncompile_kernels_version() { return NNCOMPILE_VERSION; }

// What the regions of the session chose that was opened with this number as `nncompile.session` (report.h).
NNCOMPILE_EXPORT size_t nncompile_kernels_report(int session, char* text, size_t size) {
  return nncompile_kernels_supported() ? nncompile::take_report(session, text, size) : 0;
}

// What ONNX Runtime calls.
NNCOMPILE_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  OrtApi* table = base->GetApi(nncompile::kApiVersion);
  if (!table) return nullptr;  // an ONNX Runtime older than 1.17: its sessions run the plain operators
  if (!nncompile_kernels_supported())
    return nncompile::Ort(table).CreateStatus(nncompile::kErrorFail,
                                              "this CPU lacks the instructions of nncompile-kernels (" NNCOMPILE_ISA
                                              ")");
  return nncompile::register_operator(options, base);
}
