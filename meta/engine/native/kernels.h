// Compute kernels for small networks: convolution and matrix products whose shapes are known when
// the code is compiled, for one thread, with no dependencies besides the standard library.
//
// Legend.  B images of H x W pixels with I channels in and O channels out; a KH x KW window moving
// by SH x SW over an input with PH x PW zeros on every side gives OH x OW pixels.  Activations are
// [B][H][W][channel], weights are [KH][KW][I][O], all contiguous.  T is float or double.
//
// Idea.  Every function below is one loop nest,
//
//     y[row][n] (+)= sum over k of x[row, k] * b[k][n],
//
// where the vectors run along n and one scalar of x is broadcast per row.  Because the channels are
// innermost, the element of x for (row, k) lies at start(row) + step(k) with
//     forward   row = output pixel, k = (kh, kw, i): for one kh a run of KW*I neighbours,
//     data      row = input pixel,  k = (kh, kw, o), one stride phase (which sees every SH-th,
//               SW-th tap) at a time, with the weights transposed on the fly,
//     weight    row = (kh, kw, i),  k = output pixel,
//     matrix    row = m,            k = k,
// once the image carries its zero border.  `Rows` says where rows start, `Walk` how k moves, and
// `tile` keeps a block of rows x columns in registers over the whole walk.  Only the type and the
// tile's size are template parameters of that inner code, so different shapes share it.
//
// The order of the additions is fixed by the shapes, so results repeat bit for bit.  No product
// with an actual value is skipped: NaN and infinity spread as in the plain sum, in which the zeros
// of the border take part (an infinite weight over the border gives NaN).
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

namespace metaray {
namespace detail {

// Vector registers of the target: bytes in one, and how many there are.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif
constexpr int kTileColumns = kRegisters == 32 ? 4 : 2;  // vectors in one row of a tile, at most

constexpr long smaller(long a, long b) { return a < b ? a : b; }
constexpr long larger(long a, long b) { return a > b ? a : b; }
constexpr long ceil_div(long a, long b) { return (a + b - 1) / b; }
constexpr long round_up(long a, long b) { return ceil_div(a, b) * b; }

template <class T, int L>
using Vec __attribute__((vector_size(L * sizeof(T)))) = T;

template <class T, int L>
inline Vec<T, L> load(const T* p) {
  Vec<T, L> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T, int L>
inline void store(T* p, const Vec<T, L>& v) {
  std::memcpy(p, &v, sizeof v);
}

// A three-deep grid of rows: where each row starts in x and in y.
struct Rows {
  long n2, n1, n0;  // extents, outermost first
  long x2, x1, x0;  // steps in x
  long y2, y1, y0;  // steps in y
};

// A piece of the summed index: the distance in x of each of its `n` steps, below 2^31.  A table costs
// one load per step of a whole tile, and spares the short inner loops of small images and thin inputs.
struct Walk {
  static constexpr long kMost = 192;
  int at[kMost];
  long n;
  // Steps begin, ..., begin + n - 1 of three nested loops over n1 and n0 steps inside any number.
  Walk(long begin, long steps, long n1, long n0, long x2, long x1, long x0) : n(steps) {
    long i0 = begin % n0, i1 = begin / n0 % n1, outer = begin / n0 / n1 * x2 + i1 * x1;
    for (long k = 0; k < n; ++k) {
      at[k] = int(outer + i0 * x0);
      if (++i0 == n0) {
        i0 = 0, outer += x1;
        if (++i1 == n1) i1 = 0, outer += x2 - n1 * x1;
      }
    }
  }
};
// Pieces are of equal length, as far as possible.
constexpr long piece(long total) { return ceil_div(total, ceil_div(total, Walk::kMost)); }

// R rows x C vectors of L lanes; b has one row per step.  Rows before `first` are computed but not
// stored; `columns` is the number of columns to store, less than L*C only for one padded vector.
template <class T, int L, int C, int R>
inline void tile(const Walk& k, const T* const* x, const T* b, long ldb, T* const* y, int first, int columns,
                 bool add) {
  Vec<T, L> acc[R][C] = {};
  const T* xr[R];
  for (int r = 0; r < R; ++r) xr[r] = x[r];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)  // y may be far away: ask for it while the sums are formed
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) __builtin_prefetch(y[r] + c * L, 1);
  for (const int *step = k.at, *end = step + k.n; step != end; ++step, b += ldb) {
    const long at = *step;
    Vec<T, L> bv[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) bv[c] = load<T, L>(b + c * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const T s = xr[r][at];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] += bv[c] * s;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (r < first) continue;
    T* out = y[r];
    if (C == 1 && columns < L) {
      T part[L];
      store<T, L>(part, acc[r][0]);
      for (int c = 0; c < columns; ++c) out[c] = add ? out[c] + part[c] : part[c];
    } else {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        store<T, L>(out + c * L, add ? load<T, L>(out + c * L) + acc[r][c] : acc[r][c]);
    }
  }
}

// All rows for one panel of columns, R at a time.  A last, incomplete tile starts earlier and
// repeats rows that are already there (or the first one, when there are fewer than R).
template <class T, int L, int C, int R>
__attribute__((noinline)) void sweep(const Rows& rows, const Walk& k, const T* x, const T* b, long ldb, T* y,
                                     int columns, bool add) {
  const T* xs[R];
  T* ys[R];
  for (int r = 0; r < R; ++r) xs[r] = x, ys[r] = y;
  long left = rows.n2 * rows.n1 * rows.n0, i1 = 0, i0 = 0;
  const T *x2 = x, *x1 = x;
  T *y2 = y, *y1 = y;
  while (left > 0) {
    const int fresh = int(smaller(left, R));
    // Rows that were computed before fill up the last tile, so that there is one body of code for every number of rows.
    for (int r = 0; r < R - fresh; ++r) xs[r] = xs[r + fresh], ys[r] = ys[r + fresh];
    for (int r = R - fresh; r < R; ++r) {
      xs[r] = x1 + i0 * rows.x0, ys[r] = y1 + i0 * rows.y0;
      if (++i0 == rows.n0) {
        i0 = 0, x1 += rows.x1, y1 += rows.y1;
        if (++i1 == rows.n1) i1 = 0, x1 = x2 += rows.x2, y1 = y2 += rows.y2;
      }
    }
    tile<T, L, C, R>(k, xs, b, ldb, ys, R - fresh, columns, add);
    left -= fresh;
  }
}

// Rows in a tile: as many as the registers allow, fewer when that wastes less of the last tile.
// R * C sums, C vectors of b and two more for elements of x have to fit: a sum that is spilled to
// memory costs a load and a store in every step.
constexpr int tile_rows(int columns, long rows) {
  const int most = int(smaller(8, (kRegisters - columns - 2) / columns));
  int best = most;
  for (int r = most; r > most / 2; --r)
    if (ceil_div(rows, r) * (r + 1) < ceil_div(rows, best) * (best + 1)) best = r;
  return best;
}

// How N columns split into panels: whole ones of C vectors, one of the vectors that are left, and
// a tail of the narrowest vector that holds the last few columns.
template <class T, long N>
struct Panels {
  static constexpr int L = kBytes / int(sizeof(T));
  static constexpr long vectors = N / L, tail = N % L;
  static constexpr int C = vectors ? int(ceil_div(vectors, ceil_div(vectors, kTileColumns))) : 1;
  static constexpr int rest = int(vectors % C);
  static constexpr int narrow() {
    int l = 16 / int(sizeof(T));
    while (l < tail) l *= 2;
    return l;
  }
  static constexpr long width = larger(vectors ? C * L : 0, tail ? narrow() : 0);  // widest panel
  // Calls f(lanes, vectors, first column, columns), the first two as compile-time constants.
  template <class F>
  static void each(F&& f) {
    long n = 0;
    if constexpr (vectors > 0)
      for (; n + C * L <= N; n += C * L)
        f(std::integral_constant<int, L>(), std::integral_constant<int, C>(), n, C * L);
    if constexpr (rest > 0)
      f(std::integral_constant<int, L>(), std::integral_constant<int, rest>(), n, rest * L), n += rest * L;
    if constexpr (tail > 0) f(std::integral_constant<int, narrow()>(), std::integral_constant<int, 1>(), n, int(tail));
  }
};

// Copies `columns` columns of src into rows of Width >= columns elements.  What fills up a row is
// not used: the neighbours in memory where there are any, else zeros.
template <int Width, class T>
inline void pack(const T* src, long lds, T* dst, long rows, long columns) {
  const long last = lds > 0 ? larger(0, rows - ceil_div(Width - columns, lds)) : 0;  // then src may end
  for (long r = 0; r < last; ++r) std::memcpy(dst + r * Width, src + r * lds, Width * sizeof(T));
  for (long r = last; r < rows; ++r)
    for (long c = 0; c < Width; ++c) dst[r * Width + c] = c < columns ? src[r * lds + c] : T(0);
}

// A shuffle of two vectors with indices known to the compiler, and the index lists for it.
template <class V, int... J>
inline V shuffle(const V& a, const V& b, std::integer_sequence<int, J...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, J...);
#else
  using Index = std::conditional_t<sizeof(a[0]) == 4, int, long long>;
  return __builtin_shuffle(a, b, Vec<Index, sizeof...(J)>{J...});
#endif
}
// Alternates elements of a and b, from the lower or upper half of every 16-byte lane of N elements.
template <int N, bool Upper, int... J>
constexpr auto interleaved(std::integer_sequence<int, J...>) {
  constexpr int L = sizeof...(J);
  return std::integer_sequence<int, (J % 2 * L + J / N * N + J % N / 2 + (Upper ? N / 2 : 0))...>();
}
// Alternates groups of D elements of a and b, the even or the odd groups of both.
template <int D, bool Odd, int... J>
constexpr auto grouped(std::integer_sequence<int, J...>) {
  constexpr int L = sizeof...(J);
  return std::integer_sequence<int, ((J & D ? L + J - D : J) + (Odd ? D : 0))...>();
}

// Rows r and r + D trade their off-diagonal groups of D elements; then the same for twice the D.
template <int D, int L, class V>
inline void exchange(V* v) {
  if constexpr (D < L) {
    using All = std::make_integer_sequence<int, L>;
#pragma GCC unroll 16
    for (int r = 0; r < L; ++r)
      if (!(r & D)) {
        const V a = v[r], b = v[r + D];
        v[r] = shuffle(a, b, grouped<D, false>(All()));
        v[r + D] = shuffle(a, b, grouped<D, true>(All()));
      }
    exchange<2 * D, L>(v);
  }
}

// An L x L block: first inside the 16-byte lanes, where shuffles are cheapest, then across them.
// With fewer than L rows in src, the last one stands in for the others.
template <class T, int L>
inline void transpose_block(const T* src, long lds, T* dst, long ldd, long rows) {
  using V = Vec<T, L>;
  using All = std::make_integer_sequence<int, L>;
  constexpr int N = 16 / int(sizeof(T));
  constexpr auto lower = interleaved<N, false>(All());
  constexpr auto upper = interleaved<N, true>(All());
  V v[L];
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) v[r] = load<T, L>(src + smaller(r, rows - 1) * lds);
#pragma GCC unroll 16
  for (int r = 0; r < L; r += N) {
    if constexpr (N == 4) {
      const V a = shuffle(v[r], v[r + 2], lower), b = shuffle(v[r], v[r + 2], upper);
      const V c = shuffle(v[r + 1], v[r + 3], lower), d = shuffle(v[r + 1], v[r + 3], upper);
      v[r] = shuffle(a, c, lower), v[r + 1] = shuffle(a, c, upper);
      v[r + 2] = shuffle(b, d, lower), v[r + 3] = shuffle(b, d, upper);
    } else {
      const V a = v[r], b = v[r + 1];
      v[r] = shuffle(a, b, lower), v[r + 1] = shuffle(a, b, upper);
    }
  }
  exchange<N, L>(v);
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) store<T, L>(dst + r * ldd, v[r]);
}

// dst[c][r] = src[r][c] for rows x columns of src.  dst has room for `room` >= rows elements in each
// row; what fills it up is not used.
template <class T>
__attribute__((noinline)) void transpose(const T* src, long lds, T* dst, long ldd, long room, long rows,
                                         long columns) {
  constexpr int N = 16 / int(sizeof(T)), L = int(smaller(kBytes, 32)) / int(sizeof(T));
  const long blocks = columns / L * L;
  for (long c = 0; c < columns; c += 64) {  // a strip of dst that stays in the first-level cache
    const long end = smaller(c + 64, columns);
    for (long r = 0, step; r < rows; r += step) {
      step = room - r >= L ? L : room - r >= N ? N : 1;
      long i = c;
      if (step == L)
        for (; i < smaller(end, blocks); i += L)
          transpose_block<T, L>(src + r * lds + i, lds, dst + i * ldd + r, ldd, rows - r);
      else if (step == N)
        for (; i < smaller(end, blocks); i += N)
          transpose_block<T, N>(src + r * lds + i, lds, dst + i * ldd + r, ldd, rows - r);
      for (; i < end; ++i)
        for (long j = r; j < smaller(r + step, rows); ++j) dst[i * ldd + j] = src[j * lds + i];
    }
  }
}

// Copies images of h x w x c into images with `top`, `left` zeros before and room for ph x pw pixels.
template <class T>
inline void pad(const T* x, T* out, long images, long h, long w, long c, long top, long left, long ph, long pw) {
  for (long b = 0; b < images; ++b)
    for (long i = 0; i < ph; ++i) {
      if (i < top || i >= top + h) {
        for (long j = 0; j < pw * c; ++j) *out++ = T(0);
        continue;
      }
      for (long j = 0; j < left * c; ++j) *out++ = T(0);
      std::memcpy(out, x, sizeof(T) * w * c);
      out += w * c, x += w * c;
      for (long j = 0; j < (pw - left - w) * c; ++j) *out++ = T(0);
    }
}

}  // namespace detail

// The scratch constants count elements of T; what scratch holds before and after does not matter.
template <class T, long B, long H, long W, long I, long O, long KH, long KW, long SH, long SW, long PH, long PW>
struct Conv {
  static constexpr long OH = (H + 2 * PH - KH) / SH + 1, OW = (W + 2 * PW - KW) / SW + 1;

 private:
  using Out = detail::Panels<T, O>;
  using In = detail::Panels<T, I>;
  static constexpr long kBlock = 384 * 1024 / sizeof(T);  // elements of a block of images: about half a cache

  // x with its border.
  static constexpr bool padded = PH > 0 || PW > 0;
  static constexpr long XH = H + 2 * PH, XW = W + 2 * PW, xrow = XW * I, ximage = XH * xrow;
  static constexpr long xblock = detail::smaller(B, detail::larger(1, kBlock / ximage));
  static constexpr long xpad = padded ? detail::round_up(xblock * ximage, 16) : 0;

  // One axis of the adjoint in x: for input positions phase, phase + stride, ... the taps first,
  // first + stride, ... meet output positions start, start + 1, ... in reverse order of taps.
  struct Axis {
    long size, first, taps, start;
    constexpr Axis(long n, long kernel, long stride, long padding, long phase)
        : size(phase < n ? (n - phase - 1) / stride + 1 : 0),
          first((phase + padding) % stride),
          taps(first < kernel ? (kernel - first - 1) / stride + 1 : 0),
          start((phase + padding) / stride - (taps - 1)) {}
  };
  // Zeros that the phases together need before the first or after the last of n_out positions.
  static constexpr long margin(bool after, long n, long kernel, long stride, long padding, long n_out) {
    long most = 0;
    for (long p = 0; p < stride; ++p) {
      const Axis a(n, kernel, stride, padding, p);
      if (a.size && a.taps) most = detail::larger(most, after ? a.start + a.size - 1 + a.taps - n_out : -a.start);
    }
    return most;
  }
  static constexpr long GT = margin(false, H, KH, SH, PH, OH), GL = margin(false, W, KW, SW, PW, OW);
  static constexpr long GH = GT + OH + margin(true, H, KH, SH, PH, OH), GW = GL + OW + margin(true, W, KW, SW, PW, OW);
  static constexpr long grow = GW * O, gimage = GH * grow;
  static constexpr long gblock = detail::smaller(B, detail::larger(1, kBlock / gimage));
  static constexpr long gpad = GH > OH || GW > OW ? detail::round_up(gblock * gimage, 16) : 0;

  // b is used in place if it is one panel without a tail; else piece by piece from a packed copy.
  static constexpr bool direct = Out::tail == 0 && O == Out::width;
  static constexpr long forward_piece = detail::piece(KH * KW * I);
  static constexpr long data_piece = detail::smaller(detail::Walk::kMost, KH * KW * O);
  static constexpr long weight_piece = detail::piece(xblock * OH * OW);

 public:
  static constexpr long forward_scratch = xpad + (direct ? 0 : forward_piece * Out::width);
  static constexpr long data_scratch = gpad + data_piece * In::width;
  static constexpr long weight_scratch = xpad + (direct ? 0 : weight_piece * Out::width);

  // y = conv(x, w)
  static void forward(const T* __restrict x, const T* __restrict w, T* __restrict y, T* __restrict scratch) {
    T* const packed = scratch + xpad;
    for (long b = 0; b < B; b += xblock) {
      const long images = detail::smaller(xblock, B - b);
      const T* in = bordered(x + b * H * W * I, images, scratch);
      Out::each([&](auto lanes, auto vectors, long n, int columns) {
        constexpr int L = decltype(lanes)::value, C = decltype(vectors)::value;
        constexpr int R = detail::tile_rows(C, xblock * OH * OW);
        for (long k = 0; k < KH * KW * I; k += forward_piece) {
          const detail::Walk walk(k, detail::smaller(forward_piece, KH * KW * I - k), KH, KW * I, 0, xrow, 1);
          if (!direct) detail::pack<L * C>(w + k * O + n, O, packed, walk.n, columns);
          detail::sweep<T, L, C, R>({images, OH, OW, ximage, SH * xrow, SW * I, OH * OW * O, OW * O, O}, walk, in,
                                    direct ? w + k * O : packed, L * C, y + b * OH * OW * O + n, columns, k > 0);
        }
      });
    }
  }

  // dx = adjoint of x -> conv(x, w), applied to g
  static void data(const T* __restrict g, const T* __restrict w, T* __restrict dx, T* __restrict scratch) {
    T* const packed = scratch + gpad;
    for (long b = 0; b < B; b += gblock) {
      const long images = detail::smaller(gblock, B - b);
      const T* in = g + b * OH * OW * O;
      if (gpad) {
        detail::pad(in, scratch, images, OH, OW, O, GT, GL, GH, GW);
        in = scratch;
      }
      for (long p = 0; p < SH * SW; ++p) {
        const Axis v(H, KH, SH, PH, p / SW), h(W, KW, SW, PW, p % SW);
        if (v.size * h.size == 0) continue;
        T* const to = dx + ((b * H + p / SW) * W + p % SW) * I;
        const detail::Rows rows{images, v.size, h.size, gimage, grow, O, H * W * I, SH * W * I, SW * I};
        const long total = v.taps * h.taps * O;
        if (total == 0) {  // no tap reaches these pixels
          for (long r = 0; r < images * v.size; ++r)
            for (long c = 0; c < h.size; ++c)
              for (long i = 0; i < I; ++i) to[r / v.size * rows.y2 + r % v.size * rows.y1 + c * rows.y0 + i] = T(0);
          continue;
        }
        const T* const from = in + (v.start + GT) * grow + (h.start + GL) * O;
        const long length = detail::piece(total);
        In::each([&](auto lanes, auto vectors, long n, int columns) {
          constexpr int L = decltype(lanes)::value, C = decltype(vectors)::value;
          constexpr int R = detail::tile_rows(C, gblock * detail::ceil_div(H, SH) * detail::ceil_div(W, SW));
          for (long k = 0; k < total; k += length) {
            const detail::Walk walk(k, detail::smaller(length, total - k), v.taps, h.taps * O, 0, grow, 1);
            for (long i = 0, some; i < walk.n; i += some) {  // the taps of this piece, in reverse
              const long tap = (k + i) / O, o = (k + i) % O;
              const long kh = v.first + (v.taps - 1 - tap / h.taps) * SH;
              const long kw = h.first + (h.taps - 1 - tap % h.taps) * SW;
              some = detail::smaller(O - o, walk.n - i);
              detail::transpose(w + ((kh * KW + kw) * I + n) * O + o, O, packed + i * L * C, L * C, L * C, columns,
                                some);
            }
            detail::sweep<T, L, C, R>(rows, walk, from, packed, L * C, to + n, columns, k > 0);
          }
        });
      }
    }
  }

  // dw = adjoint of w -> conv(x, w), applied to g
  static void weight(const T* __restrict x, const T* __restrict g, T* __restrict dw, T* __restrict scratch) {
    T* const packed = scratch + xpad;
    for (long b = 0; b < B; b += xblock) {
      const long images = detail::smaller(xblock, B - b), pixels = images * OH * OW;
      const T* in = bordered(x + b * H * W * I, images, scratch);
      for (long k = 0; k < pixels; k += weight_piece) {
        const detail::Walk walk(k, detail::smaller(weight_piece, pixels - k), OH, OW, ximage, SH * xrow, SW * I);
        const T* from = g + (b * OH * OW + k) * O;
        Out::each([&](auto lanes, auto vectors, long n, int columns) {
          constexpr int L = decltype(lanes)::value, C = decltype(vectors)::value;
          constexpr int R = detail::tile_rows(C, KH * KW * I);
          if (!direct) detail::pack<L * C>(from + n, O, packed, walk.n, columns);
          detail::sweep<T, L, C, R>({1, KH, KW * I, 0, xrow, 1, 0, KW * I * O, O}, walk, in, direct ? from : packed,
                                    L * C, dw + n, columns, b > 0 || k > 0);
        });
      }
    }
  }

 private:
  // Images with their border of zeros: x itself where there is none, a copy in scratch otherwise.
  static const T* bordered(const T* x, long images, T* scratch) {
    if (!padded) return x;
    detail::pad(x, scratch, images, H, W, I, PH, PW, XH, XW);
    return scratch;
  }
};

namespace detail {

// The product with vectors along n.  b is used in place where its rows are contiguous, and copied
// or transposed into scratch otherwise; so is c on the way out.
template <class T, long M, long N, long K, long AM, long AK, long BK, long BN, long CM, long CN>
struct Product {
  using Cols = Panels<T, N>;
  static constexpr bool direct = BN == 1, staged = CN != 1 && N > 1;
  static constexpr long length = piece(K);
  static constexpr long width = direct ? (Cols::tail ? Cols::narrow() : 0) : Cols::width;  // of packed panels
  static constexpr long packed = round_up(length * width, 16);
  static constexpr long scratch = packed + (staged ? M * N : 0);
  // Rough cost in multiply-adds of one lane, to choose between a product and its transpose.
  static constexpr long lanes = Cols::vectors * Cols::L + (Cols::tail ? Cols::narrow() : 0);
  static constexpr long cost = M * K * lanes + (direct ? 2 : 6) * K * width + (staged ? 12 * M * N : 0);

  static void run(const T* __restrict a, const T* __restrict b, T* __restrict c, T* __restrict space) {
    T* const out = staged ? space + packed : c;
    for (long k = 0; k < K; k += length) {
      const Walk walk(0, smaller(length, K - k), 1, length, 0, 0, AK);
      const T* const from = b + k * BK;
      Cols::each([&](auto lanes, auto vectors, long n, int columns) {
        constexpr int L = decltype(lanes)::value, C = decltype(vectors)::value;
        const bool in_place = direct && columns == L * C;
        if (direct && !in_place) pack<L * C>(from + n, BK, space, walk.n, columns);
        if (!direct && BK == 1) transpose(from + n * BN, BN, space, L * C, L * C, columns, walk.n);
        if (!direct && BK != 1)
          for (long i = 0; i < walk.n; ++i)
            for (long j = 0; j < L * C; ++j) space[i * L * C + j] = j < columns ? from[i * BK + (n + j) * BN] : T(0);
        sweep<T, L, C, tile_rows(C, M)>({1, 1, M, 0, 0, AM, 0, 0, staged ? N : CM}, walk, a + k * AK,
                                        in_place ? from + n : space, in_place ? BK : L * C, out + n, columns,
                                        k > 0);
      });
    }
    if (staged && CM == 1)
      transpose(out, N, c, CN, M, M, N);
    else if (staged)
      for (long n = 0; n < N; ++n)
        for (long m = 0; m < M; ++m) c[m * CM + n * CN] = out[m * N + n];
  }
};

}  // namespace detail

// C[m*CM + n*CN] = sum over k of A[m*AM + k*AK] * B[k*BK + n*BN]
template <class T, long M, long N, long K, long AM, long AK, long BK, long BN, long CM, long CN>
struct Gemm {
 private:
  // The vectors of a product run along n, those of its transpose along m: the cheaper one is compiled.
  using Plain = detail::Product<T, M, N, K, AM, AK, BK, BN, CM, CN>;
  using Swapped = detail::Product<T, N, M, K, BN, BK, AK, AM, CN, CM>;
  static constexpr bool plain = Plain::cost <= Swapped::cost;

 public:
  static constexpr long scratch_size = plain ? Plain::scratch : Swapped::scratch;

  static void run(const T* __restrict a, const T* __restrict b, T* __restrict c, T* __restrict scratch) {
    if constexpr (plain) Plain::run(a, b, c, scratch);
    else Swapped::run(b, a, c, scratch);
  }
};

}  // namespace metaray
