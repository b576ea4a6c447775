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
typedef uint16_t U __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

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

// Adds two products of 16 bits a lane to 32 bits, in place: left to itself GCC moves sums from register to register, and to memory.
static inline void multiply_add(I &acc, S a, S b) {
#if LANES == 16 && defined(CODEGEN_VNNI)
    acc = (I)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif LANES == 8 && defined(CODEGEN_AVX2)
    I both;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(both) : "x"(a), "x"(b));
#else
    const I x = (I)a, y = (I)b;
    acc += ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

// The same pair of activations in every lane.
static inline S pair(const int16_t *from) {
    int32_t both;
    std::memcpy(&both, from, 4);
    return (S)(both - I{});
}

// ---------------------------------------------------------------- a block of a matrix, times M vectors, added to `out`

// Columns of a block, where they lie, and what the memory is asked for while they are multiplied, `step` bytes further each time.
struct Piece {
    const uint8_t *data;
    int from, to;
    const uint8_t *next;
    int step;
};

// Asks the memory for a row's worth: of the next piece, or, where one or two vectors leave nothing to do but wait, of what comes soon.
template <int M, int SOME> static inline void ask(Piece &piece, const void *now) {
    const uint8_t *at = M < 3 ? static_cast<const uint8_t *>(now) + SOON : piece.next;
    __builtin_prefetch(at);
    if (SOME == VECTORS) __builtin_prefetch(at + 64);
    piece.next += piece.step;
}

// Each of these takes SOME vectors of a piece's rows, from FROM on: as many sums as stay in registers with the vectors that there are.
// It works on a copy of the piece, since what is stored through a pointer might be a part of it for all that GCC knows.

template <class Number, int M, int FROM, int SOME> static void dot_floats(Piece &whole, const Input *in, float (*out)[ROWS]) {
    Piece piece = whole;
    const Number *w = reinterpret_cast<const Number *>(piece.data) + FROM * LANES;
    F acc[M][SOME];
    UNROLLED for (int m = 0; m < M; m++)
        UNROLLED for (int v = 0; v < SOME; v++) acc[m][v] = load(out[m] + (FROM + v) * LANES);
    for (int k = piece.from; k < piece.to; k++, w += ROWS) {
        ask<M, SOME>(piece, w);
        F weights[SOME];
        UNROLLED for (int v = 0; v < SOME; v++) weights[v] = load(w + v * LANES);
        UNROLLED for (int m = 0; m < M; m++) {
            const F x = all(in[m].exact[k]);
            UNROLLED for (int v = 0; v < SOME; v++) acc[m][v] += weights[v] * x;
        }
    }
    UNROLLED for (int m = 0; m < M; m++)
        UNROLLED for (int v = 0; v < SOME; v++) store(out[m] + (FROM + v) * LANES, acc[m][v]);
    whole.next = piece.next;
}

// Weights of BITS bits, with half of their range added so that none is negative. A lane of 16 bits holds 16 / BITS columns of a row, and
// two lanes side by side are a row's: with 8 bits the lower halves are the first two of four columns, the upper ones the others.
template <int BITS> static inline S unpack(const uint8_t *from, int part) {
    const U several = *reinterpret_cast<const U *>(from) >> part * BITS;
    return (S)(part < 16 / BITS - 1 ? several & static_cast<uint16_t>((1 << BITS) - 1) : several);
}

template <int BITS, int M, int FROM, int SOME>
static void dot_whole(int columns_a_scale, Piece &whole, const Input *in, float (*out)[ROWS]) {
    Piece piece = whole;
    F total[M][SOME] = {};
    const uint8_t *w = piece.data + FROM * 4 * LANES;
    for (int start = piece.from; start < piece.to; start += columns_a_scale) {
        const int end = std::min(start + columns_a_scale, piece.to), group = start / columns_a_scale;
        const float *scales = reinterpret_cast<const float *>(w);
        w += 4 * ROWS;
        I acc[M][SOME];
        UNROLLED for (int m = 0; m < M; m++)
            UNROLLED for (int v = 0; v < SOME; v++) acc[m][v] = in[m].sums[group] * -(1 << (BITS - 1)) - I{};
        for (int k = start; k < end; k += 32 / BITS, w += 4 * ROWS) {
            ask<M, SOME>(piece, w);
            UNROLLED for (int part = 0; part < 16 / BITS; part++) {
                S weights[SOME];
                UNROLLED for (int v = 0; v < SOME; v++) weights[v] = unpack<BITS>(w + v * 4 * LANES, part);
                UNROLLED for (int m = 0; m < M; m++) {
                    const S x = pair(in[m].rounded + k + 2 * part);
                    UNROLLED for (int v = 0; v < SOME; v++) multiply_add(acc[m][v], weights[v], x);
                }
            }
        }
        for (int m = 0; m < M; m++)
            for (int v = 0; v < SOME; v++) total[m][v] += float_of(acc[m][v]) * load(scales + v * LANES);
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < SOME; v++) {
            float *to = out[m] + (FROM + v) * LANES;
            store(to, load(to) + total[m][v] * in[m].scale);
        }
    whole.next = piece.next;
}

template <int M, int FROM, int SOME> static void dot_some(const Matrix &matrix, Piece &piece, const Input *in, float (*out)[ROWS]) {
    if (matrix.format == FP32) dot_floats<float, M, FROM, SOME>(piece, in, out);
    if (matrix.format == FP16) dot_floats<half, M, FROM, SOME>(piece, in, out);
    if (matrix.format == INT8) dot_whole<8, M, FROM, SOME>(matrix.group, piece, in, out);
    if (matrix.format == INT4) dot_whole<4, M, FROM, SOME>(matrix.group, piece, in, out);
    if constexpr (FROM + SOME < VECTORS) dot_some<M, FROM + SOME, SOME>(matrix, piece, in, out);
}

constexpr int vectors_of(int m) { return m < 3 && LANES > 4 ? VECTORS : 2; }

template <int M> static void dot(const Matrix &matrix, Piece &piece, const Input *in, float (*out)[ROWS]) {
    dot_some<M, 0, vectors_of(M)>(matrix, piece, in, out);
}

// out[m][r] += row r of block `index` times in[m], for `count` vectors. A vector's sums are made in the same order in whatever
// company, so that they are the same to the last bit.
//
// A piece of the block is read once for every few vectors. Meanwhile the memory is asked for the next piece, a part of it each time,
// so that memory and arithmetic are busy together.
static void multiply(const Matrix &matrix, int index, const Input *in, int count, float (*out)[ROWS]) {
    static void (*const dots[])(const Matrix &, Piece &, const Input *, float (*)[ROWS]) = {dot<1>, dot<2>, dot<3>, dot<4>, dot<5>, dot<6>};
    const uint8_t *block = matrix.data + index * matrix.block_bytes;
    const int wide = matrix.format < INT8 ? LONGEST : std::max(LONGEST / matrix.group, 1) * matrix.group;
    const int times = (count + 5) / 6, each = (count + times - 1) / times;
    const int step = (matrix.format == FP16 ? 64 : 128) * vectors_of(each) / VECTORS / times;
    for (int from = 0; from < matrix.columns; from += wide) {
        const int to = std::min(from + wide, matrix.columns);
        const uint8_t *data = block + matrix.before(from);
        const uint8_t *next = block + (to < matrix.columns ? matrix.before(to) : matrix.block_bytes);
        Piece piece{data, from, to, next, step};
        for (int m = 0; m < count; m += each) dots[std::min(each, count - m) - 1](matrix, piece, in + m, out + m);
    }
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

// Rounds a vector to 16 bits, the largest number to 32767, and adds up each group. `rounded` has `columns` numbers.
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
    for (int start = 0, group = 0; start < matrix.columns; start += matrix.group, group++) {
        const int end = std::min(start + matrix.group, matrix.columns);
        int total = 0;
        for (int k = start; k < end; k++) total += in.rounded[k];
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
