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
#include <cstdint>
#include <memory>
#include <vector>

#include "worker.h"

extern "C" {

// 0, or 1 + the first sequence whose length does not fit its page table or whose table names a page that is not there.
EXPORT int64_t rl_exp_decode_attention(const Problem* problem) {
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
    const auto take = [&] { return next.fetch_add(1, std::memory_order_relaxed); };
    for (int64_t c = take(), following; c < static_cast<int64_t>(chunks.size()); c = following) {
      const Chunk& chunk = chunks[c];
      following = take();
      worker.run(chunk, following < static_cast<int64_t>(chunks.size()) ? &chunks[following] : nullptr);
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
