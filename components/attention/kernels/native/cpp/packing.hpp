// The layouts that products read, and the way back.
#pragma once
#include "blocks.hpp"
#include "products.hpp"

namespace native {

// LANES units of a row of `size` numbers from unit d on; 0 behind its end.
template <class F> INLINE V read_units(const typename F::E* row, int64_t d, int64_t size) {
  if constexpr (F::PAIRS) {
    const int64_t bytes = 2 * size - 4 * d;
    return bytes >= 4 * LANES ? load(row + 2 * d) : load_bytes(row + 2 * d, bytes);
  } else {
    return read_part<F>(row + d, size - d);
  }
}

// Two rows of bf16 numbers as pairs, from number d on to number `end`. A null row is 0.
inline void pair_rows(float* to, const uint16_t* a, const uint16_t* b, int64_t size, int64_t d, int64_t end) {
  auto half = [&](const uint16_t* row, int64_t d) {
    if (!row) return U{};
    uint16_t part[LANES] = {};
    if (size - d < LANES) std::memcpy(part, row + d, (size - d) * 2);
    return __builtin_convertvector(*(const UnalignedH*)(size - d < LANES ? part : row + d), U);
  };
  for (; d < end; d += LANES, to += LANES) store(to, (V)(half(a, d) | half(b, d) << 16));
}

// A block's rows of `size` numbers as columns, times a factor unless in pairs: [units, ROWS].
template <class F, class X>
void pack_columns(float* to, const Tensor<X>& x, const Block& block, int64_t size, float factor) {
  const int64_t units = (size + Problem<F>::P - 1) / Problem<F>::P;
  for (int64_t r = 0; r < block.wide; r += LANES)
    for (int64_t d = 0; d < units; d += LANES) {
      V part[LANES];
      const int64_t left = units - d;
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; i++) {
        part[i] = r + i < block.count ? read_units<F>(block.row(x, r + i), d, size) : zero();
        if (!F::PAIRS) part[i] *= factor;
      }
      transpose(part);
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; i++)
        if (i < left) store(to + (d + i) * ROWS + r, part[i]);
    }
}

// A block's rows: [ROWS, wide] times a factor, or pairs of rows [ROWS / 2, wide]; in panels.
template <class F, class X>
void pack_rows(float* to, const Tensor<X>& x, const Block& block, int64_t size, float factor) {
  const int64_t wide = round_up(size, LANES);
  auto row = [&](int64_t r) { return r < block.count ? block.row(x, r) : nullptr; };
  for (int64_t first = 0; first < wide; first += PANEL) {
    const int64_t end = std::min<int64_t>(first + PANEL, wide), columns = end - first;
    float* panel = to + first * ROWS / Problem<F>::P;
    for (int64_t r = 0; r < block.wide; r += Problem<F>::P, panel += columns) {
      const auto* from = row(r);
      if constexpr (F::PAIRS) {
        pair_rows(panel, from, row(r + 1), size, first, end);
      } else {
        for (int64_t d = first; d < end; d += LANES) store(panel + d - first, from ? read_part<F>(from + d, size - d) * factor : zero());
      }
    }
  }
}

// Columns [size, ROWS], each row times a factor of its own, as a block's rows of a tensor.
template <class F>
void unpack_columns(const float* from, const float* factors, const Tensor<typename F::E>& x, const Block& block, int64_t size) {
  for (int64_t r = 0; r < block.count; r += LANES)
    for (int64_t d = 0; d < size; d += LANES) {
      V part[LANES];
      const int64_t left = block.count - r;
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; i++) part[i] = d + i < size ? load(from + (d + i) * ROWS + r) * load(factors + r) : zero();
      transpose(part);
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; i++)
        if (i < left) write_part<F>(block.row(x, r + i) + d, part[i], size - d);
    }
}

// Keys or values as left operands of products: BY_KEY sums over a key's numbers, ACROSS_KEYS over keys. Copies are made once
// a call, and only where products can't read the tensor. Rows of pairs are a cache line longer than they need be: at their
// own length, few sets of a cache would hold them all.
template <class F> class Panel {
 public:
  enum Form { BY_KEY = 1, ACROSS_KEYS = 2 };

  Panel(const Problem<F>& problem, const Tensor<const typename F::E>& x, int64_t size, int forms)
      : problem_(problem), x_(x), size_(size), wide_(round_up(size, LANES)), units_((size + 1) / 2),
        keys_(round_up(problem.last_key - problem.first_key, 2)) {
    const Strides& s = x.strides;
    const bool in_units = F::PAIRS ? (size | s.batch | s.head | s.row) % 2 == 0 : sizeof(typename F::E) == 4;
    if (!in_units && (F::PAIRS ? forms & BY_KEY : forms)) by_key_.grow(problem.pairs * keys_ * own_stride());
    if (F::PAIRS && (forms & ACROSS_KEYS)) across_.grow(problem.pairs * keys_ / 2 * across_stride());
    if (by_key_.data() || across_.data()) fill();
  }

  const Unit* by_key(int64_t pair, int64_t key) const {
    if (!by_key_.data()) return (const Unit*)problem_.key_of(x_, pair, key);
    return by_key_.data() + (pair * keys_ + key - problem_.first_key) * own_stride();
  }
  int64_t by_key_stride() const { return by_key_.data() ? own_stride() : x_.strides.row / Problem<F>::P; }
  const Unit* across_keys(int64_t pair, int64_t key) const {
    if constexpr (F::PAIRS) return across_.data() + (pair * keys_ + key - problem_.first_key) / 2 * across_stride();
    return by_key(pair, key);
  }
  int64_t across_stride() const { return F::PAIRS ? wide_ + 16 : by_key_stride(); }

 private:
  int64_t own_stride() const { return F::PAIRS ? units_ : wide_; }

  void fill() {
    constexpr int64_t STEP = 128;
    const int64_t steps = (keys_ + STEP - 1) / STEP;
    parallel_for(problem_.pairs * steps, (int)problem_.call.threads, [&](int64_t task, int) {
      const int64_t pair = task / steps, from = task % steps * STEP, to = std::min(keys_, from + STEP);
      for (int64_t i = from; i < to; i += 2) {
        auto key = [&](int64_t i) {
          const int64_t key = problem_.first_key + i;
          return key < problem_.last_key ? problem_.key_of(x_, pair, key) : nullptr;
        };
        if constexpr (F::PAIRS) {
          if (across_.data()) pair_rows(across_.data() + (pair * keys_ + i) / 2 * across_stride(), key(i), key(i + 1), size_, 0, wide_);
        }
        for (int64_t j = i; j < i + 2 && by_key_.data() && key(j); j++) {
          float* own = by_key_.data() + (pair * keys_ + j) * own_stride();
          if constexpr (F::PAIRS) {
            own[units_ - 1] = 0;
            std::memcpy(own, key(j), 2 * size_);
          } else {
            for (int64_t d = 0; d < wide_; d += LANES) store(own + d, read_part<F>(key(j) + d, size_ - d));
          }
        }
      }
    });
  }

  const Problem<F>& problem_;
  const Tensor<const typename F::E>& x_;
  const int64_t size_, wide_, units_, keys_;
  Buffer by_key_, across_;
};

}  // namespace native
