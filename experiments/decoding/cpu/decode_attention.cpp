// Decode attention over a paged cache, for every mechanism: one pass over the rows of a sequence serves all heads.
//
// A sequence is cut into chunks of tokens; threads take chunks one after the other. Within a chunk, a tile of rows (a
// few dozen KiB) is scored against all query rows, its softmax weights are formed, and its values are added, while the
// next tile is on its way from memory; so each cached byte comes from memory once, whether it serves as key, as value
// or as both, and for however many heads. Chunks leave (sum of weighted values, largest score, sum of weights); who
// finishes a sequence's last chunk merges them in order. How a sequence is cut depends on its length only: its result
// is the same bits whatever the number of threads and whatever shares its batch.
//
// Query rows of cached head g are its group's heads times query tokens: row = t * group + h. Scores live as
// [tile row][query row], so that softmax runs over full vectors of query rows.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "microkernels.h"

extern "C" {

// One call; mirrored field by field by the Python side. Tensors are contiguous.
struct Problem {
  int64_t batch, query_length, query_heads, cached_heads;
  int64_t n_states, state_heads[2], state_dims[2];
  int64_t n_segments, segment_states[2], segment_widths[2], value_state;
  int64_t pages, page_size, pages_per_sequence;
  int64_t is_bf16, threads;
  const void* storage;        // [pages, page_size, row elements]
  const int32_t* page_table;  // [batch, pages_per_sequence]
  const int32_t* lengths;     // [batch]
  const float* queries;       // [batch, query_length, query_heads, key dim]
  float* outputs;             // [batch, query_length, query_heads, value dim]
  double softmax_scale;
};
}

namespace {

constexpr float kFloor = -std::numeric_limits<float>::max();  // a running maximum that has seen nothing
constexpr float kHidden = -std::numeric_limits<float>::infinity();

int64_t tile_bytes() { static const char* e = std::getenv("TILE_BYTES"); return e ? std::atoll(e) : 32 * 1024; }

int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// The numbers that every chunk needs, derived once per call.
struct Plan {
  const Problem& problem;
  int64_t group_rows;     // query rows per cached head
  int64_t rows;           // query rows of all cached heads, padded to whole vectors
  int64_t key_dim;        // of a query
  int64_t value_dim;      // of an output
  int64_t padded_value;   // value_dim in whole vectors
  int64_t row_elements;   // of the cache
  bool direct;            // tiles are cache rows as they lie, else widened and padded copies
  int64_t tile_elements;  // of a tile row
  int64_t tile_rows;
  Segment segments[2];
  int64_t packed_group;   // elements of one cached head's packed queries
  int64_t value_offset, value_stride;
  int64_t state_tile_dims[2];

  explicit Plan(const Problem& p) : problem(p) {
    group_rows = p.query_heads / p.cached_heads * p.query_length;
    rows = round_up(p.query_heads * p.query_length, kWidth);
    row_elements = tile_elements = 0;
    direct = !p.is_bf16;
    for (int64_t s = 0; s < p.n_states; ++s) {
      row_elements += p.state_heads[s] * p.state_dims[s];
      direct = direct && p.state_dims[s] % kWidth == 0;
    }
    for (int64_t i = 0; i < p.n_segments; ++i) direct = direct && p.segment_widths[i] % kWidth == 0;
    int64_t offsets[2] = {0, 0};
    for (int64_t s = 0; s < p.n_states; ++s) {
      state_tile_dims[s] = direct ? p.state_dims[s] : round_up(p.state_dims[s], kWidth);
      offsets[s] = tile_elements;
      tile_elements += p.state_heads[s] * state_tile_dims[s];
    }
    key_dim = packed_group = 0;
    for (int64_t i = 0; i < p.n_segments; ++i) {
      const int64_t s = p.segment_states[i], width = p.segment_widths[i];
      segments[i] = {offsets[s], p.state_heads[s] == 1 ? 0 : state_tile_dims[s], round_up(width, kWidth), width};
      key_dim += width;
      packed_group += segments[i].width * group_rows;
    }
    value_dim = p.state_dims[p.value_state];
    padded_value = round_up(value_dim, kWidth);
    value_offset = offsets[p.value_state];
    value_stride = state_tile_dims[p.value_state];
    tile_rows = std::clamp(tile_bytes() / (tile_elements * 4) / kRows * kRows, int64_t{kRows}, int64_t{64});
  }

  // Tokens per chunk of a sequence: about 16 chunks, within bounds that keep merging and idle threads cheap.
  static int64_t chunk_tokens(int64_t length) {
    int64_t tokens = 128;
    while (tokens < 1024 && tokens * 16 < length) tokens *= 2;
    return tokens;
  }
};

struct Chunk {
  int64_t sequence, begin, end;
  bool whole;  // the sequence's only chunk
};

// Query blocks of the score kernel: powers of two that add up to the group's rows, widest first.
int64_t next_block(int64_t rows_left) {
  int64_t block = 2 * kWidth;
  while (block > rows_left) block /= 2;
  return block;
}

class Worker {
 public:
  explicit Worker(const Plan& plan) : plan_(plan), p_(plan.problem) {
    const int64_t sizes[] = {plan.packed_group * p_.cached_heads,
                             plan.tile_rows * plan.rows,
                             p_.query_heads * p_.query_length * plan.padded_value,
                             3 * plan.rows,
                             plan.direct ? 0 : plan.tile_rows * plan.tile_elements};
    int64_t total = 0;
    for (const int64_t size : sizes) total += round_up(size, 64);
    static thread_local std::vector<float> memory;  // kept between calls: a step allocates nothing
    if (static_cast<int64_t>(memory.size()) < total + 16) memory.resize(total + 16);
    float* next = reinterpret_cast<float*>(round_up(reinterpret_cast<int64_t>(memory.data()), 64));
    float** parts[] = {&queries_, &scores_, &sums_, &maxima_, &tile_};
    for (int i = 0; i < 5; ++i) {
      *parts[i] = next;
      next += round_up(sizes[i], 64);
    }
    weights_ = maxima_ + plan.rows;
    decay_ = weights_ + plan.rows;
  }

  void run(const Chunk& chunk) {
    if (chunk.sequence != packed_sequence_) pack_queries(chunk.sequence);
    std::fill_n(sums_, p_.query_heads * p_.query_length * plan_.padded_value, 0.0f);
    std::fill_n(maxima_, plan_.rows, kFloor);
    std::fill_n(weights_, plan_.rows, 0.0f);
    locate(chunk.sequence, chunk.begin, std::min(chunk.begin + plan_.tile_rows, chunk.end), next_rows_);
    for (int64_t begin = chunk.begin; begin < chunk.end; begin += plan_.tile_rows) {
      const int64_t end = std::min(begin + plan_.tile_rows, chunk.end), count = end - begin;
      std::copy_n(next_rows_, kMaxTileRows, raw_rows_);
      next_count_ = std::max<int64_t>(0, std::min(plan_.tile_rows, chunk.end - end));
      if (next_count_ > 0) locate(chunk.sequence, end, end + next_count_, next_rows_);
      start_prefetch();
      prepare_tile(count);
      score_tile(round_up(count, kRows));
      hide_future(begin, count, p_.lengths[chunk.sequence]);
      weigh_tile(count);
      add_values(count);
    }
  }

  void write_output(int64_t sequence) const { write(sequence, sums_, weights_); }

  // sums [query row][padded value], then maxima [rows], then weights [rows].
  void write_partial(float* partial) const {
    const int64_t n = p_.query_heads * p_.query_length * plan_.padded_value;
    std::copy_n(sums_, n, partial);
    std::copy_n(maxima_, 2 * plan_.rows, partial + n);
  }

  void merge(int64_t sequence, const float* partials, int64_t count, int64_t partial_size) {
    const int64_t n_rows = p_.query_heads * p_.query_length, n = n_rows * plan_.padded_value;
    std::copy_n(partials, n, sums_);
    std::copy_n(partials + n, 2 * plan_.rows, maxima_);
    for (int64_t c = 1; c < count; ++c) {
      const float* part = partials + c * partial_size;
      for (int64_t r = 0; r < plan_.rows; r += kWidth) {
        const Vec old = load(maxima_ + r), other = load(part + n + r), top = maximum(old, other);
        const Vec keep = exp2_nonpositive(old - top), add = exp2_nonpositive(other - top);
        store(maxima_ + r, top);
        store(weights_ + r, load(weights_ + r) * keep + load(part + n + plan_.rows + r) * add);
        store(decay_ + r, keep);
        store(scores_ + r, add);
      }
      for (int64_t r = 0; r < n_rows; ++r) {
        const Vec keep = splat(decay_[r]), add = splat(scores_[r]);
        float* sum = sums_ + r * plan_.padded_value;
        const float* other = part + r * plan_.padded_value;
        for (int64_t d = 0; d < plan_.padded_value; d += kWidth)
          store(sum + d, load(sum + d) * keep + load(other + d) * add);
      }
    }
    write_output(sequence);
  }

 private:
  static constexpr int64_t kMaxTileRows = 64;

  const Plan& plan_;
  const Problem& p_;
  float *queries_, *scores_, *sums_, *maxima_, *weights_, *decay_, *tile_;
  int64_t packed_sequence_ = -1;
  const char* raw_rows_[kMaxTileRows];   // this tile's rows in the cache
  const char* next_rows_[kMaxTileRows];  // the next tile's
  const float* rows_[kMaxTileRows];      // this tile's rows as fp32
  int64_t next_count_ = 0, prefetch_row_ = 0, prefetch_byte_ = 0, prefetch_quota_ = 0;

  void locate(int64_t sequence, int64_t begin, int64_t end, const char** rows) const {
    const int32_t* table = p_.page_table + sequence * p_.pages_per_sequence;
    const int64_t row_bytes = plan_.row_elements * (p_.is_bf16 ? 2 : 4);
    const char* storage = static_cast<const char*>(p_.storage);
    int64_t page = begin / p_.page_size, slot = begin % p_.page_size;
    for (int64_t t = begin; t < end; ++t) {
      rows[t - begin] = storage + (table[page] * p_.page_size + slot) * row_bytes;
      if (++slot == p_.page_size) slot = 0, ++page;
    }
  }

  // Queries times scale times log2(e), in the order in which the score kernel meets them.
  void pack_queries(int64_t sequence) {
    packed_sequence_ = sequence;
    const int64_t group = p_.query_heads / p_.cached_heads;
    const float scale = static_cast<float>(p_.softmax_scale * 1.4426950408889634);
    const float* queries = p_.queries + sequence * p_.query_length * p_.query_heads * plan_.key_dim;
    float* out = queries_;
    for (int64_t g = 0; g < p_.cached_heads; ++g) {
      for (int64_t start = 0, block; start < plan_.group_rows; start += block) {
        block = next_block(plan_.group_rows - start);
        const int64_t repeat = std::max<int64_t>(1, kWidth / block);
        int64_t first = 0;
        for (int64_t s = 0; s < p_.n_segments; first += plan_.segments[s++].query_width)
          for (int64_t d = 0; d < plan_.segments[s].width; d += repeat)
            for (int64_t m = start; m < start + block; ++m) {
              const float* query = queries + (m / group * p_.query_heads + g * group + m % group) * plan_.key_dim;
              for (int64_t i = d; i < d + repeat; ++i)
                *out++ = i < plan_.segments[s].query_width ? query[first + i] * scale : 0.0f;
            }
      }
    }
  }

  void prepare_tile(int64_t count) {
    if (plan_.direct) {
      for (int64_t t = 0; t < count; ++t) rows_[t] = reinterpret_cast<const float*>(raw_rows_[t]);
    } else {
      for (int64_t t = 0; t < count; ++t) {
        float* out = tile_ + t * plan_.tile_elements;
        rows_[t] = out;
        int64_t element = 0;
        for (int64_t s = 0; s < p_.n_states; ++s)
          for (int64_t h = 0; h < p_.state_heads[s]; ++h) {
            widen(raw_rows_[t], element, p_.state_dims[s], out);
            element += p_.state_dims[s];
            out += plan_.state_tile_dims[s];
          }
      }
    }
    for (int64_t t = count; t < round_up(count, kRows); ++t) rows_[t] = rows_[count - 1];  // scored, never used
  }

  void widen(const char* row, int64_t element, int64_t dim, float* out) const {
    int64_t d = 0;
    if (p_.is_bf16) {
      const uint16_t* in = reinterpret_cast<const uint16_t*>(row) + element;
      for (; d + kWidth <= dim; d += kWidth) store(out + d, load_bf16(in + d));
      for (; d < dim; ++d) {
        const uint32_t bits = static_cast<uint32_t>(in[d]) << 16;
        std::memcpy(out + d, &bits, 4);
      }
    } else {
      std::copy_n(reinterpret_cast<const float*>(row) + element, dim, out);
      d = dim;
    }
    for (; d % kWidth; ++d) out[d] = 0.0f;
  }

  void start_prefetch() {
    prefetch_row_ = prefetch_byte_ = 0;
    const int64_t lines = (plan_.row_elements * (p_.is_bf16 ? 2 : 4) / 64 + 1) * next_count_;
    prefetch_quota_ = lines / (2 * p_.cached_heads) + 1;
  }

  // Asks for the next share of the next tile, so that requests spread over this tile's arithmetic.
  void prefetch_some() {
    const int64_t row_bytes = plan_.row_elements * (p_.is_bf16 ? 2 : 4);
    for (int64_t i = 0; i < prefetch_quota_ && prefetch_row_ < next_count_; ++i) {
      __builtin_prefetch(next_rows_[prefetch_row_] + prefetch_byte_, 0, 2);
      prefetch_byte_ += 64;
      if (prefetch_byte_ >= row_bytes) prefetch_byte_ = 0, ++prefetch_row_;
    }
  }

  void score_tile(int64_t count) {
    const float* queries = queries_;
    for (int64_t g = 0; g < p_.cached_heads; ++g) {
      prefetch_some();
      for (int64_t start = 0, block; start < plan_.group_rows; start += block) {
        block = next_block(plan_.group_rows - start);
        for (int64_t t = 0; t < count; t += kRows)
          score_rows(block, t, g, queries, scores_ + t * plan_.rows + g * plan_.group_rows + start);
        queries += block * plan_.packed_group / plan_.group_rows;
      }
    }
  }

  void score_rows(int64_t block, int64_t t, int64_t g, const float* queries, float* scores) const {
    const float* const* rows = rows_ + t;
    const Segment* segments = plan_.segments;
    const int n = static_cast<int>(p_.n_segments);
    const int64_t stride = plan_.rows;
    if (block == 2 * kWidth) {
      constexpr int kHalf = kRegisters >= 32 ? kRows : kRows / 2;  // accumulators must stay in registers
      for (int i = 0; i < kRows; i += kHalf)
        score_double_block<kHalf>(rows + i, segments, n, g, queries, scores + i * stride, stride);
      return;
    }
    switch (block) {
      case 1: return score_block<1>(rows, segments, n, g, queries, scores, stride);
      case 2: return score_block<2>(rows, segments, n, g, queries, scores, stride);
      case 4: return score_block<4>(rows, segments, n, g, queries, scores, stride);
#if defined(__AVX__) || defined(__AVX512F__)
      case 8: return score_block<8>(rows, segments, n, g, queries, scores, stride);
#endif
#if defined(__AVX512F__)
      case 16: return score_block<16>(rows, segments, n, g, queries, scores, stride);
#endif
    }
  }

  // Query token t of a sequence of length n sits at n - query_length + t and sees nothing behind itself.
  void hide_future(int64_t begin, int64_t count, int64_t length) {
    const int64_t group = p_.query_heads / p_.cached_heads, first_query = length - p_.query_length;
    for (int64_t t = std::max<int64_t>(0, first_query + 1 - begin); t < count; ++t)
      for (int64_t g = 0; g < p_.cached_heads; ++g)
        for (int64_t m = 0; m < plan_.group_rows; ++m)
          if (begin + t > first_query + m / group) scores_[t * plan_.rows + g * plan_.group_rows + m] = kHidden;
  }

  // Scores become weights 2^(score - running maximum); the maximum and the sum of weights move on.
  void weigh_tile(int64_t count) {
    for (int64_t r = 0; r < plan_.rows; r += kWidth) {
      const Vec old = load(maxima_ + r);
      Vec top = old;
      for (int64_t t = 0; t < count; ++t) top = maximum(load(scores_ + t * plan_.rows + r), top);
      const Vec decay = exp2_nonpositive(old - top);
      Vec sum = load(weights_ + r) * decay;
      for (int64_t t = 0; t < count; ++t) {
        const Vec weight = exp2_nonpositive(load(scores_ + t * plan_.rows + r) - top);
        store(scores_ + t * plan_.rows + r, weight);
        sum += weight;
      }
      store(maxima_ + r, top);
      store(weights_ + r, sum);
      store(decay_ + r, decay);
    }
  }

  void add_values(int64_t count) {
    constexpr int kNarrow = kRegisters >= 32 ? 4 : 2;  // vectors beside up to six query rows
    for (int64_t g = 0; g < p_.cached_heads; ++g) {
      prefetch_some();
      const int64_t first = g * plan_.group_rows, offset = plan_.value_offset + g * plan_.value_stride;
      for (int64_t d = 0, vectors; d < plan_.padded_value; d += vectors * kWidth) {
        const int64_t left = (plan_.padded_value - d) / kWidth;
        vectors = plan_.group_rows <= 2 && left >= 4 ? 4 : left >= kNarrow ? kNarrow : left >= 2 ? 2 : 1;
        const int64_t blocks = (plan_.group_rows + 5) / 6;
        for (int64_t b = 0; b < blocks; ++b) {
          const int64_t from = plan_.group_rows * b / blocks, to = plan_.group_rows * (b + 1) / blocks;
          value_rows(to - from, vectors, count, offset + d, scores_ + first + from, decay_ + first + from,
                     sums_ + (first + from) * plan_.padded_value + d);
        }
      }
    }
  }

  template <int kM>
  void value_rows_of(int64_t vectors, int64_t count, int64_t offset, const float* weights, const float* decay,
                     float* sums) const {
    const int64_t stride = plan_.rows, output_stride = plan_.padded_value;
    if (vectors == 4) return value_block<kM, 4>(rows_, count, offset, weights, stride, decay, sums, output_stride);
    if (vectors == 2) return value_block<kM, 2>(rows_, count, offset, weights, stride, decay, sums, output_stride);
    value_block<kM, 1>(rows_, count, offset, weights, stride, decay, sums, output_stride);
  }

  void value_rows(int64_t m, int64_t vectors, int64_t count, int64_t offset, const float* weights,
                  const float* decay, float* sums) const {
    switch (m) {
      case 1: return value_rows_of<1>(vectors, count, offset, weights, decay, sums);
      case 2: return value_rows_of<2>(vectors, count, offset, weights, decay, sums);
      case 3: return value_rows_of<3>(vectors, count, offset, weights, decay, sums);
      case 4: return value_rows_of<4>(vectors, count, offset, weights, decay, sums);
      case 5: return value_rows_of<5>(vectors, count, offset, weights, decay, sums);
      default: return value_rows_of<6>(vectors, count, offset, weights, decay, sums);
    }
  }

  void write(int64_t sequence, const float* sums, const float* weights) const {
    const int64_t group = p_.query_heads / p_.cached_heads;
    for (int64_t g = 0; g < p_.cached_heads; ++g)
      for (int64_t m = 0; m < plan_.group_rows; ++m) {
        const int64_t row = g * plan_.group_rows + m;
        const float inverse = weights[row] > 0 ? 1.0f / weights[row] : 0.0f;  // a query that sees nothing: zeros
        float* out = p_.outputs +
            ((sequence * p_.query_length + m / group) * p_.query_heads + g * group + m % group) * plan_.value_dim;
        for (int64_t d = 0; d < plan_.value_dim; ++d) out[d] = sums[row * plan_.padded_value + d] * inverse;
      }
  }
};

}  // namespace

extern "C" {

// 0, or 1 + the first sequence whose length does not fit its page table or whose table names a page that is not there.
int64_t rl_exp_decode_attention(const Problem* problem) {
  const Problem& p = *problem;
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t used = (p.lengths[b] + p.page_size - 1) / p.page_size;
    if (p.lengths[b] < 0 || used > p.pages_per_sequence) return 1 + b;
    for (int64_t i = 0; i < used; ++i) {
      const int32_t page = p.page_table[b * p.pages_per_sequence + i];
      if (page < 0 || page >= p.pages) return 1 + b;
    }
  }
  const Plan plan(p);
  std::vector<Chunk> chunks;
  std::vector<int64_t> first_chunk(p.batch + 1, 0);
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t length = p.lengths[b], tokens = Plan::chunk_tokens(length);
    for (int64_t begin = 0; begin < length || begin == 0; begin += tokens)
      chunks.push_back({b, begin, std::min(begin + tokens, length), length <= tokens});
    first_chunk[b + 1] = static_cast<int64_t>(chunks.size());
  }
  const int64_t partial_size =
      round_up(p.query_heads * p.query_length * plan.padded_value + 2 * plan.rows, 16);
  static thread_local std::vector<float> partials;
  if (static_cast<int64_t>(chunks.size()) > p.batch && partials.size() < chunks.size() * partial_size)
    partials.resize(chunks.size() * partial_size);
  float* const partial = partials.data();
  std::unique_ptr<std::atomic<int64_t>[]> left(new std::atomic<int64_t>[p.batch]);
  for (int64_t b = 0; b < p.batch; ++b) left[b] = first_chunk[b + 1] - first_chunk[b];

  std::atomic<int64_t> next{0};
  const auto work = [&] {
    Worker worker(plan);
    for (int64_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < static_cast<int64_t>(chunks.size());) {
      const Chunk& chunk = chunks[c];
      worker.run(chunk);
      if (chunk.whole) {
        worker.write_output(chunk.sequence);
        continue;
      }
      worker.write_partial(partial + c * partial_size);
      if (left[chunk.sequence].fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const int64_t first = first_chunk[chunk.sequence];
        worker.merge(chunk.sequence, partial + first * partial_size, first_chunk[chunk.sequence + 1] - first,
                     partial_size);
      }
    }
  };
  const int64_t threads = std::min<int64_t>(p.threads, chunks.size());
  if (threads <= 1) {
    work();
  } else {
#pragma omp parallel num_threads(threads)
    work();
  }
  return 0;
}

}  // extern "C"
