// What becomes of products of queries and keys: cap, ALiBi, logarithm's base.
#pragma once
#include <utility>

#include "packing.hpp"

namespace native {

// Kinds of scores, as flags.
enum Kind { PLAIN = 0, CAPPED = 1, BOUNDED = 2, BIASED = 4 };

template <class F> Kind kind_of(const Problem<F>& problem) {
  return Kind((problem.capped ? CAPPED : 0) | (problem.bounded ? BOUNDED : 0) | (problem.biased ? BIASED : 0));
}

// Call f with the kind, and what is hidden, as compile-time numbers.
template <Kind KIND> using KindConstant = std::integral_constant<Kind, KIND>;
template <Hidden HIDDEN> using HiddenConstant = std::integral_constant<Hidden, HIDDEN>;

template <class Function> void with_kind(Kind kind, const Function& f) {
  switch (int(kind)) {
    case PLAIN: return f(KindConstant<PLAIN>());
    case CAPPED: return f(KindConstant<CAPPED>());
    case CAPPED | BOUNDED: return f(KindConstant<Kind(CAPPED | BOUNDED)>());
    case BIASED: return f(KindConstant<BIASED>());
    default: return f(KindConstant<Kind(CAPPED | BIASED)>());
  }
}
template <class Function> void with_hidden(Hidden hidden, const Function& f) {
  if (hidden == NOTHING) f(HiddenConstant<NOTHING>());
  else if (hidden == BY_POSITION) f(HiddenConstant<BY_POSITION>());
  else f(HiddenConstant<BY_DOCUMENT>());
}

// From a product to a score in base 2: cap · tanh(product · factor) · log2 e, or product · factor.
template <class F, Kind KIND> struct Score {
  const V factor, cap;  // factor is in the packed queries already unless they are in pairs

  explicit Score(const Problem<F>& problem) : factor(set(problem.factor)), cap(set(float(problem.call.cap) * LOG2E)) {}

  INLINE V scaled(V product) const { return F::PAIRS ? product * factor : product; }
  INLINE V tangent(V product) const { return tanh<F::EXACT>(scaled(product)); }
  // Of vector j of a block's rows and a key.
  INLINE V operator()(V product, const Block& block, int j, int64_t key) const {
    return biased(KIND & CAPPED ? tangent(product) * cap : scaled(product), block, j, key);
  }
  INLINE V biased(V score, const Block& block, int j, int64_t key) const {
    return KIND & BIASED ? score - load(block.slope + LANES * j) * distance(block, j, key) : score;
  }
  static INLINE V distance(const Block& block, int j, int64_t key) {
    return __builtin_convertvector(load_ints(block.position + LANES * j) - set_ints((int32_t)key), V);
  }
};

// Two rows of weights as one of pairs of bf16.
#if defined(NATIVE_BF16)
INLINE __m512i interleaving() {
  alignas(64) static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_load_si512(order);
}
INLINE void store_pairs(float* to, V first, V second, __m512i interleaving) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(interleaving, both));
}
#else
INLINE I interleaving() { return I{}; }
INLINE void store_pairs(float*, V, V, I) {}
#endif

}  // namespace native
