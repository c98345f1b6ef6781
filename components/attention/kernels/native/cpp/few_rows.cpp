// The forward pass for few rows, as in decoding: a walk over long keys for one query, bound by memory.
//
// Lanes go along a head's numbers and along keys. The keys are cut into parts of a fixed length, which threads share; the
// parts of a row are joined in order. Nothing is packed or copied, and bf16 keys and values are widened in registers.
#include <cmath>

#include "scores.hpp"

namespace native {
namespace {

constexpr int64_t PART = 512;  // keys: a multiple of LANES
constexpr int TOGETHER = 4;    // rows that share a walk over the values

// F is not in pairs: products of pairs sum nothing here.
template <class F> class FewRows {
 public:
  explicit FewRows(const Problem<F>& problem) : problem_(problem) {}

  void run() const {
    const Problem<F>& p = problem_;
    const int64_t parts = (p.last_key - p.first_key + PART - 1) / PART;
    // Of each part and row: sums of weighted values [wide_E], sum of weights, highest score.
    const int64_t record = p.wide_E + LANES;
    Buffer records(p.pairs * parts * p.rows * record);
    with_kind(kind_of(p), [&](auto kind) {
      parallel_for(p.pairs * parts, threads(parts), [&](int64_t task, int) {
        attend_part<kind>(task / parts, task % parts, records.data() + task * p.rows * record, record);
      });
    });
    for (int64_t pair = 0; pair < p.pairs; pair++)
      for (int64_t row = 0; row < p.rows; row++) join(pair, row, records.data() + (pair * parts * p.rows + row) * record, parts, record);
  }

 private:
  // To wake threads takes as long as some hundred thousand multiplications.
  int threads(int64_t parts) const {
    const Problem<F>& p = problem_;
    const int64_t work = p.pairs * parts * std::min(PART, p.last_key) * (p.rows + 4) * (p.D + p.Ev);
    return (int)std::max<int64_t>(1, std::min(p.call.threads, work / 300000));
  }

  template <Kind KIND> void attend_part(int64_t pair, int64_t part, float* records, int64_t record) const {
    const Problem<F>& p = problem_;
    const int64_t first = p.first_key + part * PART, keys = std::min(PART, p.last_key - first);
    Pieces memory(scratch(p.rows * (PART + p.wide_D) + 3 * 16));
    float *weights = memory.take(p.rows * PART), *q = memory.take(p.rows * p.wide_D);
    for (int64_t row = 0; row < p.rows; row++) {
      const auto* from = p.row_of(p.q, pair, row);
      for (int64_t d = 0; d < p.D; d += LANES) store(q + row * p.wide_D + d, read_part<F>(from + d, p.D - d) * p.factor);
    }
    for (int64_t i = 0; i < keys; i += LANES) {
      const int64_t count = std::min<int64_t>(LANES, keys - i);
      const auto* from = p.key_of(p.k, pair, first + i);
      for (int64_t row = 0; row < p.rows; row++) {
        V products[LANES];
        for (int64_t key = 0; key < LANES; key++) products[key] = key < count ? dot(from + key * p.k.strides.row, q + row * p.wide_D) : zero();
        store(weights + row * PART + i, scores<KIND>(sums(products), pair, row, first + i, count));
      }
    }
    for (int64_t row = 0; row < p.rows; row++) exponentiate<KIND>(weights + row * PART, keys, records + row * record + p.wide_E);
    for (int64_t row = 0; row < p.rows; row += TOGETHER) {
      float *of_rows = weights + row * PART, *to = records + row * record;
      switch (std::min<int64_t>(TOGETHER, p.rows - row)) {
        case 1: weigh<1>(pair, first, keys, of_rows, to, record); break;
        case 2: weigh<2>(pair, first, keys, of_rows, to, record); break;
        case 3: weigh<3>(pair, first, keys, of_rows, to, record); break;
        default: weigh<4>(pair, first, keys, of_rows, to, record);
      }
    }
  }

  INLINE V dot(const typename F::E* key, const float* q) const {
    V even = zero(), odd = zero();
    int64_t d = 0;
    for (; d + 2 * LANES <= problem_.D; d += 2 * LANES) {
      even = fma(F::read(key + d), load(q + d), even);
      odd = fma(F::read(key + d + LANES), load(q + d + LANES), odd);
    }
    for (; d < problem_.D; d += LANES) even = fma(read_part<F>(key + d, problem_.D - d), load(q + d), even);
    return even + odd;
  }

  // Products of a row with `count` keys → scores in base 2, -inf where they are hidden. Lanes are keys.
  template <Kind KIND> INLINE V scores(V products, int64_t pair, int64_t row, int64_t first, int64_t count) const {
    const Problem<F>& p = problem_;
    const int64_t position = p.call.offset + row / p.group;
    V score = KIND & CAPPED ? tanh<true>(products) * (float(p.call.cap) * LOG2E) : products;
    if constexpr (KIND & BIASED) {
      const float slope = p.call.slopes[p.head_of(pair, row)] * LOG2E;
      for (int i = 0; i < LANES; i++) score[i] -= slope * float(position - first - i);
    }
    const int32_t* documents = p.documents.empty() ? nullptr : p.documents.data() + p.batch_of(pair) * p.call.keys;
    const bool whole = count == LANES && !documents && (!p.call.causal || first + LANES - 1 <= position) && (!p.call.window || position - first < p.call.window);
    if (whole) return score;
    for (int64_t i = 0; i < LANES; i++) {
      const int64_t key = first + i, age = position - key;
      const bool visible = i < count && !(p.call.causal && age < 0) && !(p.call.window && age >= p.call.window) && !(documents && documents[key] != documents[position]);
      if (!visible) score[i] = -INFINITY;
    }
    return score;
  }

  // Scores of a row → weights in place, and their sum and the highest score into `summary`.
  template <Kind KIND> void exponentiate(float* x, int64_t keys, float* summary) const {
    V highest = set(-1e30f), total = zero();
    for (int64_t i = 0; i < keys; i += LANES) highest = at_least(load(x + i), highest);
    float top = -1e30f;
    for (int i = 0; i < LANES; i++) top = std::max(top, highest[i]);
    for (int64_t i = 0; i < keys; i += LANES) {
      const V weight = exp2<true>(load(x + i) - top);
      store(x + i, weight);
      total += weight;
    }
    summary[0] = sum(total), summary[1] = top;
  }

  template <int COUNT> void weigh(int64_t pair, int64_t first, int64_t keys, const float* weights, float* to, int64_t record) const {
    const Problem<F>& p = problem_;
    const auto* values = p.key_of(p.v, pair, first);
    for (int64_t e = 0; e < p.Ev; e += LANES * WIDEST) {
      const int64_t left = p.Ev - e;
      if (left >= LANES * WIDEST) {
        V total[COUNT][WIDEST] = {};
        for (int64_t key = 0; key < keys; key++)
#pragma GCC unroll 4
          for (int j = 0; j < WIDEST; j++) {
            const V value = F::read(values + key * p.v.strides.row + e + LANES * j);
#pragma GCC unroll 4
            for (int row = 0; row < COUNT; row++) total[row][j] += weights[row * PART + key] * value;
          }
        for (int row = 0; row < COUNT; row++)
          for (int j = 0; j < WIDEST; j++) store(to + row * record + e + LANES * j, total[row][j]);
      } else {
        for (int64_t d = e; d < p.Ev; d += LANES) {
          V total[COUNT] = {};
          for (int64_t key = 0; key < keys; key++) {
            const V value = read_part<F>(values + key * p.v.strides.row + d, p.Ev - d);
#pragma GCC unroll 4
            for (int row = 0; row < COUNT; row++) total[row] += weights[row * PART + key] * value;
          }
          for (int row = 0; row < COUNT; row++) store(to + row * record + d, total[row]);
        }
      }
    }
  }

  void join(int64_t pair, int64_t row, const float* records, int64_t parts, int64_t record) const {
    const Problem<F>& p = problem_;
    const int64_t step = p.rows * record;
    const float *summaries = records + p.wide_E, none = -1e30f;
    float top = p.call.sinks ? p.call.sinks[p.head_of(pair, row)] * LOG2E : none;
    for (int64_t part = 0; part < parts; part++) top = std::max(top, summaries[part * step + 1]);
    float total = p.call.sinks ? std::exp2(p.call.sinks[p.head_of(pair, row)] * LOG2E - top) : 0;
    for (int64_t part = 0; part < parts; part++) total += summaries[part * step] * std::exp2(summaries[part * step + 1] - top);
    if (p.call.lse) p.call.lse[pair * p.rows + row] = std::log2(total) + top;
    for (int64_t e = 0; e < p.Ev; e += LANES) {
      V sum = zero();
      for (int64_t part = 0; part < parts; part++) sum += load(records + part * step + e) * std::exp2(summaries[part * step + 1] - top);
      write_part<F>(p.row_of(p.out, pair, row) + e, sum / total, p.Ev - e);
    }
  }

  const Problem<F>& problem_;
};

}  // namespace

int attend_few_rows(const Call& call) { return run<FewRows, Bf16<false>>(call); }

}  // namespace native
