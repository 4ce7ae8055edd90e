// Max-pooling over NHWC images, its adjoint and the same choice in another tensor; the largest entry of each row.
// A place is row * width + column of the image that was pooled. The first of equal maxima is taken; NaN wins.
#pragma once
#include <cmath>
#include <cstdint>

namespace metaray {

template <typename T> inline T maximum(T a, T b) { return a > b || a != a ? a : b; }
template <typename T> inline T minimum(T a, T b) { return a < b || a != a ? a : b; }

template <typename T, int B, int H, int W, int C, int KH, int KW, int SH, int SW, int PH, int PW>
void pool(const T* __restrict x, T* __restrict y, int32_t* __restrict at) {
  constexpr int OH = (H + 2 * PH - KH) / SH + 1, OW = (W + 2 * PW - KW) / SW + 1;
  for (long b = 0; b < B; ++b)
    for (int oh = 0; oh < OH; ++oh)
      for (int ow = 0; ow < OW; ++ow, y += C, at += C) {
        bool empty = true;
        for (int kh = 0; kh < KH; ++kh)
          for (int kw = 0; kw < KW; ++kw) {
            const int h = oh * SH + kh - PH, w = ow * SW + kw - PW;
            if (h < 0 || h >= H || w < 0 || w >= W) continue;
            const T* row = x + ((b * H + h) * W + w) * C;
            const int32_t place = h * W + w;
            if (empty) {
#pragma omp simd
              for (int c = 0; c < C; ++c) y[c] = row[c], at[c] = place;
            } else {
#pragma omp simd
              for (int c = 0; c < C; ++c) {
                const bool more = row[c] > y[c] || (row[c] != row[c] && y[c] == y[c]);
                y[c] = more ? row[c] : y[c];
                at[c] = more ? place : at[c];
              }
            }
            empty = false;
          }
      }
}

template <typename T, int B, int OH, int OW, int C, int H, int W>
void unpool(const T* __restrict g, const int32_t* __restrict at, T* __restrict x) {
  for (long i = 0; i < long(B) * H * W * C; ++i) x[i] = T(0);
  for (long b = 0; b < B; ++b, x += long(H) * W * C)
    for (long p = 0; p < OH * OW; ++p, g += C, at += C)
      for (int c = 0; c < C; ++c) x[long(at[c]) * C + c] += g[c];
}

template <typename T, int B, int OH, int OW, int C, int H, int W>
void pick(const T* __restrict x, const int32_t* __restrict at, T* __restrict y) {
  for (long b = 0; b < B; ++b, x += long(H) * W * C)
    for (long p = 0; p < OH * OW; ++p, y += C, at += C)
      for (int c = 0; c < C; ++c) y[c] = x[long(at[c]) * C + c];
}

template <typename T, int M, int N> void argmax(const T* __restrict x, int64_t* __restrict at) {
  for (int m = 0; m < M; ++m, x += N) {
    int best = 0;
    for (int n = 1; n < N; ++n)
      if (x[n] > x[best] || (x[n] != x[n] && x[best] == x[best])) best = n;
    at[m] = best;
  }
}

}  // namespace metaray
