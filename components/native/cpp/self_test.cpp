// Compiled into every native library: which build it is, and whether its instructions run on this processor.
#include "native.h"

NATIVE_EXPORT const char* native_build_key() { return NATIVE_BUILD_KEY; }

// Zero where a sum of products, in vector instructions and in the threads of the OpenMP runtime, is right.
NATIVE_EXPORT int native_self_test(int threads) {
  constexpr int n = 1024;
  float x[n], y[n];
  for (int i = 0; i < n; i++) x[i] = static_cast<float>(i % 7), y[i] = static_cast<float>(i % 3);
  std::atomic<int> total{0};
  native::parallel_for(n / 64, threads, [&](int64_t task, int) {
    float sum = 0;
    for (int64_t i = 64 * task; i < 64 * (task + 1); i++) sum += x[i] * y[i];
    total += static_cast<int>(sum);
  });
  int expected = 0;
  for (int i = 0; i < n; i++) expected += (i % 7) * (i % 3);
  return total - expected;
}
