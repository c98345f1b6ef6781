// Matrix products of small matrices in cache: C [M, N] = A · B, or C += A · B, for N a multiple of LANES.
//
// With ACROSS, A is held as [K, M]. B in panels: PANEL columns after PANEL columns, each as [panel_rows, columns], so that a
// panel's rows are neighbours; rows of a wide matrix would share few sets of a cache.
//
// Every length along the summed dimension is in units of 32 bits: an fp32 number, or with PAIRS two bf16 numbers, both of
// which a product sums. The order of each sum is that of k, whatever M and N are.
#pragma once
#include "vectors.hpp"

namespace native {

#if defined(NATIVE_AVX512) || defined(__aarch64__)
constexpr int WIDEST = 4;  // vectors of C in a row of a micro-kernel: 6 × 4 + 5 of 32 registers
#else
constexpr int WIDEST = 2;  // 6 × 2 + 3 of 16
#endif
constexpr int TALLEST = 6;  // rows of C in a micro-kernel
constexpr int PANEL = WIDEST * LANES;

template <bool PAIRS> INLINE V add_product(V total, Unit a, V b) {
#if defined(NATIVE_BF16)
  if constexpr (PAIRS) return _mm512_dpbf16_ps(total, (__m512bh)_mm512_set1_ps(a), (__m512bh)b);
#endif
  return total + a * b;
}

template <bool PAIRS, bool ACROSS, bool ADD, int ROWS, int VECTORS>
static void micro_kernel(const Unit* A, int64_t lda, const Unit* B, int64_t ldb, float* C, int64_t ldc, int64_t K) {
  V total[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) total[i][j] = ADD ? load(C + i * ldc + LANES * j) : zero();
  for (int64_t k = 0; k < K; k++) {
    V b[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) b[j] = load(B + k * ldb + LANES * j);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
      const Unit a = ACROSS ? A[k * lda + i] : A[i * lda + k];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) total[i][j] = add_product<PAIRS>(total[i][j], a, b[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) store(C + i * ldc + LANES * j, total[i][j]);
}

template <bool PAIRS, bool ACROSS, bool ADD, int VECTORS, int ROWS>
static void last_rows(int64_t rows, const Unit* A, int64_t lda, const Unit* B, int64_t ldb, float* C, int64_t ldc, int64_t K) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) micro_kernel<PAIRS, ACROSS, ADD, ROWS, VECTORS>(A, lda, B, ldb, C, ldc, K);
    else last_rows<PAIRS, ACROSS, ADD, VECTORS, ROWS - 1>(rows, A, lda, B, ldb, C, ldc, K);
  }
}

template <bool PAIRS, bool ACROSS, bool ADD, int VECTORS>
static void columns(int64_t M, const Unit* A, int64_t lda, const Unit* B, int64_t ldb, float* C, int64_t ldc, int64_t K) {
  for (int64_t m = 0; m < M; m += TALLEST) {
    const Unit* a = A + (ACROSS ? m : m * lda);
    float* c = C + m * ldc;
    if (M - m >= TALLEST) micro_kernel<PAIRS, ACROSS, ADD, TALLEST, VECTORS>(a, lda, B, ldb, c, ldc, K);
    else last_rows<PAIRS, ACROSS, ADD, VECTORS, TALLEST - 1>(M - m, a, lda, B, ldb, c, ldc, K);
  }
}

template <bool PAIRS, bool ACROSS, bool ADD>
static void panel(int64_t M, int64_t N, int64_t K, const Unit* A, int64_t lda, const Unit* B, int64_t ldb, float* C, int64_t ldc) {
  switch (N / LANES) {
    case 1: return columns<PAIRS, ACROSS, ADD, 1>(M, A, lda, B, ldb, C, ldc, K);
    case 2: return columns<PAIRS, ACROSS, ADD, 2>(M, A, lda, B, ldb, C, ldc, K);
    case 3: return columns<PAIRS, ACROSS, ADD, WIDEST < 3 ? 1 : 3>(M, A, lda, B, ldb, C, ldc, K);
    default: return columns<PAIRS, ACROSS, ADD, WIDEST>(M, A, lda, B, ldb, C, ldc, K);
  }
}

// B is [K, N].
template <bool PAIRS, bool ACROSS, bool ADD>
static void product(int64_t M, int64_t N, int64_t K, const Unit* A, int64_t lda, const Unit* B, int64_t ldb, float* C, int64_t ldc) {
  for (int64_t n = 0; n < N; n += PANEL)
    panel<PAIRS, ACROSS, ADD>(M, N - n < PANEL ? N - n : PANEL, K, A, lda, B + n, ldb, C + n, ldc);
}

// C += A · B, where B is in panels.
template <bool PAIRS>
static void add_panels(int64_t M, int64_t N, int64_t K, const Unit* A, int64_t lda, const Unit* B, int64_t panel_rows, float* C, int64_t ldc) {
  for (int64_t n = 0; n < N; n += PANEL) {
    const int64_t wide = N - n < PANEL ? N - n : PANEL;
    panel<PAIRS, false, true>(M, wide, K, A, lda, B + n * panel_rows, wide, C + n, ldc);
  }
}

// C = A · B for long sums, in steps whose part of B stays in the nearest cache.
template <bool PAIRS>
static void long_product(int64_t M, int64_t N, int64_t K, const Unit* A, int64_t lda, const Unit* B, int64_t ldb, float* C, int64_t ldc) {
  constexpr int64_t STEP = 128;
  product<PAIRS, false, false>(M, N, K < STEP ? K : STEP, A, lda, B, ldb, C, ldc);
  for (int64_t k = STEP; k < K; k += STEP)
    product<PAIRS, false, true>(M, N, K - k < STEP ? K - k : STEP, A + k, lda, B + k * ldb, ldb, C, ldc);
}

}  // namespace native
