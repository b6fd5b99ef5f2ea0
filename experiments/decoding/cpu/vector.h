// Vectors of fp32 as wide as the machine's, in the compilers' portable vector notation. The few intrinsics are loads
// that the notation cannot express as one instruction; each has a portable twin.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // fp32 lanes
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kWidth = 8;
constexpr int kRegisters = 16;
#else
constexpr int kWidth = 4;
constexpr int kRegisters = 32;
#endif

#define EXPORT __attribute__((visibility("default")))

typedef float Vec __attribute__((vector_size(kWidth * 4), aligned(kWidth * 4)));
typedef float UnalignedVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));
typedef uint16_t ShortVec __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec splat(float x) { return x - Vec{}; }
// Keeps a value that serves several operations in a register: compilers like to load it anew for each of them.
inline __attribute__((always_inline)) void hold(Vec& v) {
#if defined(__AVX__)
  asm("" : "+v"(v));
#endif
}
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// bf16 is the upper half of an fp32: widening is exact.
inline Vec load_bf16(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#elif defined(__AVX2__)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
#else
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const ShortVec*>(p), IntVec) << 16);
#endif
}

inline Vec load(const uint16_t* p) { return load_bf16(p); }

// Exact: an fp32 with the exponent and mantissa of the fp16, times 2^112 for the other bias, which makes numbers of
// subnormals too; infinities and NaN get their exponent back.
inline Vec load_fp16(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  const IntVec bits = __builtin_convertvector(*reinterpret_cast<const ShortVec*>(p), IntVec);
  const IntVec magnitude = bits & 0x7fff, special = magnitude >= 0x7c00;
  const Vec scaled = (Vec)(magnitude << 13) * splat(0x1p112f);
  return (Vec)((IntVec)scaled | (special & 0x7f800000) | ((bits & 0x8000) << 16));
#endif
}

// Lane i gets p[i % kRepeat]: one broadcast load.
template <int kRepeat>
inline Vec load_repeated(const float* p) {
  if constexpr (kRepeat == 1) return splat(*p);
  if constexpr (kRepeat == kWidth) return load(p);
#if defined(__AVX512F__)
  if constexpr (kRepeat == 2) return (Vec)_mm512_castpd_ps(_mm512_set1_pd(*reinterpret_cast<const double*>(p)));
  if constexpr (kRepeat == 4) return (Vec)_mm512_broadcast_f32x4(_mm_loadu_ps(p));
  if constexpr (kRepeat == 8) return (Vec)_mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_loadu_pd((const double*)p)));
#elif defined(__AVX__)
  if constexpr (kRepeat == 2) return (Vec)_mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(p)));
  if constexpr (kRepeat == 4) return (Vec)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#endif
  Vec v;
  for (int i = 0; i < kWidth; ++i) v[i] = p[i % kRepeat];
  return v;
}

// Stores lanes part * kLanes .. part * kLanes + kLanes - 1; `part` must be known to the compiler after unrolling.
template <int kLanes>
inline __attribute__((always_inline)) void store_part(float* p, Vec v, int part) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 4) {
    const __m512 x = (__m512)v;
    return _mm_storeu_ps(p, part == 0   ? _mm512_castps512_ps128(x)
                            : part == 1 ? _mm512_extractf32x4_ps(x, 1)
                            : part == 2 ? _mm512_extractf32x4_ps(x, 2)
                                        : _mm512_extractf32x4_ps(x, 3));
  }
  if constexpr (kLanes == 8) {
    const __m512d x = (__m512d)v;
    return _mm256_storeu_pd((double*)p, part == 0 ? _mm512_castpd512_pd256(x) : _mm512_extractf64x4_pd(x, 1));
  }
#endif
  if constexpr (kLanes == kWidth) return store(p, v);
  alignas(64) float lanes[kWidth];
  *reinterpret_cast<Vec*>(lanes) = v;
  std::memcpy(p, lanes + part * kLanes, kLanes * sizeof(float));
}

// [a0+a1, a2+a3, .. | b0+b1, b2+b3, ..]
inline Vec add_neighbours(Vec a, Vec b) {
#if defined(__AVX512F__)
  const Vec even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Vec odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX__)
  const Vec even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  const Vec odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  const Vec even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  const Vec odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
  return even + odd;
}

#if defined(__AVX__) && !defined(__AVX512F__)
// [sum of a, sum of b, sum of c, sum of d]
inline __m128 sum_each(Vec a, Vec b, Vec c, Vec d) {
  const __m256 ab = _mm256_hadd_ps((__m256)a, (__m256)b), cd = _mm256_hadd_ps((__m256)c, (__m256)d);
  const __m256 halves = _mm256_hadd_ps(ab, cd);
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}
#endif

// 2^x for x <= 0, to 1 ulp or so; exactly 0 below 2^-126. Coefficients: Cephes, exp2f.
inline Vec exp2_nonpositive(Vec x) {
  const IntVec normal = x >= splat(-126.0f);
  x = maximum(x, splat(-126.0f));
  const IntVec whole = __builtin_convertvector(x - splat(0.5f), IntVec);  // truncation: nearest, as x <= 0
  const Vec f = x - __builtin_convertvector(whole, Vec);
  Vec y = splat(1.535336188319500e-4f);
  y = y * f + splat(1.339887440266574e-3f);
  y = y * f + splat(9.618437357674640e-3f);
  y = y * f + splat(5.550332471162809e-2f);
  y = y * f + splat(2.402264791363012e-1f);
  y = y * f + splat(6.931472028550421e-1f);
  y = y * f + splat(1.0f);
  return (Vec)(((IntVec)y + (whole << 23)) & normal);
}
