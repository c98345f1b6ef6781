// Cross-entropy of rows of products, with the cap of the logits: losses and the gradient of the products.
//
// A row is read once from memory, and twice or three times from cache.
#include <cmath>
#include <vector>

#include "activations.hpp"
#include "memory.hpp"

namespace native {
namespace {

constexpr int64_t CHUNK = 64 * LANES;  // numbers whose exponentials are added up in fp32; then in fp64

struct LossCall {  // the fields and their order are those of components/fused/loss.py
  void* products;          // [rows, vocab]; the gradient takes their place
  const float* bias;       // [vocab], or null
  const int64_t* targets;  // [rows]
  float *losses, *normalizers;  // [rows]
  int64_t rows, vocab, bf16, gradient, bounded, threads;
  double scale, cap, z_loss, target_share;  // cap 0: none
};

// A logit, and the cap's slope there.
struct Logit {
  V value, slope;
};
template <bool CAP> INLINE Logit logit(V product, V bias, V scale, V cap) {
  V linear = (product + bias) * scale;
  if constexpr (!CAP) return {linear, set(1)};
  V t = tanh<true>(linear);  // `scale` is divided by the cap
  return {t * cap, fma(-t, t, set(1))};
}

template <class F, bool CAP> void row_losses(const LossCall& call) {
  typedef typename F::E E;
  const int64_t vocab = call.vocab;
  const V scale = set(CAP ? call.scale / call.cap : call.scale), cap = set(call.cap);
  std::vector<std::vector<float>> scratch(std::max<int64_t>(call.threads, 1));
  parallel_for(call.rows, call.threads, [&](int64_t row, int thread) {
    E* products = (E*)call.products + row * vocab;
    const float* bias = call.bias;
    std::vector<float>& exponentials = scratch[thread];
    exponentials.resize(call.gradient ? vocab : 0);
    auto read = [&](int64_t i, auto place) INLINE_LAMBDA {
      V added = bias ? place.template read<Fp32>(bias + i) : zero();
      return logit<CAP>(place.template read<F>(products + i), added, scale, cap);
    };
    float highest = 0;
    if (!call.bounded) {
      V most = set(-INFINITY);
      for_row(vocab, [&](int64_t i, auto place) {
        V added = bias ? place.template read<Fp32>(bias + i) : zero();
        V linear = (place.template read<F>(products + i) + added) * scale;
        float all[LANES];
        std::fill(all, all + LANES, -INFINITY);
        if constexpr (std::is_same_v<decltype(place), Part>) {
          write_part<Fp32>(all, linear, place.n);
          linear = load(all);
        }
        most = at_least(linear, most);
      });
      float all[LANES];
      store(all, most);
      highest = *std::max_element(all, all + LANES);
      if constexpr (CAP) {
        store(all, tanh<true>(set(highest)) * cap);
        highest = all[0];
      }
    }
    const V shift = set(highest);
    double total = 0;
    for (int64_t start = 0; start < vocab; start += CHUNK) {
      V partial = zero();
      for_row(std::min(CHUNK, vocab - start), [&](int64_t i, auto place) {
        Logit one = read(start + i, place);
        V e = exp(one.value - shift);
        partial += place.only(e);
        if (call.gradient) place.template write<Fp32>(exponentials.data() + start + i, CAP ? e * one.slope : e);
      });
      total += sum(partial);
    }
    const int64_t target = call.targets[row];
    Logit chosen = read(target, Part{1});
    float chosen_logit[LANES], chosen_slope[LANES];
    store(chosen_logit, chosen.value);
    store(chosen_slope, chosen.slope);
    const float normalizer = (float)(std::log(total) + highest);
    call.losses[row] = normalizer - chosen_logit[0];
    call.normalizers[row] = normalizer;
    if (!call.gradient) return;
    const float share = (float)((1 + 2 * call.z_loss * normalizer) / total * call.target_share);
    for_row(vocab, [&](int64_t i, auto place) {
      place.template write<F>(products + i, place.template read<Fp32>(exponentials.data() + i) * set(share));
    });
    float exact = exponentials[target] * share - (float)call.target_share * chosen_slope[0];
    write_part<F>(products + target, set(exact), 1);
  });
}

}  // namespace
}  // namespace native

using namespace native;

NATIVE_EXPORT void cross_entropy(const LossCall* call) {
  with_dtype(call->bf16, [&](auto dtype) {
    if (call->cap > 0) row_losses<decltype(dtype), true>(*call);
    else row_losses<decltype(dtype), false>(*call);
  });
}
