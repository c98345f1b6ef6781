// The forward pass: softmax(scores) · values by blocks of rows, over tiles of keys (FlashAttention-2, 2307.08691).
//
// Under a cap that bounds every exponential, weights need no running maximum: cap, exponential, mask and sum are one pass.
#include <cmath>

#include "scores.hpp"

namespace native {

namespace {

template <class F> class Forward {
 public:
  explicit Forward(const Problem<F>& problem)
      : problem_(problem), masks_(problem), keys_(problem, problem.k, problem.D, Panel<F>::BY_KEY),
        values_(problem, problem.v, problem.Ev, Panel<F>::ACROSS_KEYS) {}

  void run() const {
    with_kind(kind_of(problem_), [&](auto kind) {
      const int64_t together = blocks_together(problem_), step = ROWS * together;
      const int64_t walks = (problem_.rows + step - 1) / step;
      parallel_for(problem_.pairs * walks, (int)problem_.call.threads, [&](int64_t task, int) {
        const int64_t walk = walks - 1 - task / problem_.pairs;  // the longest first
        walk_over_keys<kind>(task % problem_.pairs, walk * step, together);
      });
    });
  }

 private:
  struct State {
    Block block;
    float *q, *out;  // [units, ROWS], [Ev, ROWS]
    float total[ROWS], highest[ROWS];
  };

  template <Kind KIND> void walk_over_keys(int64_t pair, int64_t first_row, int64_t together) const {
    const Problem<F>& p = problem_;
    static thread_local State states[MOST_BLOCKS];
    const int64_t units_of_tile = TILE * ROWS / Problem<F>::P;
    Pieces memory(scratch(TILE * ROWS + units_of_tile + together * (p.units_D + p.Ev) * ROWS + 64 * (together + 2)));
    float *scores = memory.take(TILE * ROWS), *weights = F::PAIRS ? memory.take(units_of_tile) : scores;
    int64_t used = 0;
    for (; used < together && first_row + used * ROWS < p.rows; used++) {
      State& s = states[used];
      s.block.place(p, pair, first_row + used * ROWS);
      s.q = memory.take(p.units_D * ROWS), s.out = memory.take(p.Ev * ROWS);
      pack_columns<F>(s.q, p.q, s.block, p.D, p.factor);
      std::fill(s.out, s.out + p.Ev * ROWS, 0.f);
      std::fill(s.total, s.total + ROWS, 0.f);
      std::fill(s.highest, s.highest + ROWS, -1e30f);  // finite: a row that sees nothing of a tile computes no ∞ - ∞
    }
    for (int64_t tile = states[0].block.start / TILE; tile * TILE < states[used - 1].block.stop; tile++)
      for (int64_t u = 0; u < used; u++) {
        State& s = states[u];
        const int64_t start = std::max(tile * TILE, s.block.start), stop = std::min((tile + 1) * TILE, s.block.stop);
        const Hidden hidden = masks_.hidden(s.block, tile, start, stop);
        if (hidden == EVERYTHING) continue;
        long_product<F::PAIRS>(stop - start, s.block.wide, p.units_D, keys_.by_key(pair, start), keys_.by_key_stride(), s.q, ROWS, scores, ROWS);
        with_hidden(hidden, [&](auto hidden) { weigh<KIND, hidden>(s, scores, weights, start, stop - start); });
        product<F::PAIRS, true, true>(p.Ev, s.block.wide, (stop - start + Problem<F>::P - 1) / Problem<F>::P, values_.across_keys(pair, start), values_.across_stride(), weights, ROWS, s.out, ROWS);
      }
    for (int64_t u = 0; u < used; u++) finish<KIND>(states[u], pair);
  }

  // Scores [keys, ROWS] → weights, not yet divided by their sum: in place, or pairs of keys [keys / 2, ROWS].
  template <Kind KIND, Hidden HIDDEN> void weigh(State& s, float* scores, float* weights, int64_t start, int64_t keys) const {
    const Score<F, KIND> score(problem_);
    const auto order = interleaving();
    for (int j = 0; j < s.block.wide / LANES; j++) {
      float *x = scores + LANES * j, *y = weights + LANES * j;
      V total = load(s.total + LANES * j), highest = zero();
      auto visible = [&](int64_t i) INLINE_LAMBDA { return masks_.template visible<HIDDEN>(s.block, j, start + i); };
      if constexpr (!(KIND & BOUNDED)) {
        const V before = load(s.highest + LANES * j);
        highest = before;
        for (int64_t i = 0; i < keys; i++) {
          V a = score(load(x + i * ROWS), s.block, j, start + i);
          if constexpr (HIDDEN != NOTHING) a = where(visible(i), a, set(-INFINITY));
          highest = at_least(a, highest);
          if (F::PAIRS || KIND != PLAIN || HIDDEN != NOTHING) store(x + i * ROWS, a);
        }
        if (any_above(highest, before)) rescale(s, j, before, highest, total);
      }
      auto weight = [&](int64_t i) INLINE_LAMBDA {
        V a = load(x + i * ROWS);
        if constexpr (!(KIND & BOUNDED)) return exp2<F::EXACT>(a - highest);
        a = exp2<F::EXACT>(score(a, s.block, j, start + i));
        if constexpr (HIDDEN != NOTHING) a = where(visible(i), a);
        return a;
      };
      V other = zero();
      int64_t i = 0;
      for (; i + 1 < keys; i += 2) {
        const V a = weight(i), b = weight(i + 1);
        if constexpr (F::PAIRS) store_pairs(y + i / 2 * ROWS, a, b, order);
        else store(y + i * ROWS, a), store(y + (i + 1) * ROWS, b);
        total += a, other += b;
      }
      if (i < keys) {
        const V a = weight(i);
        if constexpr (F::PAIRS) store_pairs(y + i / 2 * ROWS, a, zero(), order);
        else store(y + i * ROWS, a);
        total += a;
      }
      store(s.total + LANES * j, total + other);
    }
  }

  // Make what was summed under one maximum a row count under another.
  __attribute__((noinline)) void rescale(State& s, int j, V before, V highest, V& total) const {
    const V shrink = exp2<true>(before - highest);
    total *= shrink;
    for (int64_t e = 0; e < problem_.Ev; e++) {
      float* out = s.out + e * ROWS + LANES * j;
      store(out, load(out) * shrink);
    }
    store(s.highest + LANES * j, highest);
  }

  template <Kind KIND> void finish(State& s, int64_t pair) const {
    const Problem<F>& p = problem_;
    for (int64_t r = 0; r < s.block.count; r++) {
      const float highest = KIND & BOUNDED ? 0 : s.highest[r];
      float lse = std::log2(s.total[r]) + highest, share = 1;
      const int64_t row = s.block.first + r;
      if (p.call.sinks) {
        const float sink = p.call.sinks[s.block.head[r]] * LOG2E, top = std::max(sink, lse), of_keys = lse;
        lse = top + std::log2(std::exp2(of_keys - top) + std::exp2(sink - top));
        share = std::exp2(of_keys - lse);
      }
      if (p.call.lse) p.call.lse[pair * p.rows + row] = lse;
      s.total[r] = share == 0 ? 0 : share / s.total[r];
    }
    unpack_columns<F>(s.out, s.total, p.out, s.block, p.Ev);
  }

  const Problem<F>& problem_;
  const Masks<F> masks_;
  const Panel<F> keys_, values_;
};

}  // namespace
}  // namespace native

// Attention of a call: its output, and where they are wanted its sums of exponentials. Returns 0, or 1 without memory.
NATIVE_EXPORT int attention_forward(const native::Call* call) {
  if (native::has_few_rows(*call)) return native::attend_few_rows(*call);
  return native::run<native::Forward, native::NativeBf16>(*call);
}
NATIVE_EXPORT int64_t attention_call_size() { return sizeof(native::Call); }
