// Rows of fp32 or bf16 in memory, read and written as vectors of fp32; how a range of work is divided among threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "elementary.hpp"
#include "native.h"

namespace native {

struct Fp32 {
  typedef float E;
  static INLINE V read(const E* from) { return load(from); }
  static INLINE void write(E* to, V x) { store(to, x); }
};
struct Bf16 {
  typedef uint16_t E;
  static INLINE V read(const E* from) { return load_bf16(from); }
  static INLINE void write(E* to, V x) { store_bf16(to, x); }
};

// The first n < LANES numbers; zeros after them.
template <class F> INLINE V read_part(const typename F::E* from, int64_t n) {
  typename F::E whole[LANES] = {};
  std::memcpy(whole, from, n * sizeof(whole[0]));
  return F::read(whole);
}
template <class F> INLINE void write_part(typename F::E* to, V x, int64_t n) {
  typename F::E whole[LANES];
  F::write(whole, x);
  std::memcpy(to, whole, n * sizeof(whole[0]));
}

// A place in a row of n numbers: a whole vector, or what is left at the end.
struct Whole {
  template <class F> static INLINE V read(const typename F::E* from) { return F::read(from); }
  template <class F> static INLINE void write(typename F::E* to, V x) { F::write(to, x); }
  static INLINE V only(V x) { return x; }
};
struct Part {
  int64_t n;
  template <class F> INLINE V read(const typename F::E* from) const { return read_part<F>(from, n); }
  template <class F> INLINE void write(typename F::E* to, V x) const { write_part<F>(to, x, n); }
  INLINE V only(V x) const {  // zeros beyond the end
    float whole[LANES] = {};
    float all[LANES];
    store(all, x);
    std::memcpy(whole, all, n * sizeof(float));
    return load(whole);
  }
};

// Calls body(start, place) for each vector of a row of n numbers.
template <class Body> INLINE void for_row(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}

// Calls body(dtype) with Bf16 or Fp32.
template <class Body> void with_dtype(bool bf16, const Body& body) {
  if (bf16) body(Bf16{});
  else body(Fp32{});
}

// Rows of `dim` contiguous numbers; three outer dimensions, with strides in elements.
struct Rows {
  int64_t sizes[3], strides[3];
  int64_t count() const { return sizes[0] * sizes[1] * sizes[2]; }
};

// Offsets of rows one after another, in up to five tensors of the same sizes.
template <int N> struct Walk {
  const int64_t* sizes;
  const int64_t* strides[N];
  int64_t index[3], offset[N];
  Walk(const int64_t* sizes, std::initializer_list<const int64_t*> of, int64_t row) : sizes(sizes) {
    std::copy(of.begin(), of.end(), strides);
    index[2] = row % sizes[2];
    index[1] = row / sizes[2] % sizes[1];
    index[0] = row / sizes[2] / sizes[1];
    for (int n = 0; n < N; n++)
      offset[n] = index[0] * strides[n][0] + index[1] * strides[n][1] + index[2] * strides[n][2];
  }
  INLINE void next() {
    int d = 2;
    while (d >= 0 && ++index[d] == sizes[d]) {
      for (int n = 0; n < N; n++) offset[n] -= (sizes[d] - 1) * strides[n][d];
      index[d--] = 0;
    }
    if (d >= 0)
      for (int n = 0; n < N; n++) offset[n] += strides[n][d];
  }
};

}  // namespace native
