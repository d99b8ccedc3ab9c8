// The part of ONNX Runtime's C ABI that a custom operator needs, declared here because no package ships the
// headers. `OrtApi` is a table of function pointers that only ever grows at its end, so a slot keeps its number.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtValue;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;

using OrtApi = const void* const;

struct OrtApiBase {
  OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// As of version 17 of the API (ONNX Runtime 1.17): a larger `version` than the fields given would be read past
// the end.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};

}  // extern "C"

namespace nncompile {

inline constexpr uint32_t kApiVersion = 17;
inline constexpr int kFloat = 1;     // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
inline constexpr int kVariadic = 2;  // INPUT_OUTPUT_VARIADIC
inline constexpr int kErrorFail = 1;
inline constexpr int kErrorInvalidArgument = 2;

// Typed calls into the table, by slot.
class Ort {
 public:
  explicit Ort(OrtApi* table) : table_(table) {}

  OrtStatus* CreateStatus(int code, const char* message) const { return call<0, OrtStatus*>(code, message); }
  OrtStatus* CreateCustomOpDomain(const char* name, OrtCustomOpDomain** out) const {
    return call<26, OrtStatus*>(name, out);
  }
  OrtStatus* CustomOpDomain_Add(OrtCustomOpDomain* domain, const OrtCustomOp* op) const {
    return call<27, OrtStatus*>(domain, op);
  }
  OrtStatus* AddCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return call<28, OrtStatus*>(options, domain);
  }
  OrtStatus* GetTensorMutableData(OrtValue* value, void** out) const { return call<51, OrtStatus*>(value, out); }
  OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out) const {
    return call<61, OrtStatus*>(info, out);
  }
  OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count) const {
    return call<62, OrtStatus*>(info, dims, count);
  }
  OrtStatus* GetTensorTypeAndShape(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) const {
    return call<65, OrtStatus*>(value, out);
  }
  OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name, int64_t* out) const {
    return call<86, OrtStatus*>(info, name, out);
  }
  OrtStatus* KernelContext_GetInput(const OrtKernelContext* context, size_t index, const OrtValue** out) const {
    return call<90, OrtStatus*>(context, index, out);
  }
  OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank,
                                     OrtValue** out) const {
    return call<91, OrtStatus*>(context, index, dims, rank, out);
  }
  void ReleaseStatus(OrtStatus* status) const { call<93, void>(status); }
  void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) const { call<99, void>(info); }
  OrtStatus* KernelInfoGetAttributeArray_float(const OrtKernelInfo* info, const char* name, float* out,
                                               size_t* size) const {
    return call<162, OrtStatus*>(info, name, out, size);
  }
  OrtStatus* KernelInfoGetAttributeArray_int64(const OrtKernelInfo* info, const char* name, int64_t* out,
                                               size_t* size) const {
    return call<163, OrtStatus*>(info, name, out, size);
  }
  OrtStatus* KernelInfo_GetInputCount(const OrtKernelInfo* info, size_t* out) const {
    return call<230, OrtStatus*>(info, out);
  }
  OrtStatus* KernelInfo_GetOutputCount(const OrtKernelInfo* info, size_t* out) const {
    return call<231, OrtStatus*>(info, out);
  }
  OrtStatus* HasSessionConfigEntry(const OrtSessionOptions* options, const char* key, int* out) const {
    return call<237, OrtStatus*>(options, key, out);
  }
  OrtStatus* GetSessionConfigEntry(const OrtSessionOptions* options, const char* key, char* out, size_t* size) const {
    return call<238, OrtStatus*>(options, key, out, size);
  }
  OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, size_t index, int* is_constant,
                                               const OrtValue** out) const {
    return call<249, OrtStatus*>(info, index, is_constant, out);
  }
  OrtStatus* KernelContext_ParallelFor(const OrtKernelContext* context, void (*task)(void*, size_t), size_t total,
                                       size_t batches, void* data) const {
    return call<274, OrtStatus*>(context, task, total, batches, data);
  }

 private:
  template <int slot, class Result, class... Arguments>
  Result call(Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(table_[slot]))(arguments...);
  }

  OrtApi* table_;
};

}  // namespace nncompile
