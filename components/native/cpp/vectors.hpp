// Vectors of fp32 by the compiler's vector extensions: AVX-512, AVX2, and 128 bits anywhere else.
//
// Intrinsics stand only where the extensions have no word for an instruction. NaN passes through every function here.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace native {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define NATIVE_AVX512 1
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

#if defined(NATIVE_AVX512) && defined(__AVX512BF16__)
#define NATIVE_BF16 1
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t I __attribute__((vector_size(LANES * 4)));
typedef uint32_t U __attribute__((vector_size(LANES * 4)));
typedef uint16_t H __attribute__((vector_size(LANES * 2)));
typedef V UnalignedV __attribute__((aligned(4), may_alias));
typedef I UnalignedI __attribute__((aligned(4), may_alias));
typedef H UnalignedH __attribute__((aligned(2), may_alias));
typedef float Unit __attribute__((may_alias));  // 32 bits: a float, or two bf16 that a product sums

INLINE V load(const void* from) { return *(const UnalignedV*)from; }
INLINE I load_ints(const void* from) { return *(const UnalignedI*)from; }
INLINE void store(void* to, V x) { *(UnalignedV*)to = x; }
INLINE V zero() { return V{}; }
INLINE V set(float x) { return x - V{}; }  // the subtraction keeps -0
INLINE I set_ints(int32_t x) { return x - I{}; }
INLINE V load_bytes(const void* from, int64_t bytes) {
  V x = zero();
  std::memcpy(&x, from, bytes);
  return x;
}
INLINE V fma(V a, V b, V c) { return a * b + c; }

// The lesser or greater of a bound and x; x where it is NaN.
#if defined(NATIVE_AVX512)
INLINE V at_most(V bound, V x) { return _mm512_min_ps(bound, x); }
INLINE V at_least(V bound, V x) { return _mm512_max_ps(bound, x); }
#elif defined(__AVX2__)
INLINE V at_most(V bound, V x) { return _mm256_min_ps(bound, x); }
INLINE V at_least(V bound, V x) { return _mm256_max_ps(bound, x); }
#else
INLINE V at_most(V bound, V x) { return bound < x ? bound : x; }
INLINE V at_least(V bound, V x) { return bound > x ? bound : x; }
#endif

// Which lanes something holds for.
#if defined(NATIVE_AVX512)
typedef __mmask16 Mask;
INLINE Mask below(I a, I b) { return _mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b); }  // as unsigned numbers
INLINE Mask equal(I a, I b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
INLINE V where(Mask mask, V x, V otherwise) { return _mm512_mask_mov_ps(otherwise, mask, x); }
INLINE V where(Mask mask, V x) { return _mm512_maskz_mov_ps(mask, x); }
INLINE bool any_above(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
#else
typedef I Mask;
INLINE Mask below(I a, I b) { return (U)a < (U)b; }
INLINE Mask equal(I a, I b) { return a == b; }
INLINE V where(Mask mask, V x, V otherwise) { return (V)((mask & (I)x) | (~mask & (I)otherwise)); }
INLINE V where(Mask mask, V x) { return (V)(mask & (I)x); }
INLINE bool any_above(V a, V b) {
  I above = ~(a <= b);
  int32_t any = 0;
  for (int i = 0; i < LANES; i++) any |= above[i];
  return any;
}
#endif

// bf16 in memory, fp32 in registers. Stores round to nearest, ties to even.
INLINE V load_bf16(const uint16_t* from) {
  return (V)(__builtin_convertvector(*(const UnalignedH*)from, U) << 16);
}
INLINE void store_bf16(uint16_t* to, V x) {
#if defined(NATIVE_BF16)
  _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(x));
#else
  U bits = (U)x, rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
  I is_number = x == x;
  *(UnalignedH*)to = __builtin_convertvector(((U)is_number & rounded) | (~(U)is_number & quiet), H);
#endif
}

template <int... LANE> INLINE V shuffle(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, LANE...);
#else
  return __builtin_shuffle(a, b, I{LANE...});
#endif
}
// One step of a transposition: swap the blocks of size SIZE beside the diagonal of rows a and b.
template <int SIZE, int... LANE> INLINE void swap_blocks(V& a, V& b, std::integer_sequence<int, LANE...>) {
  V first = shuffle<(LANE & SIZE ? LANES + LANE - SIZE : LANE)...>(a, b);
  b = shuffle<(LANE & SIZE ? LANES + LANE : LANE + SIZE)...>(a, b);
  a = first;
}
template <int SIZE> INLINE void transpose_blocks(V* rows) {
  if constexpr (SIZE < LANES) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
      if (!(i & SIZE)) swap_blocks<SIZE>(rows[i], rows[i + SIZE], std::make_integer_sequence<int, LANES>());
    transpose_blocks<2 * SIZE>(rows);
  }
}
INLINE void transpose(V rows[LANES]) { transpose_blocks<1>(rows); }

// Sums of LANES vectors: lane i of the result is the sum of the lanes of rows[i].
INLINE V sums(V rows[LANES]) {
  transpose(rows);
#pragma GCC unroll 4
  for (int half = LANES / 2; half; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) rows[i] += rows[i + half];
  return rows[0];
}
INLINE float sum(V x) {
  float total[LANES];
  store(total, x);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) total[i] += total[i + half];
  return total[0];
}

}  // namespace native
