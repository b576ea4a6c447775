// The arithmetic of a step, written once on GCC's vector types and compiled for each instruction set: step.cpp includes this file
// several times, each time in a namespace of its own and with LANES, the floats of a vector. There is no include guard on purpose.
//
// A matrix lies in blocks of ROWS rows, and a block in the order in which it is read: for each column (or pair, or eight of
// them) the numbers of all its rows. So memory is read from front to back, and a vector holds rows: no sum across a vector is ever needed.
//
// int8 and int4 weights meet activations of 16 bits. That is as exact as half precision, needs no special instructions, and a
// pair of products is added in 32 bits by one of them (pmaddwd, vpdpwssd).

typedef float F __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t S __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef int8_t B __attribute__((vector_size(2 * LANES), aligned(1), may_alias));

constexpr int VECTORS = ROWS / LANES;  // of a block's row

static inline F load(const float *from) { return *reinterpret_cast<const F *>(from); }

// Half precision: with its bits where a float's are, a half is off by the difference of their exponents' biases, small ones too.
static inline F load(const half *from) {
#if LANES == 16 && defined(CODEGEN_VNNI)
    return (F)_mm512_cvtph_ps(*reinterpret_cast<const __m256i_u *>(from));
#elif LANES == 8 && defined(CODEGEN_AVX2)
    return (F)_mm256_cvtph_ps(*reinterpret_cast<const __m128i_u *>(from));
#else
    typedef uint16_t H __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
    const I bits = __builtin_convertvector(*reinterpret_cast<const H *>(from), I);
    const F size = (F)((bits & 0x7fff) << 13) * 0x1p112f;
    return (F)((I)size | (bits & 0x8000) << 16);
#endif
}

static inline void store(float *to, F value) { *reinterpret_cast<F *>(to) = value; }
static inline F all(float value) { return value - F{}; }
static inline F float_of(I value) { return __builtin_convertvector(value, F); }

static inline float sum(F value) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += value[i];
    return total;
}

// Two products of 16 bits a lane, added to 32 bits.
static inline I multiply_add(I acc, S a, S b) {
#if LANES == 16 && defined(CODEGEN_VNNI)
    return (I)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif LANES == 8 && defined(CODEGEN_AVX2)
    return acc + (I)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    const I x = (I)a, y = (I)b;
    return acc + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

static inline S widen(const int8_t *from) {
#if LANES == 16 && defined(CODEGEN_VNNI)
    return (S)_mm512_cvtepi8_epi16(*reinterpret_cast<const __m256i_u *>(from));
#elif LANES == 8 && defined(CODEGEN_AVX2)
    return (S)_mm256_cvtepi8_epi16(*reinterpret_cast<const __m128i_u *>(from));
#else
    return __builtin_convertvector(*reinterpret_cast<const B *>(from), S);
#endif
}

// The same pair of activations in every lane.
static inline S pair(const int16_t *from) {
    int32_t both;
    std::memcpy(&both, from, 4);
    return (S)(both - I{});
}

// ---------------------------------------------------------------- a block of a matrix, times M vectors, added to `out`

template <int M, class Number> static void dot_floats(const Matrix &matrix, const uint8_t *block, const Input *in, float (*out)[ROWS]) {
    const Number *w = reinterpret_cast<const Number *>(block);
    F acc[M][VECTORS];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < VECTORS; v++) acc[m][v] = load(out[m] + v * LANES);
    for (int k = 0; k < matrix.columns; k++, w += ROWS) {
        __builtin_prefetch(reinterpret_cast<const uint8_t *>(w) + AHEAD);
        for (int v = 0; v < VECTORS; v++) {
            const F weights = load(w + v * LANES);
            for (int m = 0; m < M; m++) acc[m][v] += weights * in[m].exact[k];
        }
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < VECTORS; v++) store(out[m] + v * LANES, acc[m][v]);
}

// Ends a group of columns: its 32-bit sums, times the rows' scales, join the sums in floating point.
template <int M, int SOME> static inline void join(F (&total)[M][SOME], const I (&acc)[M][SOME], const float *scales) {
    for (int v = 0; v < SOME; v++) {
        const F scale = load(scales + v * LANES);
        for (int m = 0; m < M; m++) total[m][v] += float_of(acc[m][v]) * scale;
    }
}

template <int M, int SOME> static inline void finish(const F (&total)[M][SOME], const Input *in, float (*out)[ROWS], int from) {
    for (int m = 0; m < M; m++)
        for (int v = 0; v < SOME; v++) {
            float *to = out[m] + from + v * LANES;
            store(to, load(to) + total[m][v] * in[m].scale);
        }
}

// SOME vectors of a block's row, from FROM on: four tokens at once leave their sums in registers if they take half of it at a time.
template <int M, int FROM, int SOME>
static void dot_int8_rows(const Matrix &matrix, const uint8_t *block, const Input *in, float (*out)[ROWS]) {
    const float *scales = reinterpret_cast<const float *>(block) + FROM * LANES;
    const int8_t *w = reinterpret_cast<const int8_t *>(block) + 4 * ROWS + FROM * 2 * LANES;
    F total[M][SOME] = {};
    for (int start = 0; start < matrix.columns; start += matrix.group) {  // longer sums could pass 32 bits
        const int end = std::min(start + matrix.group, matrix.columns);
        I acc[M][SOME] = {};
        for (int k = start; k < end; k += 2, w += 2 * ROWS) {
            __builtin_prefetch(w + AHEAD);
            for (int v = 0; v < SOME; v++) {
                const S weights = widen(w + v * 2 * LANES);
                for (int m = 0; m < M; m++) acc[m][v] = multiply_add(acc[m][v], weights, pair(in[m].rounded + k));
            }
        }
        join<M, SOME>(total, acc, scales);
    }
    finish<M, SOME>(total, in, out, FROM * LANES);
}

template <int M> static void dot_int8(const Matrix &matrix, const uint8_t *block, const Input *in, float (*out)[ROWS]) {
    if constexpr (M > 3 && VECTORS > 2) {
        dot_int8_rows<M, 0, VECTORS / 2>(matrix, block, in, out);
        dot_int8_rows<M, VECTORS / 2, VECTORS / 2>(matrix, block, in, out);
    } else {
        dot_int8_rows<M, 0, VECTORS>(matrix, block, in, out);
    }
}

// A 16-bit lane holds four columns of a row, a weight plus 8 in four bits each: pairs (0, 1), (2, 3), (4, 5), (6, 7) of eight columns.
template <int M> static void dot_int4(const Matrix &matrix, const uint8_t *block, const Input *in, float (*out)[ROWS]) {
    F total[M][VECTORS] = {};
    for (int group = 0; group * matrix.group < matrix.columns; group++) {
        const float *scales = reinterpret_cast<const float *>(block);
        const uint8_t *w = block + 4 * ROWS;
        I acc[M][VECTORS];
        for (int m = 0; m < M; m++)
            for (int v = 0; v < VECTORS; v++) acc[m][v] = -8 * in[m].sums[group] - I{};  // what the 8 adds too much
        for (int k = group * matrix.group; k < (group + 1) * matrix.group; k += 8, w += 4 * ROWS) {
            __builtin_prefetch(w + AHEAD);
            __builtin_prefetch(w + AHEAD + 64);
            for (int v = 0; v < VECTORS; v++) {
                typedef uint16_t U __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
                const U four = *reinterpret_cast<const U *>(w + v * 4 * LANES);
                for (int m = 0; m < M; m++) {
                    const int16_t *x = in[m].rounded + k;
                    acc[m][v] = multiply_add(acc[m][v], (S)(four & 15), pair(x));
                    acc[m][v] = multiply_add(acc[m][v], (S)(four >> 4 & 15), pair(x + 2));
                    acc[m][v] = multiply_add(acc[m][v], (S)(four >> 8 & 15), pair(x + 4));
                    acc[m][v] = multiply_add(acc[m][v], (S)(four >> 12), pair(x + 6));
                }
            }
        }
        join<M, VECTORS>(total, acc, scales);
        block = w;
    }
    finish<M, VECTORS>(total, in, out, 0);
}

template <int M> static void dot(const Matrix &matrix, const uint8_t *block, const Input *in, float (*out)[ROWS]) {
    if (matrix.format == FP32) dot_floats<M, float>(matrix, block, in, out);
    if (matrix.format == FP16) dot_floats<M, half>(matrix, block, in, out);
    if (matrix.format == INT8) dot_int8<M>(matrix, block, in, out);
    if (matrix.format == INT4) dot_int4<M>(matrix, block, in, out);
}

// out[m][r] += row r of block `index` times in[m], for `count` vectors. A vector's sums are made in the same order in whatever
// company, so that they are the same to the last bit.
static void multiply(const Matrix &matrix, int index, const Input *in, int count, float (*out)[ROWS]) {
    const uint8_t *block = matrix.data + index * matrix.block_bytes;
    if (matrix.format == INT8)
        for (; count >= 4; count -= 4, in += 4, out += 4) dot_int8<4>(matrix, block, in, out);
    for (; count >= 3; count -= 3, in += 3, out += 3) dot<3>(matrix, block, in, out);
    if (count == 2) dot<2>(matrix, block, in, out);
    if (count == 1) dot<1>(matrix, block, in, out);
}

// ---------------------------------------------------------------- the rest

// e to the power of x, off by 1e-7 of it; x is held to what float32 can express.
static inline F exponential(F x) {
    const F low = all(-87.0f), high = all(88.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const F turns = x * 1.44269504088896341f + 12582912.0f;  // 1.5 · 2^23 leaves no room for a fraction: it rounds
    const F whole = turns - 12582912.0f;
    const F r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    F poly = all(1.9875691500e-4f);
    poly = poly * r + 1.3981999507e-3f;
    poly = poly * r + 8.3334519073e-3f;
    poly = poly * r + 4.1665795894e-2f;
    poly = poly * r + 1.6666665459e-1f;
    poly = poly * r + 5.0000001201e-1f;
    poly = poly * r * r + r + 1.0f;
    const I power = (__builtin_convertvector(whole, I) + 127) << 23;
    return poly * (F)power;
}

// gelu_new, the tanh form: x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). `count` is a multiple of LANES.
static void gelu(float *x, const float *bias, int count) {
    for (int i = 0; i < count; i += LANES) {
        const F value = load(x + i) + load(bias + i);
        const F twice = value * (1.0f + value * value * 0.044715f) * 1.5957691216057308f;
        store(x + i, value / (1.0f + exponential(-twice)));
    }
}

static void normalise(const float *x, const float *weight, const float *bias, float epsilon, int count, float *out) {
    F acc = {};
    int i = 0;
    for (; i + LANES <= count; i += LANES) acc += load(x + i);
    float total = sum(acc);
    for (; i < count; i++) total += x[i];
    const float mean = total / count;
    acc = F{};
    for (i = 0; i + LANES <= count; i += LANES) acc += (load(x + i) - mean) * (load(x + i) - mean);
    total = sum(acc);
    for (; i < count; i++) total += (x[i] - mean) * (x[i] - mean);
    const float factor = 1 / std::sqrt(total / count + epsilon);
    for (i = 0; i < count; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

static inline float largest(const float *x, int count) {
    F most = {};
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        const F value = load(x + i), size = value < 0 ? -value : value;
        most = size > most ? size : most;
    }
    float peak = 0;
    for (int lane = 0; lane < LANES; lane++) peak = std::max(peak, most[lane]);
    for (; i < count; i++) peak = std::max(peak, std::fabs(x[i]));
    return peak;
}

// Rounds a vector to 16 bits, the largest number to 32767, and adds up each group for int4. `rounded` has `columns` numbers.
static void round_input(const Matrix &matrix, Input &in) {
    if (matrix.format < INT8) return;
    const float most = largest(in.exact, matrix.columns);
    const float factor = most > 0 ? 32767 / most : 0;
    in.scale = most / 32767;
    int i = 0;
    for (; i + LANES <= matrix.columns; i += LANES) {
        const F half = load(in.exact + i) * factor + 12582912.0f;
        typedef int16_t Half __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
        *reinterpret_cast<Half *>(in.rounded + i) = __builtin_convertvector((I)half - 0x4B400000, Half);
    }
    for (; i < matrix.columns; i++) in.rounded[i] = static_cast<int16_t>(std::nearbyint(in.exact[i] * factor));
    if (matrix.format != INT4) return;
    for (int group = 0; group * matrix.group < matrix.columns; group++) {
        int total = 0;
        for (int k = group * matrix.group; k < (group + 1) * matrix.group; k++) total += in.rounded[k];
        in.sums[group] = total;
    }
}

// Makes shares of scores: e to the power of each of the first `count`, over their sum; zeros after them, up to `room` (a multiple of ROWS).
static void softmax(float *scores, int count, int room) {
    for (int i = count; i < room; i++) scores[i] = -INFINITY;
    F peaks = all(-INFINITY), total = {};
    for (int i = 0; i < room; i += LANES) {
        const F value = load(scores + i);
        peaks = value > peaks ? value : peaks;
    }
    float peak = peaks[0];
    for (int i = 1; i < LANES; i++) peak = std::max(peak, peaks[i]);
    for (int i = 0; i < room; i += LANES) {
        const F share = exponential(load(scores + i) - peak);
        store(scores + i, share);
    }
    for (int i = count; i < room; i++) scores[i] = 0;
    for (int i = 0; i < room; i += LANES) total += load(scores + i);
    const float factor = 1 / sum(total);
    for (int i = 0; i < room; i += LANES) store(scores + i, load(scores + i) * factor);
}

static void widen_halves(const half *from, int count, float *to) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    half last[LANES] = {};
    std::copy(from + i, from + count, last);
    const F rest = load(last);
    for (int lane = 0; i < count; i++, lane++) to[i] = rest[lane];
}

// ---------------------------------------------------------------- rounding weights

static inline F rounded(F x) { return x + 12582912.0f - 12582912.0f; }

// Rounds a row to int8, as quantize.py does, and returns its scale: the largest number is 127 scales.
static float round_int8(const float *x, int count, int8_t *to) {
    const float scale = largest(x, count) / 127, divisor = scale > 0 ? scale : 1;
    typedef int8_t Byte __attribute__((vector_size(LANES), aligned(1), may_alias));
    int i = 0;
    for (; i + LANES <= count; i += LANES)
        *reinterpret_cast<Byte *>(to + i) = __builtin_convertvector(__builtin_convertvector(rounded(load(x + i) / divisor), I), Byte);
    for (; i < count; i++) to[i] = static_cast<int8_t>(std::nearbyint(x[i] / divisor));
    return scale;
}

// Rounds a group to int4, plus 8, and returns its scale. `count` is a multiple of LANES. The number that is largest lands between -8 and
// -6.8, where there is one more than on the other side; of a few such scales that with the least squared error is taken.
static float round_int4(const float *x, int count, uint8_t *to) {
    const float most = largest(x, count);
    float peak = most, best = 0, least = INFINITY;
    for (int i = 0; i < count; i++)
        if (x[i] == -most) peak = -most;
    const auto round_by = [&](float scale, int i) {
        F value = rounded(load(x + i) * (1 / scale));
        value = value < -8.0f ? all(-8.0f) : value;
        return value > 7.0f ? all(7.0f) : value;
    };
    for (int trial = 0; most > 0 && trial < 9; trial++) {
        const float scale = peak / (-8.4f + 0.2f * trial);
        F error = {};
        for (int i = 0; i < count; i += LANES) {
            const F off = load(x + i) - round_by(scale, i) * scale;
            error += off * off;
        }
        const float total = sum(error);
        if (total < least) least = total, best = scale;
    }
    typedef uint8_t Byte __attribute__((vector_size(LANES), aligned(1), may_alias));
    for (int i = 0; i < count; i += LANES) {
        const F value = best != 0 ? round_by(best, i) : F{};
        *reinterpret_cast<Byte *>(to + i) = __builtin_convertvector(__builtin_convertvector(value, I) + 8, Byte);
    }
    return best;
}

static const Kernels kernels = {multiply, gelu, normalise, round_input, softmax, widen_halves, round_int8, round_int4};
