// Exponential and hyperbolic tangent of vectors. NaN gives NaN.
//
// EXACT is to about one rounding error of fp32; without it, to what bf16 weights can show.
#pragma once
#include "vectors.hpp"

namespace native {

constexpr float LOG2E = 1.44269504088896341f;

// 2^x. Below 2^-126 it may be 0.
template <bool EXACT> INLINE V exp2(V x) {
#if defined(NATIVE_AVX512)
  V whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), rest = x - whole, power;
#else
  x = at_most(set(128), at_least(set(-127), x));
  const V magic = set(12582912);  // 1.5 · 2^23: its last bit is worth 1
  V shifted = x + magic, rest = x - (shifted - magic), power;
#endif
  if constexpr (EXACT) {
    power = fma(rest, set(1.5403530e-4f), set(1.3333558e-3f));
    power = fma(power, rest, set(9.6181291e-3f));
    power = fma(power, rest, set(5.5504109e-2f));
    power = fma(power, rest, set(2.4022651e-1f));
    power = fma(power, rest, set(6.9314718e-1f));
    power = fma(power, rest, set(1));
  } else {  // 1e-4 at worst
    power = fma(rest, set(0.0551716691f), set(0.240153617f));
    power = fma(fma(power, rest, set(0.693262122f)), rest, set(0.99992807f));
  }
#if defined(NATIVE_AVX512)
  return _mm512_scalef_ps(power, whole);  // 0 at -inf, whatever `power` is there
#else
  return power * (V)((((I)shifted - (I)magic) + 127) << 23);
#endif
}

// numerator / denominator, for a normal denominator.
template <bool EXACT> INLINE V quotient(V numerator, V denominator) {
#if defined(NATIVE_AVX512)
  V inverse = _mm512_rcp14_ps(denominator), first = numerator * inverse;
  if constexpr (!EXACT) return first;
  return fma(inverse, fma(-denominator, first, numerator), first);  // one Newton step
#else
  return numerator / denominator;
#endif
}

// tanh x. Relative error in the middle too: a cap multiplies it.
template <bool EXACT> INLINE V tanh(V x) {
  if constexpr (EXACT) {  // a rational minimax approximation, degrees 13 and 6, as in Eigen's ptanh
    x = at_most(set(9), at_least(set(-9), x));
    V y = x * x;
    V p = fma(y, set(-2.76076847742355e-16f), set(2.00018790482477e-13f));
    p = fma(y, p, set(-8.60467152213735e-11f));
    p = fma(y, p, set(5.12229709037114e-08f));
    p = fma(y, p, set(1.48572235717979e-05f));
    p = fma(y, p, set(6.37261928875436e-04f));
    p = x * fma(y, p, set(4.89352455891786e-03f));
    V q = fma(y, set(1.19825839466702e-06f), set(1.18534705686654e-04f));
    q = fma(y, q, set(2.26843463243900e-03f));
    q = fma(y, q, set(4.89352518554385e-03f));
    return quotient<true>(p, q);
  }
  // A Padé approximant, degrees 7 and 6: 1e-4 at its end.
  x = at_most(set(4.97f), at_least(set(-4.97f), x));
  V y = x * x;
  V p = x * fma(fma(y + set(378), y, set(17325)), y, set(135135));
  V q = fma(fma(fma(set(28), y, set(3150)), y, set(62370)), y, set(135135));
  return quotient<false>(p, q);
}

}  // namespace native
