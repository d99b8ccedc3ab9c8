// Random programs without ONNX Runtime, for sanitizers and valgrind: every answer is compared with the reference.
//
//     stress [programs] [first seed]
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "../src/region.h"
#include "random_program.h"
#include "reference.h"

namespace nncompile {
namespace {

// Every task on a thread of its own pool, as ONNX Runtime's pool may do it.
void on_threads(size_t count, const std::function<void(size_t)>& task) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < count;) task(i);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min<size_t>(count, 4); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

bool close(double got, double want, bool exact) {
  if (std::isnan(got) || std::isnan(want)) return std::isnan(got) && std::isnan(want);
  return std::abs(got - want) <= (exact ? 1e-5 + 1e-4 * std::abs(want) : 1e-3 * std::max(1.0, std::abs(want)));
}

std::vector<Exactly> floats(const std::vector<size_t>& sizes, int batch) {
  std::vector<Exactly> result;
  for (const size_t size : sizes) result.emplace_back(size * size_t(batch));
  return result;
}

template <class Pointer>
std::vector<Pointer> pointers(std::vector<Exactly>& tensors) {
  std::vector<Pointer> result;
  for (Exactly& tensor : tensors) result.push_back(tensor.data());
  return result;
}

// How many elements are wrong.
size_t faults(const Program& program, int batch, std::vector<Exactly>& inputs, std::vector<Exactly>& outputs,
              bool exact) {
  size_t wrong = 0;
  for (int sample = 0; sample < batch; ++sample) {
    std::vector<const float*> from;
    for (size_t i = 0; i < inputs.size(); ++i)
      from.push_back(inputs[i].data() + size_t(sample) * program.inputs[i].shape.size());
    const reference::Sample want(program, from);
    for (size_t o = 0; o < outputs.size(); ++o) {
      const std::vector<double>& values = want.value(program.outputs[o].value).data;
      const float* got = outputs[o].data() + size_t(sample) * values.size();
      for (size_t i = 0; i < values.size(); ++i) wrong += close(double(got[i]), values[i], exact) ? 0 : 1;
    }
  }
  return wrong;
}

size_t try_one(uint64_t seed) {
  static constexpr int kBatches[] = {0, 1, 2, 3, 7, 8, 9, 16, 17, 33};
  RandomProgram made(seed);
  Options options;
  options.threads = made.number(1, 4);
  options.exact = made.number(0, 1) != 0;
  static constexpr double kCaches[] = {4e3, 16e3, 64e3};
  if (made.number(0, 1)) options.cache = kCaches[made.number(0, 2)];  // small: steps of small planes run row by row
  static const char* const kWinograd[] = {"auto", "always", "never"};
  options.winograd = WinogradChoice::parse(kWinograd[made.number(0, 2)]);
  options.lanes = made.number(0, 3) != 0;
  options.split = made.number(0, 1) ? options.split : 0;
  const Region region(made.program(), options);
  const Program& program = region.program();
  const int batch = made.large() ? made.number(1, 3) : kBatches[made.number(0, 9)];
  std::vector<size_t> in, out;
  for (const Input& input : program.inputs) in.push_back(input.shape.size());
  for (const Output& output : program.outputs) out.push_back(program.shapes[size_t(output.value)].size());
  std::vector<Exactly> inputs = floats(in, batch);
  for (Exactly& input : inputs) made.fill(input);
  const auto from = pointers<const float*>(inputs);
  // Two calls at once, twice: the second time in arenas that hold what the first left there.
  size_t wrong = 0;
  for (int round = 0; round < 2; ++round) {
    std::vector<Exactly> here = floats(out, batch), there = floats(out, batch);
    std::thread other([&] { region.run(batch, from.data(), pointers<float*>(there).data(), on_threads); });
    region.run(batch, from.data(), pointers<float*>(here).data(), on_threads);
    other.join();
    wrong += faults(program, batch, inputs, here, options.exact) + faults(program, batch, inputs, there, options.exact);
  }
  if (wrong)
    std::printf("seed %llu: %zu wrong elements (batch %d, %d threads, exact %d)\n", static_cast<unsigned long long>(seed),
                wrong, batch, options.threads, int(options.exact));
  return wrong;
}

}  // namespace
}  // namespace nncompile

int main(int argc, char** argv) {
  const uint64_t programs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200;
  const uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  uint64_t failed = 0;
  for (uint64_t seed = first; seed < first + programs; ++seed) failed += nncompile::try_one(seed) ? 1 : 0;
  std::printf("%llu of %llu programs failed\n", static_cast<unsigned long long>(failed),
              static_cast<unsigned long long>(programs));
  return failed ? 1 : 0;
}
