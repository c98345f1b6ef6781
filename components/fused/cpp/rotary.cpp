// Rotary positions: pairs of each row of queries or keys turned by the tables of their position, in one pass.
#include "memory.hpp"

namespace native {
namespace {

constexpr int64_t POSITIONS = 32;  // of a task

struct RotaryCall {  // the fields and their order are those of components/fused/rotary.py
  const void* x;
  void* out;
  const float *cos, *sin;  // [positions, pairs]
  int64_t batch, heads, positions, size, pairs;
  int64_t x_strides[3], out_strides[3];  // of batch, head and position
  int64_t interleaved, bf16, threads;
  double direction;  // 1, or -1 to turn back
};

// Value i with i + pairs.
template <class F> INLINE void turn_halves(const typename F::E* x, typename F::E* out, const float* cos,
                                           const float* sin, int64_t pairs, V direction) {
  for_row(pairs, [&](int64_t i, auto place) {
    V c = place.template read<Fp32>(cos + i), s = place.template read<Fp32>(sin + i) * direction;
    V first = place.template read<F>(x + i), second = place.template read<F>(x + pairs + i);
    place.template write<F>(out + i, first * c - second * s);
    place.template write<F>(out + pairs + i, second * c + first * s);
  });
}

template <int... LANE> INLINE V swap_neighbours(V x, std::integer_sequence<int, LANE...>) {
  return shuffle<(LANE ^ 1)...>(x, x);
}
// 0 0 1 1 2 2 … of the first half of the lanes.
template <int... LANE> INLINE V twice(V x, std::integer_sequence<int, LANE...>) {
  return shuffle<(LANE / 2)...>(x, x);
}

// Value 2 i with 2 i + 1.
template <class F> INLINE void turn_neighbours(const typename F::E* x, typename F::E* out, const float* cos,
                                               const float* sin, int64_t pairs, V direction) {
  const auto lanes = std::make_integer_sequence<int, LANES>();
  float sign[LANES];
  for (int i = 0; i < LANES; i++) sign[i] = i % 2 ? 1 : -1;
  const V signs = load(sign) * direction;
  for_row(2 * pairs, [&](int64_t i, auto place) {
    const int64_t n = std::min<int64_t>(LANES / 2, pairs - i / 2);
    V c = twice(read_part<Fp32>(cos + i / 2, n), lanes), s = twice(read_part<Fp32>(sin + i / 2, n), lanes) * signs;
    V value = place.template read<F>(x + i);
    place.template write<F>(out + i, value * c + swap_neighbours(value, lanes) * s);
  });
}

template <class F> void rotate(const RotaryCall& call) {
  typedef typename F::E E;
  const int64_t blocks = (call.positions + POSITIONS - 1) / POSITIONS;
  const V direction = set(call.direction);
  parallel_for(call.batch * blocks, call.threads, [&](int64_t task, int) {
    const int64_t b = task / blocks, start = task % blocks * POSITIONS;
    for (int64_t t = start; t < std::min(call.positions, start + POSITIONS); t++) {
      const float *cos = call.cos + t * call.pairs, *sin = call.sin + t * call.pairs;
      for (int64_t h = 0; h < call.heads; h++) {
        const E* x = (const E*)call.x + b * call.x_strides[0] + h * call.x_strides[1] + t * call.x_strides[2];
        E* out = (E*)call.out + b * call.out_strides[0] + h * call.out_strides[1] + t * call.out_strides[2];
        if (call.interleaved) turn_neighbours<F>(x, out, cos, sin, call.pairs, direction);
        else turn_halves<F>(x, out, cos, sin, call.pairs, direction);
        std::memcpy(out + 2 * call.pairs, x + 2 * call.pairs, (call.size - 2 * call.pairs) * sizeof(E));
      }
    }
  });
}

}  // namespace
}  // namespace native

using namespace native;

NATIVE_EXPORT void rotary(const RotaryCall* call) {
  with_dtype(call->bf16, [&](auto dtype) { rotate<decltype(dtype)>(*call); });
}
