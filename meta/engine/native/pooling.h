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
        const int h = oh * SH - PH, w = ow * SW - PW;
        // The part of the window that lies in the image; all of it, and known to the compiler, away from the border.
        const int h0 = PH && h < 0 ? -h : 0, h1 = PH && h + KH > H ? H - h : KH;
        const int w0 = PW && w < 0 ? -w : 0, w1 = PW && w + KW > W ? W - w : KW;
        const T* __restrict corner = x + ((b * H + h) * W + w) * C;
        const int32_t place = h * W + w;
#pragma omp simd
        for (int c = 0; c < C; ++c) {
          T best = corner[(h0 * W + w0) * C + c];
          int32_t where = place + h0 * W + w0;
          for (int kh = h0; kh < h1; ++kh)
            for (int kw = w0; kw < w1; ++kw) {
              const T value = corner[(kh * W + kw) * C + c];
              // No branch, so that channels vectorise; a NaN is never <= best, and a best of NaN stays.
              const bool more = !(value <= best) && best == best;
              best = more ? value : best;
              where = more ? place + kh * W + kw : where;
            }
          y[c] = best;
          at[c] = where;
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
