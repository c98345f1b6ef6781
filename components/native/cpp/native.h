// What every native library uses: exported names, and threads that are torch's own.
//
// The functions of the OpenMP runtime are declared here and not linked: the dynamic linker finds them in the runtime that
// torch has loaded, so that there is one pool of threads, and torch.set_num_threads counts. This works with any compiler.
// `#pragma omp` works with GCC alone; clang compiles it as if it weren't there.
#pragma once

#include <atomic>
#include <cstdint>

#define NATIVE_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num(void);
int omp_get_max_threads(void);
}

namespace native {

// Calls body(thread) in `threads` threads; in fewer where the runtime gives fewer.
template <class Body>
void parallel(int threads, const Body& body) {
  if (threads <= 1) {
    body(0);
    return;
  }
  auto enter = [](void* data) { (*static_cast<const Body*>(data))(omp_get_thread_num()); };
  GOMP_parallel(enter, const_cast<void*>(static_cast<const void*>(&body)), static_cast<unsigned>(threads), 0);
}

// Calls body(task, thread) for tasks 0 … tasks - 1, each once. A thread takes the next task when it is done with one, so
// that results must not depend on which thread computes a task.
template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  std::atomic<int64_t> next{0};
  parallel(tasks < threads ? static_cast<int>(tasks) : threads, [&](int thread) {
    for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) body(task, thread);
  });
}

}  // namespace native
