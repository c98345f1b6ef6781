// Blocks of rows and tiles of keys: which keys a block needs, and what of a tile is hidden from it.
#pragma once
#include "call.hpp"

namespace native {

constexpr int ROWS = 64;   // of a block; scores are held as [keys, ROWS], so that a row's statistics stay in one lane
constexpr int TILE = 96;   // keys in a tile: even, for pairs. Tiles begin at multiples of it, whatever the block

enum Hidden { NOTHING, BY_POSITION, BY_DOCUMENT, EVERYTHING };  // BY_DOCUMENT: and by position

struct Block {
  int64_t first, count;                // its rows
  int64_t wide;                        // count in whole vectors: lanes behind it are not computed
  int64_t start, stop;                 // some row sees keys start to stop - 1, and none before or after
  int64_t all_start, all_stop;         // every row sees these, documents aside
  int32_t lowest_document, highest_document;
  int64_t batch;
  int32_t query[ROWS], head[ROWS];     // of each row; those behind the last are as the last
  int32_t position[ROWS], document[ROWS];
  float slope[ROWS];                   // ALiBi's, in base 2

  // A row of a tensor of queries.
  template <class X> X* row(const Tensor<X>& x, int64_t r) const { return x.at(batch, head[r], query[r]); }

  template <class F> void place(const Problem<F>& problem, int64_t pair, int64_t first_row) {
    const Call& call = problem.call;
    first = first_row;
    count = std::min<int64_t>(ROWS, problem.rows - first);
    wide = round_up(count, LANES);
    batch = problem.batch_of(pair);
    const int64_t first_head = pair % call.kv_heads * problem.group;
    int64_t at_query = first / problem.group, at_head = first % problem.group;
    for (int64_t r = 0; r < ROWS; r++) {
      query[r] = int32_t(at_query), head[r] = int32_t(first_head + at_head);
      if (r < count - 1 && ++at_head == problem.group) at_head = 0, at_query++;
    }
    const int64_t low = query[0] + call.offset, high = query[ROWS - 1] + call.offset;
    start = all_start = 0;
    stop = all_stop = call.keys;
    if (call.causal) stop = std::min(call.keys, round_up(high + 1, Problem<F>::P)), all_stop = low + 1;
    if (call.window) {
      start = std::max<int64_t>(0, low - call.window + 1) / Problem<F>::P * Problem<F>::P;
      all_start = std::max<int64_t>(0, high - call.window + 1);
    }
    lowest_document = std::numeric_limits<int32_t>::max(), highest_document = -1;
    for (int r = 0; r < ROWS; r++) {
      position[r] = int32_t(query[r] + call.offset);
      slope[r] = problem.biased ? call.slopes[head[r]] * LOG2E : 0;
      if (problem.documents.empty()) continue;
      document[r] = problem.documents[batch * call.keys + position[r]];
      lowest_document = std::min(lowest_document, document[r]);
      highest_document = std::max(highest_document, document[r]);
    }
  }
};

constexpr int MOST_BLOCKS = 4;     // that share a walk over the keys, whose tiles then stay in cache
constexpr int LARGEST_WALK = 512;  // sum of their heads' sizes: what they hold must stay in cache, too

// How many blocks of rows share a walk: few for large heads, which fill the cache, and where threads would lack work.
template <class F> int64_t blocks_together(const Problem<F>& problem) {
  const int64_t blocks = (problem.rows + ROWS - 1) / ROWS, size = std::max(problem.D, problem.Ev);
  const int64_t in_cache = std::max<int64_t>(1, std::min<int64_t>(MOST_BLOCKS, LARGEST_WALK / size));
  const int64_t in_work = std::max<int64_t>(1, blocks * problem.pairs / (4 * problem.call.threads));
  return std::min(in_cache, in_work);
}

// What is hidden from the rows of a block, tile by tile.
template <class F> class Masks {
 public:
  explicit Masks(const Problem<F>& problem) : problem_(problem), tiles_((problem.call.keys + TILE - 1) / TILE) {
    if (problem.documents.empty()) return;
    bounds_.resize(2 * tiles_ * problem.call.batch);
    for (int64_t b = 0; b < problem.call.batch; b++)
      for (int64_t tile = 0; tile < tiles_; tile++) {
        const int32_t* ids = problem.documents.data() + b * problem.call.keys;
        auto [low, high] = std::minmax_element(ids + tile * TILE, ids + std::min((tile + 1) * TILE, problem.call.keys));
        bounds_[2 * (b * tiles_ + tile)] = *low, bounds_[2 * (b * tiles_ + tile) + 1] = *high;
      }
  }

  Hidden hidden(const Block& block, int64_t tile, int64_t start, int64_t stop) const {
    if (start >= stop) return EVERYTHING;
    if (!bounds_.empty()) {
      const int32_t *bounds = &bounds_[2 * (block.batch * tiles_ + tile)], low = bounds[0], high = bounds[1];
      if (low > block.highest_document || high < block.lowest_document) return EVERYTHING;
      if (low < high || block.lowest_document < block.highest_document) return BY_DOCUMENT;
    }
    return start >= block.all_start && stop <= block.all_stop ? NOTHING : BY_POSITION;
  }

  // Which lanes of vector j of a block's rows see a key.
  template <Hidden HIDDEN> INLINE Mask visible(const Block& block, int j, int64_t key) const {
    const I age = load_ints(block.position + LANES * j) - set_ints((int32_t)key);
    const Mask in_reach = below(age & set_ints(aging_), set_ints(oldest_));
    if constexpr (HIDDEN == BY_POSITION) return in_reach;
    const int32_t document = problem_.documents[block.batch * problem_.call.keys + key];
    return in_reach & equal(load_ints(block.document + LANES * j), set_ints(document));
  }

 private:
  const Problem<F>& problem_;
  const int64_t tiles_;
  std::vector<int32_t> bounds_;  // lowest and highest document of each tile
  // A key is seen at ages below this. As unsigned numbers, keys of the future are the oldest of all.
  const int32_t oldest_ = int32_t(problem_.call.window ? std::min<int64_t>(problem_.call.window, INT32_MAX) : INT32_MAX);
  const int32_t aging_ = problem_.call.causal ? -1 : 0;  // 0: every age counts as 0
};

}  // namespace native
