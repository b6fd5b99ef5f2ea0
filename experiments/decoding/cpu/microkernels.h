// The two inner products of attention over one tile of cache rows, held in registers.
//
// Score kernel: `kRows` cache rows against a block of `block` query rows. A vector's lanes are (query row, d mod r),
// r = kWidth / block: queries are packed that way, r elements of a cache row are broadcast to all lanes, and the r
// partial sums of a score meet at the end. So every lane works whatever the group's size (a power of two), and each
// element of the cache is loaded once per block.
// Value kernel: `kM` query rows times `kN` vectors of a value, summed over the rows of the tile.
#pragma once

#include "vector.h"

constexpr int kRows = 8;  // cache rows of one score kernel

struct Segment {
  int64_t offset;  // in a tile row, for cached head 0
  int64_t head_stride;
  int64_t width;  // as used: padded to a multiple of kWidth
  int64_t query_width;  // true width in the query
};

// Sums the r = kWidth / kBlock partial sums of each score; writes scores[i * stride + m] for row i, query row m.
template <int kBlock, int kCount>
inline void store_scores(Vec (&sums)[kCount], float* scores, int64_t stride) {
  int vectors = kCount;
#pragma GCC unroll 4
  for (int parts = kWidth / kBlock; parts > 1; parts /= 2) {
    if (vectors > 1) {
      vectors /= 2;
#pragma GCC unroll 4
      for (int i = 0; i < vectors; ++i) sums[i] = add_neighbours(sums[2 * i], sums[2 * i + 1]);
    } else {
      sums[0] = add_neighbours(sums[0], sums[0]);
    }
  }
  constexpr int kPerVector = kWidth / kBlock < kCount ? kWidth / kBlock : kCount;
#pragma GCC unroll 8
  for (int i = 0; i < kCount / kPerVector; ++i) {
    alignas(64) float lanes[kWidth];
    *reinterpret_cast<Vec*>(lanes) = sums[i];
#pragma GCC unroll 8
    for (int j = 0; j < kPerVector; ++j)
      std::memcpy(scores + (i * kPerVector + j) * stride, lanes + j * kBlock, kBlock * sizeof(float));
  }
}

// kBlock <= kWidth query rows; `queries` as packed by pack_queries.
template <int kBlock>
void score_block(const float* const* rows, const Segment* segments, int n_segments, int64_t head,
                 const float* queries, float* scores, int64_t stride) {
  constexpr int kRepeat = kWidth / kBlock;
  Vec sums[kRows] = {};
  for (int s = 0; s < n_segments; ++s) {
    const int64_t offset = segments[s].offset + head * segments[s].head_stride;
    const float* row[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) row[i] = rows[i] + offset;
    const int64_t width = segments[s].width;
    for (int64_t d = 0; d < width; d += kRepeat, queries += kWidth) {
      const Vec q = load(queries);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) sums[i] += q * load_repeated<kRepeat>(row[i] + d);
    }
  }
  store_scores<kBlock>(sums, scores, stride);
}

// 2 * kWidth query rows at a time: a cache element's broadcast serves two vectors.
template <int kTileRows>
void score_double_block(const float* const* rows, const Segment* segments, int n_segments, int64_t head,
                        const float* queries, float* scores, int64_t stride) {
  Vec low[kTileRows] = {}, high[kTileRows] = {};
  for (int s = 0; s < n_segments; ++s) {
    const int64_t offset = segments[s].offset + head * segments[s].head_stride;
    const float* row[kTileRows];
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i) row[i] = rows[i] + offset;
    const int64_t width = segments[s].width;
    for (int64_t d = 0; d < width; ++d, queries += 2 * kWidth) {
      const Vec q_low = load(queries), q_high = load(queries + kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kTileRows; ++i) {
        const Vec x = splat(row[i][d]);
        low[i] += q_low * x;
        high[i] += q_high * x;
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; ++i) {
    store(scores + i * stride, low[i]);
    store(scores + i * stride + kWidth, high[i]);
  }
}

// outputs[m][n] = outputs[m][n] * decay[m] + sum over t of weights[t * stride + m] * rows[t][offset + n]
template <int kM, int kN>
void value_block(const float* const* rows, int64_t count, int64_t offset, const float* weights, int64_t stride,
                 const float* decay, float* outputs, int64_t output_stride) {
  Vec sums[kM][kN];
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) sums[m][n] = load(outputs + m * output_stride + n * kWidth) * splat(decay[m]);
  for (int64_t t = 0; t < count; ++t, weights += stride) {
    const float* value = rows[t] + offset;
    Vec x[kN];
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) x[n] = load(value + n * kWidth);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      const Vec weight = splat(weights[m]);
#pragma GCC unroll 8
      for (int n = 0; n < kN; ++n) sums[m][n] += weight * x[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) store(outputs + m * output_stride + n * kWidth, sums[m][n]);
}
