// One call as Python describes it, and the tensors of a call as the kernel reads them.
//
// Shapes as in components/attention/spec.py. The query heads of a key-value head are rows of one matrix: row m of pair
// n is query m / group of head n % kv_heads · group + m % group, in sequence n / kv_heads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "elementary.hpp"
#include "memory.hpp"
#include "native.h"

namespace native {

struct Strides {
  int64_t batch, head, row;  // in elements; the last dimension is contiguous
};

// The fields and their order are those of call.py. Every field has eight bytes.
struct Call {
  void *q, *k, *v, *out;
  float* lse;  // [pairs, rows]: base-2 logarithm of each row's sum of exponentials, its sink included; null: not wanted
  const float *slopes, *sinks;  // [heads], or null
  const int64_t* documents;     // [batch, keys], or null
  void *d_out, *dq, *dk, *dv;   // null: not wanted
  float *d_slopes, *d_sinks;    // [heads], or null
  Strides q_strides, k_strides, v_strides, out_strides, d_out_strides, dq_strides, dk_strides, dv_strides;
  int64_t documents_stride;
  int64_t batch, heads, kv_heads, queries, keys, head_dim, value_dim, offset;
  int64_t causal, window;  // window 0: none
  int64_t bf16, threads;
  double scale, cap;  // cap 0: none
};

template <class E> struct Tensor {
  E* data;
  Strides strides;
  E* at(int64_t batch, int64_t head, int64_t row) const {
    return data + batch * strides.batch + head * strides.head + row * strides.row;
  }
};

// How numbers are held: E in memory; PAIRS: products read two bf16 at once.
struct Fp32 {
  typedef float E;
  static constexpr bool PAIRS = false, EXACT = true;
  static V read(const E* from) { return load(from); }
  static void write(E* to, V x) { store(to, x); }
};
template <bool pairs> struct Bf16 {
  typedef uint16_t E;
  static constexpr bool PAIRS = pairs, EXACT = !pairs;
  static V read(const E* from) { return load_bf16(from); }
  static void write(E* to, V x) { store_bf16(to, x); }
};
#if defined(NATIVE_BF16)
typedef Bf16<true> NativeBf16;
#else
typedef Bf16<false> NativeBf16;
#endif

// The first `count` of LANES numbers; the others are 0, or are left as they are.
template <class F> INLINE V read_part(const typename F::E* from, int64_t count) {
  if (count >= LANES) return F::read(from);
  typename F::E part[LANES] = {};
  std::memcpy(part, from, count * sizeof(part[0]));
  return F::read(part);
}
template <class F> INLINE void write_part(typename F::E* to, V x, int64_t count) {
  if (count >= LANES) return F::write(to, x);
  typename F::E part[LANES];
  F::write(part, x);
  std::memcpy(to, part, count * sizeof(part[0]));
}

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

template <class F> struct Problem {
  typedef typename F::E E;
  static constexpr int P = F::PAIRS ? 2 : 1;  // keys, or dimensions, in a unit

  const Call& call;
  const Tensor<const E> q, k, v, d_out;
  const Tensor<E> out, dq, dk, dv;
  const int64_t group, rows, pairs;                          // query heads a key-value head, rows of a pair, pairs
  const int64_t D, Ev, units_D, units_E, wide_D, wide_E;     // sizes of keys and values: numbers, units, whole vectors
  const int64_t first_key, last_key;                         // keys first_key to last_key - 1 are seen by some query
  const bool capped, bounded, biased;                        // bounded: no sum of exponentials can overflow
  const float factor;                                        // scores are q · k · factor before cap or base change
  std::vector<int32_t> documents;                            // [batch, keys], where there are any

  explicit Problem(const Call& c)
      : call(c), q{(const E*)c.q, c.q_strides}, k{(const E*)c.k, c.k_strides}, v{(const E*)c.v, c.v_strides},
        d_out{(const E*)c.d_out, c.d_out_strides}, out{(E*)c.out, c.out_strides}, dq{(E*)c.dq, c.dq_strides},
        dk{(E*)c.dk, c.dk_strides}, dv{(E*)c.dv, c.dv_strides}, group(c.heads / c.kv_heads), rows(c.queries * group),
        pairs(c.batch * c.kv_heads), D(c.head_dim), Ev(c.value_dim), units_D((D + P - 1) / P),
        units_E((Ev + P - 1) / P), wide_D(round_up(D, LANES)), wide_E(round_up(Ev, LANES)),
        first_key(c.window ? std::max<int64_t>(0, c.offset - c.window + 1) / 2 * 2 : 0),
        last_key(c.causal ? std::min(c.keys, round_up(c.offset + c.queries, P)) : c.keys), capped(c.cap > 0),
        bounded(capped && c.cap <= HIGHEST_BOUND && !c.slopes), biased(c.slopes),
        factor(float(capped ? c.scale / c.cap : c.scale * LOG2E)) {
    if (c.documents) renumber();
  }

  // At 0.6 of the last exponent there is room for sums over keys, and for small gradients times exp(-cap).
  static constexpr double HIGHEST_BOUND = 53;

  int64_t batch_of(int64_t pair) const { return pair / call.kv_heads; }
  int64_t head_of(int64_t pair, int64_t row) const { return pair % call.kv_heads * group + row % group; }
  template <class X> X* row_of(const Tensor<X>& x, int64_t pair, int64_t row) const {
    return x.at(batch_of(pair), head_of(pair, row), row / group);
  }
  template <class X> X* key_of(const Tensor<X>& x, int64_t pair, int64_t key) const {
    return x.at(batch_of(pair), pair % call.kv_heads, key);
  }

 private:
  // Documents by numbers of 32 bits, in the order of their ids.
  void renumber() {
    documents.resize(call.batch * call.keys);
    std::vector<int64_t> ids;
    for (int64_t b = 0; b < call.batch; b++) {
      const int64_t* from = call.documents + b * call.documents_stride;
      int32_t* to = documents.data() + b * call.keys;
      auto [low, high] = std::minmax_element(from, from + call.keys);
      if (*low >= 0 && *high <= std::numeric_limits<int32_t>::max()) {
        std::copy(from, from + call.keys, to);
        continue;
      }
      ids.assign(from, from + call.keys);
      std::sort(ids.begin(), ids.end());
      ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
      for (int64_t i = 0; i < call.keys; i++) to[i] = int32_t(std::lower_bound(ids.begin(), ids.end(), from[i]) - ids.begin());
    }
  }
};

// The forward pass for calls of few rows, as in decoding.
inline bool has_few_rows(const Call& call) { return call.queries * (call.heads / call.kv_heads) <= 16; }
int attend_few_rows(const Call& call);

// Run a pass on a call's numbers. Returns 0, or 1 without memory.
template <template <class> class Pass, class OfBf16> int run(const Call& call) {
  try {
    if (call.bf16) {
      const Problem<OfBf16> problem(call);
      Pass<OfBf16>(problem).run();
    } else {
      const Problem<Fp32> problem(call);
      Pass<Fp32>(problem).run();
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace native
