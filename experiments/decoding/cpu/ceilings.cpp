// What the machine can do at most: bytes read per second, and fp32 multiply-adds per second.
#include <cstdint>

#include "vector.h"

namespace {

// Twelve chains of multiply-adds hide the latency on two units; the sum keeps the compiler honest.
float multiply_add(int64_t rounds) {
  Vec a[12];
  for (int i = 0; i < 12; ++i) a[i] = splat(1.0f + i);
  const Vec x = splat(0.999f), y = splat(0.001f);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) a[i] = a[i] * x + y;
  Vec sum = {};
  for (int i = 0; i < 12; ++i) sum += a[i];
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += sum[i];
  return total;
}

float read_range(const float* data, int64_t begin, int64_t end) {
  Vec sums[8] = {};
  for (int64_t i = begin; i + 8 * kWidth <= end; i += 8 * kWidth)
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) sums[k] += load(data + i + k * kWidth);
  asm volatile("" ::: "memory");  // another pass over the same bytes is not the same value to the compiler
  Vec sum = {};
  for (int k = 0; k < 8; ++k) sum += sums[k];
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += sum[i];
  return total;
}

}  // namespace

extern "C" {

EXPORT int rl_exp_vector_width() { return kWidth; }  // fp32 lanes

// rounds * threads * 12 * vector width multiply-adds.
EXPORT void rl_exp_multiply_add(int64_t rounds, int threads, float* sink) {
  float total = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
  for (int i = 0; i < threads; ++i) total += multiply_add(rounds);
  *sink = total;
}

// Reads `elements` floats once (each thread its share), `repeats` times over.
EXPORT void rl_exp_read(const float* data, int64_t elements, int64_t repeats, int threads, float* sink) {
  float total = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
  for (int i = 0; i < threads; ++i)
    for (int64_t r = 0; r < repeats; ++r) total += read_range(data, elements * i / threads, elements * (i + 1) / threads);
  *sink = total;
}

}  // extern "C"
