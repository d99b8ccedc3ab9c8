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

bool wrong(double got, const reference::Number& want) {
  if (std::abs(want.value) + want.error > double(FLT_MAX)) return false;  // float32 may not have such a number
  return !(std::abs(got - want.value) <= want.error);
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

// How many elements are wrong in the answers of several calls with the same inputs.
size_t faults(const Program& program, int batch, const std::vector<const float*>& inputs,
              const std::vector<std::vector<Exactly>>& answers, bool winograd) {
  size_t count = 0;
  for (int sample = 0; sample < batch; ++sample) {
    std::vector<const float*> from;
    for (size_t i = 0; i < inputs.size(); ++i)
      from.push_back(inputs[i] + size_t(sample) * program.inputs[i].shape.size());
    const reference::Sample want(program, from, winograd);
    for (size_t o = 0; o < program.outputs.size(); ++o) {
      const reference::Tensor& tensor = want.value(program.outputs[o].value);
      const std::vector<reference::Number>& values = tensor.data;
      for (const std::vector<Exactly>& answer : answers) {
        const float* got = answer[o].data() + size_t(sample) * values.size();
        for (size_t i = 0; i < values.size(); ++i) 
          count += wrong(double(got[i]), values[tensor.from(i, program.outputs[o].rank)]) ? 1 : 0;
      }
    }
  }
  return count;
}

Options random_options(RandomProgram& made) {
  Options options;
  options.threads = made.number(0, 7) ? made.number(1, 4) : 40;
  options.exact = made.number(0, 1) != 0;
  static constexpr double kCaches[] = {4e3, 16e3, 64e3};
  if (made.number(0, 1)) options.cache = kCaches[made.number(0, 2)];  // small: steps of small planes run row by row
  static const char* const kWinograd[] = {"auto", "always", "never"};
  options.winograd = WinogradChoice::parse(kWinograd[made.number(0, 2)]);
  options.lanes = made.number(0, 3) != 0;
  options.split = made.number(0, 1) ? options.split : 0;
  return options;
}

size_t try_one(uint64_t seed) {
  static constexpr int kBatches[] = {0, 1, 2, 3, 5, 8, 11, 16, 17, 25, 35};
  RandomProgram made(seed);
  const Options options = random_options(made);
  const Region region(made.program(), options);
  const Program& program = region.program();
  const int batch = made.large() ? made.number(1, 3) : kBatches[made.number(0, 10)];
  std::vector<size_t> in, out;
  for (const Input& input : program.inputs) in.push_back(input.shape.size());
  for (const Output& output : program.outputs) out.push_back(program.shapes[size_t(output.value)].size());
  std::vector<Exactly> inputs = floats(in, batch);
  for (Exactly& input : inputs) made.fill(input);
  const auto from = pointers<const float*>(inputs);
  std::vector<std::vector<Exactly>> answers;
  for (int call = 0; call < 4; ++call) answers.push_back(floats(out, batch));
  const auto run = [&](size_t call) {
    region.run(batch, from.data(), pointers<float*>(answers[call]).data(), on_threads);
  };
  // Two calls at once, twice: the second time in arenas that hold what the first left there.
  for (const size_t call : {0, 2}) {
    std::thread other(run, call + 1);
    run(call);
    other.join();
  }
  const size_t count = faults(program, batch, from, answers, !options.exact);
  if (count)
    std::printf("seed %llu: %zu wrong elements (batch %d, %d threads, exact %d)\n",
                static_cast<unsigned long long>(seed), count, batch, options.threads, int(options.exact));
  return count;
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
