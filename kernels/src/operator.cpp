#include "operator.h"

#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <thread>

#include "region.h"
#include "report.h"

namespace nncompile {
namespace {

// A failed call of ONNX Runtime, on its way back to it.
struct Failure {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status) throw Failure{status};
}

template <class Body>
OrtStatus* guarded(const Ort& ort, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const Refused& refused) {
    return ort.CreateStatus(kErrorInvalidArgument, refused.what());
  } catch (const std::bad_alloc&) {
    return ort.CreateStatus(kErrorFail, "FusedRegion: out of memory");
  } catch (const std::exception& error) {
    return ort.CreateStatus(kErrorFail, error.what());
  } catch (...) {
    return ort.CreateStatus(kErrorFail, "FusedRegion: an unknown error");
  }
}

std::vector<int64_t> dimensions(const Ort& ort, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(ort.GetTensorTypeAndShape(value, &info));
  const auto release = [&ort](OrtTensorTypeAndShapeInfo* its) { ort.ReleaseTensorTypeAndShapeInfo(its); };
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owned(info, release);
  size_t rank = 0;
  check(ort.GetDimensionsCount(info, &rank));
  std::vector<int64_t> dims(rank);
  check(ort.GetDimensions(info, dims.data(), rank));
  return dims;
}

float* data(const Ort& ort, const OrtValue* value) {
  void* pointer = nullptr;
  check(ort.GetTensorMutableData(const_cast<OrtValue*>(value), &pointer));
  return static_cast<float*>(pointer);
}

template <class Number, class Read>
std::vector<Number> attribute(const Ort& ort, const Read& read) {
  size_t size = 0;
  OrtStatus* status = read(nullptr, &size);
  if (status && size == 0) throw Failure{status};
  if (status) ort.ReleaseStatus(status);
  std::vector<Number> values(size);
  check(read(values.data(), &size));
  return values;
}

// One node of a graph.
class Kernel {
 public:
  Kernel(const Ort& ort, const OrtKernelInfo* info, const Options& options)
      : ort_(ort), region_(read_program(ort, info), options) {
    add_report(options.session, report(region_.program(), region_.algorithms(), region_.lane_widths()));
  }

  OrtStatus* compute_guarded(OrtKernelContext* context) const {
    return guarded(ort_, [&] { compute(context); });
  }

 private:
  void compute(OrtKernelContext* context) const {
    const Program& program = region_.program();
    std::vector<const float*> inputs;
    int64_t batch = -1;
    for (size_t i = 0; i < program.inputs.size(); ++i) {
      const OrtValue* value = nullptr;
      check(ort_.KernelContext_GetInput(context, i, &value));
      if (!value) throw Refused("FusedRegion: an input is missing");
      const std::vector<int64_t> dims = dimensions(ort_, value);
      const Input& expected = program.inputs[i];
      if (dims != shape(dims.empty() ? 0 : dims[0], expected.rank, expected.shape) || (batch >= 0 && dims[0] != batch))
        throw Refused("FusedRegion: input " + std::to_string(i) + " has another shape than the program says");
      batch = dims[0];
      inputs.push_back(data(ort_, value));
    }
    std::vector<float*> outputs;
    for (size_t i = 0; i < program.outputs.size(); ++i) {
      const Output& output = program.outputs[i];
      const auto dims = shape(batch, output.rank, program.shapes[size_t(output.value)]);
      OrtValue* value = nullptr;
      check(ort_.KernelContext_GetOutput(context, i, dims.data(), dims.size(), &value));
      outputs.push_back(data(ort_, value));
    }
    region_.run(batch, inputs.data(), outputs.data(),
                [&](size_t count, const std::function<void(size_t)>& task) { parallel(context, count, task); });
  }

  struct Job {
    const std::function<void(size_t)>* task;
    std::mutex mutex;
    std::exception_ptr error;
  };

  // No exception may cross ONNX Runtime's threads: the first is kept and thrown here.
  void parallel(OrtKernelContext* context, size_t count, const std::function<void(size_t)>& task) const {
    Job job{&task, {}, nullptr};
    check(ort_.KernelContext_ParallelFor(
        context,
        [](void* pointer, size_t i) {
          Job& its = *static_cast<Job*>(pointer);
          try {
            (*its.task)(i);
          } catch (...) {
            const std::lock_guard<std::mutex> lock(its.mutex);
            if (!its.error) its.error = std::current_exception();
          }
        },
        count, 0, &job));
    if (job.error) std::rethrow_exception(job.error);
  }

  static std::vector<int64_t> shape(int64_t batch, int rank, const Shape& shape) {
    if (rank == 2) return {batch, shape.c};
    if (rank == kSequence) return {batch, shape.h, shape.c};
    if (rank == kChannelsLast) return {batch, shape.h, shape.w, shape.c};
    return {batch, shape.c, shape.h, shape.w};
  }

  static Program read_program(const Ort& ort, const OrtKernelInfo* info) {
    int64_t schema = 0;
    check(ort.KernelInfoGetAttribute_int64(info, "schema", &schema));
    const auto code = attribute<int64_t>(ort, [&](int64_t* out, size_t* size) {
      return ort.KernelInfoGetAttributeArray_int64(info, "program", out, size);
    });
    const auto constants = attribute<float>(ort, [&](float* out, size_t* size) {
      return ort.KernelInfoGetAttributeArray_float(info, "constants", out, size);
    });
    size_t inputs = 0, outputs = 0;
    check(ort.KernelInfo_GetInputCount(info, &inputs));
    check(ort.KernelInfo_GetOutputCount(info, &outputs));
    const size_t activations = activation_count(code);
    std::vector<Weight> weights;
    for (size_t i = activations; i < inputs; ++i) {
      int constant = 0;
      const OrtValue* value = nullptr;
      check(ort.KernelInfoGetConstantInput_tensor(info, i, &constant, &value));
      if (!constant || !value)
        throw Refused("FusedRegion: weight " + std::to_string(i - activations) + " is not a constant of the graph");
      weights.push_back({dimensions(ort, value), data(ort, value)});
    }
    Program program = parse(schema, code, constants, std::move(weights));
    if (inputs < activations || program.outputs.size() != outputs)
      throw Refused("FusedRegion: the node has another number of inputs or outputs than its program");
    return program;
  }

  Ort ort_;
  Region region_;
};

// What `OrtCustomOp` points to, with what one session was asked for. ONNX Runtime keeps the pointer for the
// session's life and says nothing at its end; these few bytes a session therefore live in a list until the
// library is unloaded.
struct Operator : OrtCustomOp {
  Options options;
};

const Options& options_of(const OrtCustomOp* op) { return static_cast<const Operator*>(op)->options; }

OrtCustomOp description() {
  OrtCustomOp op{};
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp*) { return "FusedRegion"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return kFloat; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return size_t(1); };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kFloat; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t(1); };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kVariadic; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kVariadic; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = [](const OrtCustomOp* self, OrtApi* api, const OrtKernelInfo* info, void** out) {
    const Ort ort(api);
    return guarded(ort, [&] { *out = new Kernel(ort, info, options_of(self)); });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return static_cast<const Kernel*>(kernel)->compute_guarded(context);
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return std::numeric_limits<int>::max(); };
  return op;
}

std::string read_text(const Ort& ort, const OrtSessionOptions* options, const char* key, const char* otherwise) {
  int has = 0;
  check(ort.HasSessionConfigEntry(options, key, &has));
  if (!has) return otherwise;
  size_t size = 0;
  if (OrtStatus* too_small = ort.GetSessionConfigEntry(options, key, nullptr, &size)) ort.ReleaseStatus(too_small);
  std::vector<char> text(size + 1);
  check(ort.GetSessionConfigEntry(options, key, text.data(), &size));
  return {text.data(), size - 1};
}

int read_number(const Ort& ort, const OrtSessionOptions* options, const char* key, int otherwise, int most) {
  const std::string text = read_text(ort, options, key, std::to_string(otherwise).c_str());
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (end == text.c_str() || *end || value < 0 || value > most)
    throw Refused(std::string(key) + " is '" + text + "', not a number from 0 to " + std::to_string(most));
  return int(value);
}

Options read_options(const Ort& ort, const OrtSessionOptions* from) {
  Options options;
  const int cores = int(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = read_number(ort, from, "nncompile.threads", 0, 1024);
  options.threads = threads ? threads : cores;
  options.exact = read_number(ort, from, "nncompile.exact", 0, 1) != 0;
  options.winograd = WinogradChoice::parse(read_text(ort, from, "nncompile.winograd", "auto"));
  options.split = read_number(ort, from, "nncompile.split", int(options.split), 1000000000);
  options.session = read_number(ort, from, "nncompile.session", 0, std::numeric_limits<int>::max());
  const std::string lanes = read_text(ort, from, "nncompile.lanes", "auto");
  if (lanes != "auto" && lanes != "off") throw Refused("nncompile.lanes is '" + lanes + "', not auto or off");
  options.lanes = lanes == "auto";
  return options;
}

}  // namespace

OrtStatus* register_operator(OrtSessionOptions* options, const OrtApiBase* base) {
  OrtApi* table = base->GetApi(kApiVersion);
  if (!table) return nullptr;
  const Ort ort(table);
  return guarded(ort, [&] {
    static std::mutex mutex;
    static std::vector<std::unique_ptr<Operator>> operators;
    auto made = std::make_unique<Operator>();
    static_cast<OrtCustomOp&>(*made) = description();
    made->options = read_options(ort, options);
    const Operator* const op = made.get();
    {
      const std::lock_guard<std::mutex> lock(mutex);
      operators.push_back(std::move(made));  // before anything points to it
    }
    OrtCustomOpDomain* domain = nullptr;
    check(ort.CreateCustomOpDomain("nncompile", &domain));
    check(ort.CustomOpDomain_Add(domain, op));
    check(ort.AddCustomOpDomain(options, domain));
  });
}

}  // namespace nncompile
