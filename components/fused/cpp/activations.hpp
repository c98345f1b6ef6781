// Activations of MLPs: value and slope of each, from the same exponential.
#pragma once
#include "elementary.hpp"

namespace native {

// e^x to one rounding error. 0 below about -87, infinity above about 89.
INLINE V exp(V x) {
#if defined(NATIVE_AVX512)
  V whole = _mm512_roundscale_ps(x * set(LOG2E), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  x = at_most(set(88.8f), at_least(set(-88), x));
  const V magic = set(12582912);  // 1.5 · 2^23: its last bit is worth 1
  V shifted = fma(x, set(LOG2E), magic), whole = shifted - magic;
#endif
  V rest = fma(whole, set(-0.693359375f), x);  // ln 2 in two parts
  rest = fma(whole, set(2.12194440e-4f), rest);
  V power = fma(rest, set(1.9875691500e-4f), set(1.3981999507e-3f));  // Cephes' expf
  power = fma(power, rest, set(8.3334519073e-3f));
  power = fma(power, rest, set(4.1665795894e-2f));
  power = fma(power, rest, set(1.6666665459e-1f));
  power = fma(power, rest, set(5.0000001201e-1f));
  power = fma(power, rest * rest, rest) + set(1);
#if defined(NATIVE_AVX512)
  return _mm512_scalef_ps(power, whole);  // right at infinities, whatever `power` is there
#else
  I exponent = (I)shifted - (I)magic;
  return power * (V)(((exponent >> 1) + 127) << 23) * (V)((exponent - (exponent >> 1) + 127) << 23);
#endif
}

INLINE V sigmoid(V x) { return set(1) / (set(1) + exp(-x)); }

struct Options {
  float limit, alpha;  // of ClampedSwish
};

struct Identity {
  static INLINE V value(V x, const Options&) { return x; }
  static INLINE void both(V x, const Options&, V& value, V& slope) { value = x, slope = set(1); }
};
struct Relu {
  static INLINE V value(V x, const Options&) { return at_least(zero(), x); }
  static INLINE void both(V x, const Options&, V& value, V& slope) {
    value = at_least(zero(), x);
    slope = x <= zero() ? zero() : set(1);
  }
};
struct Relu2 {
  static INLINE V value(V x, const Options&) { return at_least(zero(), x) * at_least(zero(), x); }
  static INLINE void both(V x, const Options&, V& value, V& slope) {
    V positive = at_least(zero(), x);
    value = positive * positive, slope = positive + positive;
  }
};
struct Sigmoid {
  static INLINE V value(V x, const Options&) { return sigmoid(x); }
  static INLINE void both(V x, const Options&, V& value, V& slope) {
    value = sigmoid(x), slope = value * (set(1) - value);
  }
};
struct Silu {
  static INLINE V value(V x, const Options&) { return x * sigmoid(x); }
  static INLINE void both(V x, const Options&, V& value, V& slope) {
    V s = sigmoid(x);
    value = x * s, slope = fma(value, set(1) - s, s);
  }
};

// x / 2 · (1 + tanh z) = x · sigmoid(2 z) with 2 z = B · (x + A · x³), which loses nothing where tanh z is near -1.
struct GeluTanh {
  static constexpr float A = 0.044715f, B = 1.5957691216057308f;  // 2 · sqrt(2 / pi)
  static INLINE V value(V x, const Options&) {
    return x * sigmoid(x * fma(x * x, set(A * B), set(B)));
  }
  static INLINE void both(V x, const Options&, V& value, V& slope) {
    V square = x * x, s = sigmoid(x * fma(square, set(A * B), set(B)));
    value = x * s;
    slope = fma(value * (set(1) - s), fma(square, set(3 * A * B), set(B)), s);
  }
};

// x · Phi(x). Phi of -|x| is half of erfc(|x| / sqrt 2), by Abramowitz & Stegun 7.1.26, which needs the density too.
struct GeluErf {
  static INLINE void normal(V x, V& distribution, V& density) {
    V z = at_least(x, -x) * set(0.70710678118654752f);
    V t = set(1) / fma(z, set(0.3275911f), set(1)), e = exp(-(z * z));
    V p = fma(t, set(1.061405429f), set(-1.453152027f));
    p = fma(p, t, set(1.421413741f));
    p = fma(p, t, set(-0.284496736f));
    p = fma(p, t, set(0.254829592f));
    V lower = set(0.5f) * p * t * e;
    distribution = x < zero() ? lower : set(1) - lower;
    density = set(0.3989422804f) * e;
  }
  static INLINE V value(V x, const Options&) {
    V distribution, density;
    normal(x, distribution, density);
    return x * distribution;
  }
  static INLINE void both(V x, const Options&, V& value, V& slope) {
    V distribution, density;
    normal(x, distribution, density);
    value = x * distribution, slope = fma(x, density, distribution);
  }
};

// g · sigmoid(alpha · g) with g = min(x, limit).
struct ClampedSwish {
  static INLINE V value(V x, const Options& options) {
    V g = at_most(set(options.limit), x);
    return g * sigmoid(set(options.alpha) * g);
  }
  static INLINE void both(V x, const Options& options, V& value, V& slope) {
    V g = at_most(set(options.limit), x), s = sigmoid(set(options.alpha) * g);
    value = g * s;
    slope = fma(set(options.alpha) * value, set(1) - s, s);
    slope = x > set(options.limit) ? zero() : slope;
  }
};

// The factor beside the gate.
struct PlainUp {
  static INLINE V value(V up, const Options&) { return up; }
  static INLINE V gradient(V, V d, const Options&) { return d; }
};
struct ClampedUp {  // up bounded from both sides, plus 1
  static INLINE V value(V up, const Options& options) {
    return at_most(set(options.limit), at_least(set(-options.limit), up)) + set(1);
  }
  static INLINE V gradient(V up, V d, const Options& options) {
    d = up > set(options.limit) ? zero() : d;
    return up < set(-options.limit) ? zero() : d;
  }
};

}  // namespace native
