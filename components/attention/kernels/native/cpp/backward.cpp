// The backward pass: five products a tile, from weights that are computed again out of each row's sum of exponentials.
//
// Gradients of keys and values are sums over blocks of rows. Walks over the keys add to the same sums, each tile of keys
// in the order of the walks, from the last rows to the first: the sums' bits depend on no number of threads. A walk
// waits for the one before it only where that has not passed a tile yet.
#include <sched.h>

#include <cmath>

#include "scores.hpp"

namespace native {
namespace {

// How far a walk has come: it will touch no key before `passed`.
struct alignas(64) Progress {
  int64_t passed;
  void wait_for(int64_t key) const {
    for (int spins = 0; __atomic_load_n(&passed, __ATOMIC_ACQUIRE) < key; spins++)
      if (spins > 1000) sched_yield();
  }
  void pass(int64_t key) { __atomic_store_n(&passed, key, __ATOMIC_RELEASE); }
};

// A gradient of keys or values, summed in fp32: in the tensor itself where that can hold the sums.
template <class F> class KeyGradient {
 public:
  KeyGradient(const Problem<F>& problem, const Tensor<typename F::E>& x, int64_t size)
      : problem_(problem), x_(x), size_(size), wide_(round_up(size, LANES)), keys_(problem.last_key - problem.first_key),
        in_place_(sizeof(typename F::E) == 4 && wide_ == size) {
    if (!x.data) return;
    if (!in_place_) own_.grow(problem.pairs * keys_ * wide_);
    by_steps([&](int64_t pair, int64_t key, bool seen) {
      if (seen) std::fill(at(pair, key), at(pair, key) + wide_, 0.f);
      else std::fill(problem_.key_of(x_, pair, key), problem_.key_of(x_, pair, key) + size_, typename F::E(0));
    });
  }
  bool wanted() const { return x_.data; }
  float* at(int64_t pair, int64_t key) const {
    if (in_place_) return (float*)problem_.key_of(x_, pair, key);
    return own_.data() + (pair * keys_ + key - problem_.first_key) * wide_;
  }
  int64_t stride() const { return in_place_ ? x_.strides.row : wide_; }
  // Write the sums, times a factor, where they do not stand yet.
  void finish(float factor) const {
    if (!x_.data || in_place_) return;
    by_steps([&](int64_t pair, int64_t key, bool seen) {
      for (int64_t d = 0; seen && d < size_; d += LANES)
        write_part<F>(problem_.key_of(x_, pair, key) + d, load(at(pair, key) + d) * factor, size_ - d);
    });
  }

 private:
  // f(pair, key, whether any query sees it), in parallel.
  template <class Function> void by_steps(const Function& f) const {
    constexpr int64_t STEP = 256;
    const int64_t keys = problem_.call.keys, steps = (keys + STEP - 1) / STEP;
    parallel_for(problem_.pairs * steps, (int)problem_.call.threads, [&](int64_t task, int) {
      const int64_t from = task % steps * STEP, to = std::min(keys, from + STEP);
      for (int64_t key = from; key < to; key++) f(task / steps, key, key >= problem_.first_key && key < problem_.last_key);
    });
  }

  const Problem<F>& problem_;
  const Tensor<typename F::E>& x_;
  const int64_t size_, wide_, keys_;
  const bool in_place_;
  Buffer own_;
};

template <class F> class Backward {
 public:
  explicit Backward(const Problem<F>& problem)
      : problem_(problem), with_scores_(problem.dq.data || problem.dk.data || problem.call.d_slopes), masks_(problem),
        keys_(problem, problem.k, problem.D, Panel<F>::BY_KEY | (problem.dq.data ? Panel<F>::ACROSS_KEYS : 0)),
        values_(problem, problem.v, problem.Ev, with_scores_ ? Panel<F>::BY_KEY : 0), dk_(problem, problem.dk, problem.D),
        dv_(problem, problem.dv, problem.Ev),
        of_slopes_(problem.call.d_slopes ? problem.pairs * problem.rows : 0),
        of_sinks_(problem.call.d_sinks ? problem.pairs * problem.rows : 0) {}

  void run() const {
    with_kind(kind_of(problem_), [&](auto kind) {
      const int64_t together = blocks_together(problem_), step = ROWS * together, pairs = problem_.pairs;
      const int64_t walks = (problem_.rows + step - 1) / step;
      std::vector<Progress> progress(pairs * walks);
      for (int64_t i = 0; i < pairs * walks; i++) {
        Block first;
        first.place(problem_, i / walks, i % walks * step);
        progress[i].passed = first.start;
      }
      parallel_for(pairs * walks, (int)problem_.call.threads, [&](int64_t task, int) {
        const int64_t pair = task % pairs, walk = walks - 1 - task / pairs;
        Progress* before = walk + 1 < walks ? &progress[pair * walks + walk + 1] : nullptr;
        walk_over_keys<kind>(pair, walk * step, together, before, progress[pair * walks + walk]);
      });
    });
    dk_.finish(F::PAIRS ? float(problem_.call.scale) : 1);
    dv_.finish(1);
    over_rows(of_slopes_, problem_.call.d_slopes);
    over_rows(of_sinks_, problem_.call.d_sinks);
  }

 private:
  struct State {
    Block block;
    float *q, *d_out;            // [units, ROWS]
    float *q_rows, *d_out_rows;  // [ROWS, wide], or pairs of rows [ROWS / 2, wide], in panels
    float* dq;                   // [D, ROWS]
    float lse[ROWS], delta[ROWS], slopes[ROWS];
  };
  // Of a tile: weights and gradients of scores [keys, ROWS] as fp32, or as bf16 with d_scores in pairs of keys too.
  struct TileOf {
    float *scores, *d_weights, *weights16, *d_scores16, *d_scores_pairs;
  };

  template <Kind KIND>
  void walk_over_keys(int64_t pair, int64_t first_row, int64_t together, const Progress* before, Progress& progress) const {
    const Problem<F>& p = problem_;
    static thread_local State states[MOST_BLOCKS];
    const int64_t rows = ROWS / Problem<F>::P, tile_size = TILE * ROWS;
    const int64_t block_size = (p.units_D + p.units_E + p.D) * ROWS + rows * (p.wide_D + p.wide_E) + 5 * 16;
    Pieces memory(scratch(4 * tile_size + together * block_size));
    TileOf t{memory.take(tile_size), memory.take(tile_size), nullptr, nullptr, nullptr};
    if (F::PAIRS) t.weights16 = memory.take(tile_size / 2), t.d_scores16 = memory.take(tile_size / 2), t.d_scores_pairs = memory.take(tile_size / 2);
    int64_t used = 0;
    for (; used < together && first_row + used * ROWS < p.rows; used++) prepare(states[used], pair, first_row + used * ROWS, memory);
    for (int64_t tile = states[0].block.start / TILE; tile * TILE < states[used - 1].block.stop; tile++) {
      const int64_t end = std::min((tile + 1) * TILE, states[used - 1].block.stop);
      if (before) before->wait_for(end);
      for (int64_t u = used - 1; u >= 0; u--) {
        State& s = states[u];
        const int64_t start = std::max(tile * TILE, s.block.start), stop = std::min(end, s.block.stop);
        const Hidden hidden = masks_.hidden(s.block, tile, start, stop);
        if (hidden != EVERYTHING) add_tile<KIND>(s, t, pair, start, stop - start, hidden);
      }
      progress.pass(end);
    }
    progress.pass(std::numeric_limits<int64_t>::max());
    if (p.dq.data) {
      for (int64_t u = 0; u < used; u++) {
        std::fill(states[u].lse, states[u].lse + ROWS, float(p.call.scale));
        unpack_columns<F>(states[u].dq, states[u].lse, p.dq, states[u].block, p.D);
      }
    }
    for (int64_t u = 0; u < used && p.call.d_slopes; u++)
      std::copy(states[u].slopes, states[u].slopes + states[u].block.count, of_slopes_.data() + pair * p.rows + states[u].block.first);
  }

  void prepare(State& s, int64_t pair, int64_t first_row, Pieces& memory) const {
    const Problem<F>& p = problem_;
    const int64_t rows = ROWS / Problem<F>::P;
    s.block.place(p, pair, first_row);
    s.q = memory.take(p.units_D * ROWS), s.d_out = memory.take(p.units_E * ROWS), s.dq = memory.take(p.D * ROWS);
    s.q_rows = memory.take(rows * p.wide_D), s.d_out_rows = memory.take(rows * p.wide_E);
    pack_columns<F>(s.q, p.q, s.block, p.D, p.factor);
    if (with_scores_) pack_columns<F>(s.d_out, p.d_out, s.block, p.Ev, 1);
    if (p.dk.data) pack_rows<F>(s.q_rows, p.q, s.block, p.D, float(p.call.scale));
    if (p.dv.data) pack_rows<F>(s.d_out_rows, p.d_out, s.block, p.Ev, 1);
    std::fill(s.dq, s.dq + p.D * ROWS, 0.f);
    for (int64_t r = 0; r < s.block.wide; r++) {
      const int64_t row = s.block.first + r;
      s.slopes[r] = 0;
      s.lse[r] = INFINITY, s.delta[r] = 0;
      if (r >= s.block.count) continue;
      s.lse[r] = p.call.lse[pair * p.rows + row];
      // What a row's weights have in common in their gradient: the sum of weights · d_weights. A sink adds nothing.
      const auto *out = s.block.row(p.out, r), *d_out = s.block.row(p.d_out, r);
      V total = zero();
      for (int64_t e = 0; e < p.Ev; e += LANES) total = fma(read_part<F>(out + e, p.Ev - e), read_part<F>(d_out + e, p.Ev - e), total);
      s.delta[r] = sum(total);
      if (p.call.d_sinks) of_sinks_[pair * p.rows + row] = -std::exp2(p.call.sinks[s.block.head[r]] * LOG2E - s.lse[r]) * s.delta[r];
    }
  }

  template <Kind KIND> void add_tile(State& s, const TileOf& t, int64_t pair, int64_t start, int64_t keys, Hidden hidden) const {
    const Problem<F>& p = problem_;
    const int64_t stride = ROWS / Problem<F>::P, of_rows = s.block.wide / Problem<F>::P;
    long_product<F::PAIRS>(keys, s.block.wide, p.units_D, keys_.by_key(pair, start), keys_.by_key_stride(), s.q, ROWS, t.scores, ROWS);
    if (with_scores_) long_product<F::PAIRS>(keys, s.block.wide, p.units_E, values_.by_key(pair, start), values_.by_key_stride(), s.d_out, ROWS, t.d_weights, ROWS);
    with_hidden(hidden, [&](auto hidden) { differentiate<KIND, hidden>(s, t, start, keys); });
    const float *weights = F::PAIRS ? t.weights16 : t.scores, *d_scores = F::PAIRS ? t.d_scores16 : t.d_weights;
    if (dv_.wanted()) add_panels<F::PAIRS>(keys, p.wide_E, of_rows, weights, stride, s.d_out_rows, stride, dv_.at(pair, start), dv_.stride());
    if (dk_.wanted()) add_panels<F::PAIRS>(keys, p.wide_D, of_rows, d_scores, stride, s.q_rows, stride, dk_.at(pair, start), dk_.stride());
    if (p.dq.data) product<F::PAIRS, true, true>(p.D, s.block.wide, (keys + Problem<F>::P - 1) / Problem<F>::P, keys_.across_keys(pair, start), keys_.across_stride(), F::PAIRS ? t.d_scores_pairs : t.d_weights, ROWS, s.dq, ROWS);
  }

  template <Kind KIND, Hidden HIDDEN> void differentiate(State& s, const TileOf& t, int64_t start, int64_t keys) const {
    const Score<F, KIND> score(problem_);
    const auto order = interleaving();
    for (int j = 0; j < s.block.wide / LANES; j++) {
      float *x = t.scores + LANES * j, *y = t.d_weights + LANES * j;
      const V lse = load(s.lse + LANES * j), delta = load(s.delta + LANES * j);
      V slopes = load(s.slopes + LANES * j);
      auto both = [&](int64_t i, V& weight, V& d_score) INLINE_LAMBDA {
        V a = load(x + i * ROWS), tangent = zero();
        if constexpr (KIND & CAPPED) tangent = score.tangent(a), a = tangent * score.cap;
        else a = score.scaled(a);
        weight = exp2<F::EXACT>(score.biased(a, s.block, j, start + i) - lse);
        d_score = weight * (load(y + i * ROWS) - delta);
        if constexpr (HIDDEN != NOTHING) {
          const Mask visible = masks_.template visible<HIDDEN>(s.block, j, start + i);
          weight = where(visible, weight), d_score = where(visible, d_score);
        }
        if constexpr (KIND & BIASED) slopes -= d_score * score.distance(s.block, j, start + i);
        if constexpr (KIND & CAPPED) d_score *= fma(-tangent, tangent, set(1));
      };
      for (int64_t i = 0; i < keys; i += 2) {
        V weight, d_score, next_weight = zero(), next_d_score = zero();
        both(i, weight, d_score);
        if (i + 1 < keys) both(i + 1, next_weight, next_d_score);
        if constexpr (F::PAIRS) {
          uint16_t *w = (uint16_t*)t.weights16 + i * ROWS + LANES * j, *d = (uint16_t*)t.d_scores16 + i * ROWS + LANES * j;
          F::write(w, weight), F::write(w + ROWS, next_weight);
          F::write(d, d_score), F::write(d + ROWS, next_d_score);
          store_pairs(t.d_scores_pairs + i / 2 * ROWS + LANES * j, d_score, next_d_score, order);
        } else {
          store(x + i * ROWS, weight), store(y + i * ROWS, d_score);
          if (i + 1 < keys) store(x + (i + 1) * ROWS, next_weight), store(y + (i + 1) * ROWS, next_d_score);
        }
      }
      if constexpr (KIND & BIASED) store(s.slopes + LANES * j, slopes);
    }
  }

  // A number a row, summed over sequences and queries: [heads]. In one order, whatever the threads.
  void over_rows(const std::vector<float>& of_rows, float* to) const {
    if (!to) return;
    std::vector<double> sums(problem_.call.heads, 0.0);
    for (int64_t pair = 0; pair < problem_.pairs; pair++)
      for (int64_t row = 0; row < problem_.rows; row++) sums[problem_.head_of(pair, row)] += of_rows[pair * problem_.rows + row];
    std::copy(sums.begin(), sums.end(), to);
  }

  const Problem<F>& problem_;
  const bool with_scores_;  // whether anything but the values' gradient is asked for
  const Masks<F> masks_;
  const Panel<F> keys_, values_;
  const KeyGradient<F> dk_, dv_;
  mutable std::vector<float> of_slopes_, of_sinks_;
};

}  // namespace
}  // namespace native

// The gradients of a call that are wanted. Returns 0, or 1 without memory.
NATIVE_EXPORT int attention_backward(const native::Call* call) {
  return native::run<native::Backward, native::NativeBf16>(*call);
}
