// The activation of an MLP, gated or plain: value, and gradient with the value, each in one pass.
#include "activations.hpp"
#include "memory.hpp"

namespace native {
namespace {

constexpr int64_t BLOCK = 4096;  // numbers that a thread takes at a time

template <class F, class Act, class Up>
void forward(const Options& options, const void* gate, const void* up, void* out, int64_t n, int threads) {
  typedef typename F::E E;
  parallel_for((n + BLOCK - 1) / BLOCK, threads, [&](int64_t task, int) {
    const int64_t start = task * BLOCK, size = std::min(BLOCK, n - start);
    const E *g = (const E*)gate + start, *u = up ? (const E*)up + start : nullptr;
    E* to = (E*)out + start;
    for_row(size, [&](int64_t i, auto place) {
      V value = Act::value(place.template read<F>(g + i), options);
      if (u) value *= Up::value(place.template read<F>(u + i), options);
      place.template write<F>(to + i, value);
    });
  });
}

template <class F, class Act, class Up>
void backward(const Options& options, const void* gate, const void* up, const void* d_out, void* d_gate, void* d_up,
              void* out, int64_t n, int threads) {
  typedef typename F::E E;
  parallel_for((n + BLOCK - 1) / BLOCK, threads, [&](int64_t task, int) {
    const int64_t start = task * BLOCK, size = std::min(BLOCK, n - start);
    const E *g = (const E*)gate + start, *u = up ? (const E*)up + start : nullptr, *d = (const E*)d_out + start;
    E *to_g = (E*)d_gate + start, *to_u = up ? (E*)d_up + start : nullptr, *to = out ? (E*)out + start : nullptr;
    for_row(size, [&](int64_t i, auto place) {
      V value, slope, gradient = place.template read<F>(d + i);
      Act::both(place.template read<F>(g + i), options, value, slope);
      if (u) {
        V raw = place.template read<F>(u + i), factor = Up::value(raw, options);
        place.template write<F>(to_u + i, Up::gradient(raw, gradient * value, options));
        value *= factor, slope *= factor;
      }
      place.template write<F>(to_g + i, gradient * slope);
      if (to) place.template write<F>(to + i, value);
    });
  });
}

// Calls body(activation, up), in the order of ACTIVATION_NUMBERS in components/fused/mlp.py.
template <class Body> void with_activation(int64_t activation, const Body& body) {
  switch (activation) {
    case 0: return body(Identity{}, PlainUp{});
    case 1: return body(Relu{}, PlainUp{});
    case 2: return body(Relu2{}, PlainUp{});
    case 3: return body(Sigmoid{}, PlainUp{});
    case 4: return body(Silu{}, PlainUp{});
    case 5: return body(GeluTanh{}, PlainUp{});
    case 6: return body(GeluErf{}, PlainUp{});
    case 7: return body(ClampedSwish{}, ClampedUp{});
  }
}

}  // namespace
}  // namespace native

using namespace native;

NATIVE_EXPORT void mlp_forward(int64_t activation, float limit, float alpha, int64_t bf16, const void* gate,
                               const void* up, void* out, int64_t n, int64_t threads) {
  with_activation(activation, [&](auto act, auto factor) {
    with_dtype(bf16, [&](auto dtype) {
      forward<decltype(dtype), decltype(act), decltype(factor)>({limit, alpha}, gate, up, out, n, threads);
    });
  });
}

NATIVE_EXPORT void mlp_backward(int64_t activation, float limit, float alpha, int64_t bf16, const void* gate,
                                const void* up, const void* d_out, void* d_gate, void* d_up, void* out, int64_t n,
                                int64_t threads) {
  with_activation(activation, [&](auto act, auto factor) {
    with_dtype(bf16, [&](auto dtype) {
      backward<decltype(dtype), decltype(act), decltype(factor)>({limit, alpha}, gate, up, d_out, d_gate, d_up, out, n,
                                                                 threads);
    });
  });
}
