// RMSNorm over rows, with a residual added to what comes out, and its gradient with the stream's added.
#include <algorithm>
#include <vector>

#include "memory.hpp"

namespace native {
namespace {

constexpr int64_t ROWS = 32;  // of a task: its share of the gain's gradient is one sum, whoever computes it

struct NormCall {  // the fields and their order are those of components/fused/norm.py
  const void *x, *residual, *d_out, *d_stream;
  void *out, *d_x;
  float *inverse;       // 1 / rms of each row
  const float *gain;    // [dim]
  float *d_gain;        // [dim], or null
  int64_t sizes[3], x_strides[3], residual_strides[3], out_strides[3], d_out_strides[3], d_stream_strides[3], d_x_strides[3];
  int64_t dim, x_bf16, residual_bf16, out_bf16;  // d_x and d_stream are as x, d_out as out
  int64_t one_plus;     // whether the gain's distance from 1 is given
  int64_t round_first;  // whether x / rms is rounded to x's dtype before the gain
  int64_t threads;
  double eps;
};

template <class X, class R, class O> void forward(const NormCall& call) {
  typedef typename X::E XE;
  typedef typename R::E RE;
  typedef typename O::E OE;
  const int64_t dim = call.dim, rows = call.sizes[0] * call.sizes[1] * call.sizes[2];
  const V one = set(call.one_plus ? 1 : 0);
  parallel_for((rows + ROWS - 1) / ROWS, call.threads, [&](int64_t task, int) {
    const int64_t first = task * ROWS, end = std::min(rows, first + ROWS);
    Walk<3> walk(call.sizes, {call.x_strides, call.residual_strides, call.out_strides}, first);
    for (int64_t row = first; row < end; row++, walk.next()) {
      const XE* x = (const XE*)call.x + walk.offset[0];
      const RE* residual = call.residual ? (const RE*)call.residual + walk.offset[1] : nullptr;
      OE* out = (OE*)call.out + walk.offset[2];
      V square = zero();
      for_row(dim, [&](int64_t i, auto place) {
        V value = place.template read<X>(x + i);
        square = fma(value, value, square);
      });
      const float inverse = float(1 / __builtin_sqrt(double(sum(square)) / dim + call.eps));
      call.inverse[row] = inverse;
      for_row(dim, [&](int64_t i, auto place) {
        V normed = place.template read<X>(x + i) * set(inverse);
        if (call.round_first) {
          XE rounded[LANES];
          X::write(rounded, normed);
          normed = X::read(rounded);
        }
        V value = normed * (place.template read<Fp32>(call.gain + i) + one);
        if (residual) value += place.template read<R>(residual + i);
        place.template write<O>(out + i, value);
      });
    }
  });
}

// d_x = (d·g - x̂ · mean(d·g·x̂)) / rms + d_stream; d_gain = Σ d · x̂ over rows: those of a task in their order,
// and the tasks' sums in pairs, which rounds less.
template <class X, class O> void backward(const NormCall& call) {
  typedef typename X::E XE;
  typedef typename O::E OE;
  const int64_t dim = call.dim, rows = call.sizes[0] * call.sizes[1] * call.sizes[2], tasks = (rows + ROWS - 1) / ROWS;
  const V one = set(call.one_plus ? 1 : 0);
  std::vector<float> sums(call.d_gain ? tasks * dim : 0);
  parallel_for(tasks, call.threads, [&](int64_t task, int) {
    const int64_t first = task * ROWS, end = std::min(rows, first + ROWS);
    float* d_gain = call.d_gain ? sums.data() + task * dim : nullptr;
    Walk<4> walk(call.sizes, {call.x_strides, call.d_out_strides, call.d_stream_strides, call.d_x_strides}, first);
    for (int64_t row = first; row < end; row++, walk.next()) {
      const XE* x = (const XE*)call.x + walk.offset[0];
      const OE* d_out = (const OE*)call.d_out + walk.offset[1];
      const XE* d_stream = call.d_stream ? (const XE*)call.d_stream + walk.offset[2] : nullptr;
      const V inverse = set(call.inverse[row]);
      V product = zero();
      for_row(dim, [&](int64_t i, auto place) {
        V d = place.template read<O>(d_out + i), normed = place.template read<X>(x + i) * inverse;
        V share = d * normed;
        product = fma(share, place.template read<Fp32>(call.gain + i) + one, product);
        if (d_gain) place.template write<Fp32>(d_gain + i, place.template read<Fp32>(d_gain + i) + share);
      });
      if (!call.d_x) continue;
      const V mean = set(sum(product) / dim);
      XE* d_x = (XE*)call.d_x + walk.offset[3];
      for_row(dim, [&](int64_t i, auto place) {
        V d = place.template read<O>(d_out + i), normed = place.template read<X>(x + i) * inverse;
        V value = (d * (place.template read<Fp32>(call.gain + i) + one) - normed * mean) * inverse;
        if (d_stream) value += place.template read<X>(d_stream + i);
        place.template write<X>(d_x + i, value);
      });
    }
  });
  if (!call.d_gain) return;
  for (int64_t apart = 1; apart < tasks; apart *= 2)
    for (int64_t task = 0; task + apart < tasks; task += 2 * apart) {
      float *into = sums.data() + task * dim, *other = into + apart * dim;
      for_row(dim, [&](int64_t i, auto place) {
        place.template write<Fp32>(into + i, place.template read<Fp32>(into + i) + place.template read<Fp32>(other + i));
      });
    }
  sums.resize(std::max<int64_t>(tasks, 1) * dim);  // zeros of no rows
  std::copy_n(sums.data(), dim, call.d_gain);
}

}  // namespace
}  // namespace native

using namespace native;

NATIVE_EXPORT void norm_forward(const NormCall* call) {
  with_dtype(call->x_bf16, [&](auto x) {
    with_dtype(call->residual_bf16, [&](auto residual) {
      with_dtype(call->out_bf16,
                 [&](auto out) { forward<decltype(x), decltype(residual), decltype(out)>(*call); });
    });
  });
}

NATIVE_EXPORT void norm_backward(const NormCall* call) {
  with_dtype(call->x_bf16, [&](auto x) {
    with_dtype(call->out_bf16, [&](auto out) { backward<decltype(x), decltype(out)>(*call); });
  });
}
