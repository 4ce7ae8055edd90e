// Running sums, and sums of what goes to the same place: the adjoint of reading at integers.
// The order of the additions is that of the elements. What would go outside is left out: where it was read, it was NaN.
#pragma once
#include <cstdint>

namespace metaray {

template <typename T, long OUTER, long N, long INNER> void cumsum(const T* __restrict x, T* __restrict y) {
  for (long o = 0; o < OUTER; ++o, x += N * INNER, y += N * INNER) {
    for (long i = 0; i < INNER; ++i) y[i] = x[i];
    for (long n = 1; n < N; ++n)
      for (long i = 0; i < INNER; ++i) y[n * INNER + i] = y[(n - 1) * INNER + i] + x[n * INNER + i];
  }
}

// y[at[n]][i] += x[n][i] from zeros on
template <typename T, long N, long INNER, long SIZE>
void add_rows(const T* __restrict x, const int64_t* __restrict at, T* __restrict y) {
  for (long i = 0; i < SIZE * INNER; ++i) y[i] = T(0);
  for (long n = 0; n < N; ++n, x += INNER)
    if (at[n] >= 0 && at[n] < SIZE)
      for (long i = 0; i < INNER; ++i) y[at[n] * INNER + i] += x[i];
}

// y[at[n][i]][i] += x[n][i] from zeros on
template <typename T, long N, long INNER, long SIZE>
void add_elements(const T* __restrict x, const int64_t* __restrict at, T* __restrict y) {
  for (long i = 0; i < SIZE * INNER; ++i) y[i] = T(0);
  for (long n = 0; n < N; ++n, x += INNER, at += INNER)
    for (long i = 0; i < INNER; ++i)
      if (at[i] >= 0 && at[i] < SIZE) y[at[i] * INNER + i] += x[i];
}

}  // namespace metaray
