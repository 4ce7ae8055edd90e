// Convolution of each channel by itself: images [B][H][W][C], weights [KH][KW][C], see kernels.h.
// Vectors run along the channels. There is nothing to reuse but the weights, so these run at the speed of memory.
#pragma once

namespace metaray {

template <class T, long B, long H, long W, long C, long KH, long KW, long SH, long SW, long PH, long PW>
struct Depthwise {
  static constexpr long OH = (H + 2 * PH - KH) / SH + 1, OW = (W + 2 * PW - KW) / SW + 1;
  static constexpr long scratch_size = KH * KW * C;

  // Calls f(pixel of x, pixel of y, tap) for all of an image that meet, pixels of y outermost.
  template <class F>
  static inline void each(F&& f) {
    for (long oh = 0; oh < OH; ++oh)
      for (long ow = 0; ow < OW; ++ow)
        for (long kh = 0; kh < KH; ++kh) {
          const long h = oh * SH + kh - PH;
          if (h < 0 || h >= H) continue;
          for (long kw = 0; kw < KW; ++kw) {
            const long w = ow * SW + kw - PW;
            if (w >= 0 && w < W) f((h * W + w) * C, (oh * OW + ow) * C, (kh * KW + kw) * C);
          }
        }
  }

  static void forward(const T* __restrict x, const T* __restrict w, T* __restrict y, T*) {
    for (long b = 0; b < B; ++b, x += H * W * C, y += OH * OW * C) {
      for (long i = 0; i < OH * OW * C; ++i) y[i] = T(0);
      each([&](long at, long to, long tap) {
#pragma omp simd
        for (long c = 0; c < C; ++c) y[to + c] += x[at + c] * w[tap + c];
      });
    }
  }

  static void data(const T* __restrict g, const T* __restrict w, T* __restrict dx, T*) {
    for (long b = 0; b < B; ++b, dx += H * W * C, g += OH * OW * C) {
      for (long i = 0; i < H * W * C; ++i) dx[i] = T(0);
      each([&](long at, long to, long tap) {
#pragma omp simd
        for (long c = 0; c < C; ++c) dx[at + c] += g[to + c] * w[tap + c];
      });
    }
  }

  // Sums of an image first, so that rounding errors do not grow with the number of images.
  static void weight(const T* __restrict x, const T* __restrict g, T* __restrict dw, T* __restrict part) {
    for (long i = 0; i < KH * KW * C; ++i) dw[i] = T(0);
    for (long b = 0; b < B; ++b, x += H * W * C, g += OH * OW * C) {
      for (long i = 0; i < KH * KW * C; ++i) part[i] = T(0);
      each([&](long at, long to, long tap) {
#pragma omp simd
        for (long c = 0; c < C; ++c) part[tap + c] += x[at + c] * g[to + c];
      });
      for (long i = 0; i < KH * KW * C; ++i) dw[i] += part[i];
    }
  }
};

}  // namespace metaray
