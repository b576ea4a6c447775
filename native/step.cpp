// The native step: tokens through weights and cache in one call, equal to TorchStep of model.py. A plain C interface at the end;
// native.py speaks it through ctypes and checks what it passes, so here lengths and indices are taken as right.
//
// A step of M tokens has three phases a layer, each shared out among threads: [qkv | fc_in], the heads' attention, [out | fc_out].
// What an instruction set matters to is in kernels.h.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// GCC 12 takes the undefined halves of its own AVX-512 intrinsics for mistakes.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

constexpr int ROWS = 32;     // of a block
constexpr int SOON = 1024;   // bytes
constexpr int LONGEST = 512; // columns of int8 times 16 bits whose sum is sure to stay within 32 bits; on the way it may wrap around

// Sums that are to stay in registers must be in loops that are written out: GCC leaves loops of many steps to run.
#define UNROLLED _Pragma("GCC unroll 8")

int padded(int count, int unit) { return (count + unit - 1) / unit * unit; }

enum Format { FP32, FP16, INT8, INT4 };

struct half {
    uint16_t bits;
};

// Rounds to half precision, to the nearest, ties to even; what is too large becomes the largest.
inline half to_half(float value) {
    uint32_t sign, bits;
    std::memcpy(&sign, &value, 4);
    const float size = std::min(std::fabs(value), 65504.0f) * 0x1p-112f;
    std::memcpy(&bits, &size, 4);
    return {static_cast<uint16_t>((bits + 0xfff + (bits >> 13 & 1)) >> 13 | (sign >> 16 & 0x8000))};
}

// Rows come in blocks of ROWS, the last one filled up with zeros; columns are filled up to whole groups.
struct Matrix {
    Format format = FP32;
    int rows = 0, columns = 0;  // columns: as stored
    int group = 0;              // columns that share a scale
    size_t block_bytes = 0;
    uint8_t *data = nullptr;

    Matrix() = default;
    Matrix(Format of, int height, int wide, int columns_a_scale)
        : format(of), rows(height), columns(padded(wide, of == INT4 ? columns_a_scale : 4)), group(columns_a_scale) {
        block_bytes = before(columns);
    }

    // The bytes of a block's columns before this one, which begins a group.
    size_t before(int column) const {
        const size_t numbers = static_cast<size_t>(ROWS) * column;
        if (format < INT8) return numbers * (format == FP32 ? 4 : 2);
        return numbers / (format == INT8 ? 1 : 2) + 4 * ROWS * ((column + group - 1) / group);
    }

    int blocks() const { return (rows + ROWS - 1) / ROWS; }
    size_t bytes() const { return block_bytes * blocks(); }
};

// A vector that matrices are multiplied with: as it is, and rounded to 16 bits times `scale`; `sums` are those of its groups.
struct Input {
    float *exact = nullptr;
    int16_t *rounded = nullptr;
    int32_t *sums = nullptr;
    float scale = 0;
};

struct Kernels {
    void (*multiply)(const Matrix &, int, const Input *, int, float (*)[ROWS]);
    void (*gelu)(float *, const float *, int);
    void (*normalise)(const float *, const float *, const float *, float, int, float *);
    void (*round_input)(const Matrix &, Input &);
    void (*softmax)(float *, int, int);
    void (*widen_halves)(const half *, int, float *);
    float (*round_int8)(const float *, int, int8_t *);
    float (*round_int4)(const float *, int, uint8_t *);
};

}  // namespace

namespace plain {
namespace {
#define LANES 4
#include "kernels.h"
#undef LANES
}  // namespace
}  // namespace plain

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define CODEGEN_AVX2
namespace avx2 {
namespace {
#define LANES 8
#include "kernels.h"
#undef LANES
}  // namespace
}  // namespace avx2
#undef CODEGEN_AVX2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#define CODEGEN_VNNI
namespace vnni {
namespace {
#define LANES 16
#include "kernels.h"
#undef LANES
}  // namespace
}  // namespace vnni
#undef CODEGEN_VNNI
#pragma GCC pop_options
#endif

namespace {

// ---------------------------------------------------------------- threads

// Runs numbered tasks on the caller and on its workers. Who is free takes the next task, and the caller waits for tasks that were
// taken, never for a thread: beside a busy neighbour the others do the work of one that is not running.
class Pool {
  public:
    explicit Pool(int threads) {
        for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
    }

    ~Pool() {
        stop_ = true;
        publish(0);
        for (auto &worker : workers_) worker.join();
    }

    template <class Task> void run(int count, bool alone, const Task &task) {
        if (alone || workers_.empty() || count < 2) {
            for (int i = 0; i < count; i++) task(i);
            return;
        }
        call_ = [](const void *what, int i) { (*static_cast<const Task *>(what))(i); };
        what_ = &task;
        finished_.store(0, std::memory_order_relaxed);
        const uint64_t job = publish(count);
        take(job);
        for (int spins = 0; finished_.load(std::memory_order_acquire) < count; spins++) pause(spins);
    }

  private:
    // The job's number, how many tasks it has, and the next one, in one word: a thread that comes late cannot take a task of
    // another job for one of its own.
    static constexpr int BITS = 20;
    static int count_of(uint64_t word) { return word >> BITS & ((1 << BITS) - 1); }
    static int next_of(uint64_t word) { return word & ((1 << BITS) - 1); }
    static uint64_t job_of(uint64_t word) { return word >> 2 * BITS; }

    uint64_t publish(int count) {
        const uint64_t job = job_of(word_.load(std::memory_order_relaxed)) + 1;
        word_.store(job << 2 * BITS | static_cast<uint64_t>(count) << BITS);
        if (sleeping_.load()) {
            const std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        return job;
    }

    void take(uint64_t job) {
        for (;;) {
            const uint64_t seen = word_.load(std::memory_order_acquire);
            if (job_of(seen) != job || next_of(seen) >= count_of(seen)) return;
            const uint64_t word = word_.fetch_add(1, std::memory_order_acq_rel);
            if (next_of(word) >= count_of(word)) return;
            job = job_of(word);  // the task is of the job that the ticket names
            call_(what_, next_of(word));
            finished_.fetch_add(1, std::memory_order_release);
        }
    }

    void work() {
        uint64_t last = 0;
        for (int spins = 0;; spins++) {
            const uint64_t job = job_of(word_.load(std::memory_order_acquire));
            if (job != last) {
                if (stop_) return;
                take(job);
                last = job;
                spins = 0;
            } else if (spins < 2000) {
                pause(spins);
            } else {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeping_++;
                wake_.wait(lock, [&] { return job_of(word_.load()) != last; });
                sleeping_--;
            }
        }
    }

    static void pause(int spins) {
        if (spins % 256 == 255) std::this_thread::yield();
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    std::vector<std::thread> workers_;
    std::atomic<uint64_t> word_{0};
    std::atomic<int> finished_{0}, sleeping_{0};
    std::atomic<bool> stop_{false};
    void (*call_)(const void *, int) = nullptr;
    const void *what_ = nullptr;
    std::mutex mutex_;
    std::condition_variable wake_;
};

// ---------------------------------------------------------------- memory

// Pages that cost nothing before they are written to, zeros at first.
class Pages {
  public:
    Pages() = default;
    Pages(size_t bytes, bool huge) : bytes_(bytes ? bytes : 1) {
        void *at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        madvise(at, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        at_ = static_cast<uint8_t *>(at);
    }
    Pages(Pages &&other) noexcept : at_(std::exchange(other.at_, nullptr)), bytes_(other.bytes_) {}
    Pages &operator=(Pages &&other) noexcept {
        std::swap(at_, other.at_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Pages() {
        if (at_) munmap(at_, bytes_);
    }
    uint8_t *at() const { return at_; }

  private:
    uint8_t *at_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace

// ---------------------------------------------------------------- the model

extern "C" struct Shape {
    int32_t layers, width, heads, rotary, inner, vocabulary, positions;
    float epsilon;
};

namespace {

struct Layer {
    Matrix qkv, out, fc_in, fc_out;
    std::vector<float> ln_weight, ln_bias, in_bias, out_bias;
};

}  // namespace

struct Model {
    Shape shape;
    Format format;
    int group;
    const Kernels *kernels;
    Pool pool;
    Pages weights;
    std::vector<Layer> layers;
    Matrix embedding, head;  // the embedding's rows are not in blocks: they are looked up
    std::vector<float> ln_weight, ln_bias, head_bias, sines, cosines;
    std::vector<Pages> caches;  // the first is the main one, the others are its branches
    int shared = 0;             // positions of the main one that the branches go on from

    Model(const Shape &of, Format in, int columns, const Kernels *with, int threads)
        : shape(of), format(in), group(in == INT8 ? LONGEST : columns), kernels(with), pool(threads), layers(of.layers) {
        const int width = shape.width, inner = shape.inner;
        size_t bytes = 0;
        const auto place = [&](Matrix &matrix, int rows, int wide) {
            matrix = Matrix(format, rows, wide, group);
            matrix.data = reinterpret_cast<uint8_t *>(bytes);  // an offset, until there is memory
            bytes += padded64(matrix.bytes());
        };
        for (auto &layer : layers) {
            place(layer.qkv, 3 * width, width);
            place(layer.fc_in, inner, width);
            place(layer.out, width, width);
            place(layer.fc_out, width, inner);
            layer.ln_weight.resize(width);
            layer.ln_bias.resize(width);
            layer.in_bias.resize(padded(inner, ROWS));
            layer.out_bias.resize(padded(width, ROWS));
        }
        place(head, shape.vocabulary, width);
        embedding.format = format < INT8 ? format : INT8;
        embedding.rows = shape.vocabulary;
        embedding.columns = width;
        embedding.block_bytes = format == FP32 ? 4 * width : format == FP16 ? 2 * width : 4 + width;  // int8 with the row's scale
        embedding.data = reinterpret_cast<uint8_t *>(bytes);
        bytes += embedding.block_bytes * embedding.rows;
        weights = Pages(bytes, true);
        for (auto &layer : layers)
            for (auto *matrix : {&layer.qkv, &layer.fc_in, &layer.out, &layer.fc_out}) locate(*matrix);
        locate(head);
        locate(embedding);
        ln_weight.resize(width);
        ln_bias.resize(width);
        head_bias.resize(padded(shape.vocabulary, ROWS));

        const int half = shape.rotary / 2;
        sines.resize(static_cast<size_t>(shape.positions) * half);
        cosines.resize(sines.size());
        caches.push_back(cache());
    }

    static size_t padded64(size_t bytes) { return (bytes + 63) / 64 * 64; }
    void locate(Matrix &matrix) { matrix.data = weights.at() + reinterpret_cast<size_t>(matrix.data); }

    // A head's past is two matrices in blocks: its keys have a row for each position, and its values a column.
    int size() const { return shape.width / shape.heads; }
    Format past_format() const { return format == FP32 ? FP32 : FP16; }
    size_t past_number() const { return format == FP32 ? 4 : 2; }
    size_t key_bytes() const { return static_cast<size_t>(padded(shape.positions, ROWS)) * size() * past_number(); }
    size_t value_bytes() const { return static_cast<size_t>(padded(size(), ROWS)) * shape.positions * past_number(); }
    Pages cache() const { return {(key_bytes() + value_bytes()) * shape.layers * shape.heads, false}; }

    uint8_t *past(int which, int layer, int of) const {
        return caches[which].at() + (static_cast<size_t>(layer) * shape.heads + of) * (key_bytes() + value_bytes());
    }
    Matrix past_matrix(int rows, int columns, size_t block_bytes, uint8_t *data) const {
        Matrix matrix;
        matrix.format = past_format();
        matrix.rows = rows;
        matrix.columns = columns;
        matrix.block_bytes = block_bytes;
        matrix.data = data;
        return matrix;
    }
    Matrix keys(int which, int layer, int of) const {
        const size_t block = static_cast<size_t>(ROWS) * size() * past_number();
        return past_matrix(shape.positions, size(), block, past(which, layer, of));
    }
    Matrix values(int which, int layer, int of, int begin, int end) const {
        const size_t block = static_cast<size_t>(ROWS) * shape.positions * past_number();
        return past_matrix(size(), end - begin, block, past(which, layer, of) + key_bytes() + begin * ROWS * past_number());
    }

    // Asks the memory for what `remember` will write a key to: a line for each number of it.
    void ask(int which, int layer, int of, int position) const {
        const Matrix k = keys(which, layer, of);
        for (size_t at = 0; at < k.block_bytes; at += 64) __builtin_prefetch(k.data + position / ROWS * k.block_bytes + at);
    }

    // Writes the key and the value of one position of a head.
    void remember(int which, int layer, int of, int position, const float *key, const float *value) {
        const Matrix k = keys(which, layer, of), v = values(which, layer, of, 0, 0);
        if (format == FP32)
            write<float>(k, v, position, key, value, [](float number) { return number; });
        else
            write<half>(k, v, position, key, value, to_half);
    }

    template <class Number, class Convert>
    void write(const Matrix &k, const Matrix &v, int position, const float *key, const float *value, const Convert &convert) const {
        Number *to = reinterpret_cast<Number *>(k.data + position / ROWS * k.block_bytes) + position % ROWS;
        for (int d = 0; d < size(); d++) to[d * ROWS] = convert(key[d]);
        for (int d = 0; d < size(); d++)
            reinterpret_cast<Number *>(v.data + d / ROWS * v.block_bytes)[static_cast<size_t>(position) * ROWS + d % ROWS] = convert(value[d]);
    }

    void embed(int token, float *out) const {
        const uint8_t *row = embedding.data + token * embedding.block_bytes;
        if (embedding.format == FP32) std::memcpy(out, row, embedding.block_bytes);
        if (embedding.format == FP16) kernels->widen_halves(reinterpret_cast<const half *>(row), shape.width, out);
        if (embedding.format != INT8) return;
        float scale;
        std::memcpy(&scale, row, 4);
        const int8_t *numbers = reinterpret_cast<const int8_t *>(row + 4);
        for (int i = 0; i < shape.width; i++) out[i] = numbers[i] * scale;
    }
};

namespace {

// ---------------------------------------------------------------- packing

// Where the weights of a row's columns from `start` on lie, after their scale is written. See kernels.h for the order.
uint8_t *place(Matrix &matrix, int row, int start, float scale) {
    uint8_t *group = matrix.data + row / ROWS * matrix.block_bytes + matrix.before(start);
    std::memcpy(group + row % ROWS * 4, &scale, 4);
    return group + 4 * ROWS + row % ROWS * 4;
}

// Stores row `row`, `wide` columns of it, as int8 with one scale.
void pack_int8(Matrix &matrix, int row, const int8_t *from, float scale, int wide) {
    for (int start = 0; start < wide; start += matrix.group) {
        uint8_t *to = place(matrix, row, start, scale);
        for (int k = start; k < std::min(start + matrix.group, wide); k += 4, to += 4 * ROWS)
            for (int i = 0; i < std::min(4, wide - k); i++) to[(i % 2) * 2 + i / 2] = static_cast<uint8_t>(from[k + i] + 128);
    }
}

// Stores a group of row `row`, from column `start` on: whole numbers plus 8.
void place_int4(Matrix &matrix, int row, int start, float scale, const uint8_t *numbers) {
    uint8_t *to = place(matrix, row, start, scale);
    for (int k = 0; k < matrix.group; k += 8, to += 4 * ROWS)
        for (int odd = 0; odd < 2; odd++) {
            const uint8_t *four = numbers + k + odd;
            to[2 * odd] = static_cast<uint8_t>(four[0] | four[2] << 4);
            to[2 * odd + 1] = static_cast<uint8_t>(four[4] | four[6] << 4);
        }
}

// Rounds a row to int4, group by group, the last one filled up with zeros: `take` is given where each starts, its scale and numbers.
template <class Take> void round_row(const Kernels &kernels, int columns, const float *from, int wide, const Take &take) {
    std::vector<float> group(columns);
    std::vector<uint8_t> rounded(columns);
    for (int start = 0; start < wide; start += columns) {
        const int count = std::min(columns, wide - start);
        std::fill(std::copy(from + start, from + start + count, group.begin()), group.end(), 0.0f);
        const float scale = kernels.round_int4(group.data(), columns, rounded.data());
        take(start, scale, rounded.data());
    }
}

// Stores row `row` of int4 as files have it: two numbers a byte, the first in the lower half, and a scale a group.
void pack_int4(Matrix &matrix, int row, const uint8_t *from, const float *scales) {
    std::vector<uint8_t> numbers(matrix.group);
    for (int start = 0; start < matrix.columns; start += matrix.group, scales++) {
        for (int k = 0; k < matrix.group; k += 2, from++) numbers[k] = *from & 15, numbers[k + 1] = *from >> 4;
        place_int4(matrix, row, start, *scales, numbers.data());
    }
}

template <class Number, class Convert> void pack_floats(Matrix &matrix, int row, const float *from, int wide, const Convert &convert) {
    Number *to = reinterpret_cast<Number *>(matrix.data + row / ROWS * matrix.block_bytes) + row % ROWS;
    for (int k = 0; k < wide; k++, to += ROWS) *to = convert(from[k]);
}

void pack_row(const Kernels &kernels, Matrix &matrix, int row, const float *from, int wide) {
    if (matrix.format == FP32) pack_floats<float>(matrix, row, from, wide, [](float number) { return number; });
    if (matrix.format == FP16) pack_floats<half>(matrix, row, from, wide, to_half);
    if (matrix.format == INT4)
        round_row(kernels, matrix.group, from, wide,
                  [&](int start, float scale, const uint8_t *numbers) { place_int4(matrix, row, start, scale, numbers); });
    if (matrix.format != INT8) return;
    std::vector<int8_t> bytes(wide);
    const float scale = kernels.round_int8(from, wide, bytes.data());
    pack_int8(matrix, row, bytes.data(), scale, wide);
}

// ---------------------------------------------------------------- a step

// M vectors that a matrix is to be multiplied with.
struct Inputs {
    std::vector<float> exact;
    std::vector<int16_t> rounded;
    std::vector<int32_t> sums;
    std::vector<Input> rows;
    size_t stride;  // floats from one to the next

    Inputs(const Matrix &matrix, int count) : stride(padded(matrix.columns, 16)) {
        const int columns = static_cast<int>(stride);
        const int groups = columns / matrix.group + 1;
        exact.resize(static_cast<size_t>(count) * columns);
        if (matrix.format >= INT8) rounded.resize(exact.size()), sums.resize(static_cast<size_t>(count) * groups);
        for (int m = 0; m < count; m++) {
            const size_t at = static_cast<size_t>(m) * columns;
            rows.push_back({&exact[at], rounded.empty() ? nullptr : &rounded[at],
                            sums.empty() ? nullptr : &sums[static_cast<size_t>(m) * groups], 0});
        }
    }
};

constexpr double ALONE = 2e5;  // products below which a phase is left to one thread: it takes 5 us, and handing over to another some 2
constexpr int QUERIES = 12;  // tokens that meet the keys together
constexpr int RUN = 4;  // blocks that are a task together, so that the next one can be asked of the memory meanwhile
constexpr int TILE = 48;  // vectors that a block is multiplied with at a time: their results stay in the first cache

void rotate(float *head, const float *sin, const float *cos, int half) {
    for (int i = 0; i < half; i++) {
        const float even = head[2 * i], odd = head[2 * i + 1];
        head[2 * i] = even * cos[i] - odd * sin[i];
        head[2 * i + 1] = even * sin[i] + odd * cos[i];
    }
}

// What the queries of one head find, for `count` tokens, QUERIES at most: q[m] and out[m] lie `stride` and `out_stride` floats
// apart. Tokens of branches share the first positions, whose keys and values are read once for all of them.
void attend(const Model &model, int layer, int head, int count, const int32_t *which, const int32_t *positions, float *q,
            size_t stride, float *out, size_t out_stride) {
    const Kernels &kernels = *model.kernels;
    const int size = model.size(), shared = model.shared;
    const int last = *std::max_element(positions, positions + count), room = padded(last + 1, ROWS);
    const int main = which[0] ? shared : last + 1;  // positions of the main past that somebody sees
    thread_local std::vector<float> scores;
    if (scores.size() < static_cast<size_t>(count) * room) scores.resize(static_cast<size_t>(count) * room);

    Input queries[QUERIES], shares[QUERIES];
    const float root = 1 / std::sqrt(static_cast<float>(size));
    for (int m = 0; m < count; m++) {
        queries[m].exact = q + m * stride;
        shares[m].exact = &scores[static_cast<size_t>(m) * room];
        for (int d = 0; d < size; d++) queries[m].exact[d] *= root;
    }
    const auto score = [&](const Matrix &keys, int m, int some, int begin, int end) {
        for (int block = begin / ROWS; block * ROWS < end; block++) {
            float results[QUERIES][ROWS] = {};
            kernels.multiply(keys, block, &queries[m], some, results);
            const int from = std::max(begin, block * ROWS), to = std::min(end, block * ROWS + ROWS);
            for (int i = 0; i < some; i++)
                std::copy(results[i] + from % ROWS, results[i] + from % ROWS + to - from, shares[m + i].exact + from);
        }
    };
    score(model.keys(0, layer, head), 0, count, 0, main);
    for (int m = 0; m < count; m++) {
        if (which[m]) score(model.keys(which[m], layer, head), m, 1, shared, positions[m] + 1);
        kernels.softmax(shares[m].exact, positions[m] + 1, room);
    }
    for (int d = 0; d < size; d += ROWS) {
        float results[QUERIES][ROWS] = {};
        kernels.multiply(model.values(0, layer, head, 0, main), d / ROWS, shares, count, results);
        for (int m = 0; m < count; m++) {
            Input own;
            own.exact = shares[m].exact + shared;
            if (which[m]) kernels.multiply(model.values(which[m], layer, head, shared, positions[m] + 1), d / ROWS, &own, 1, &results[m]);
            std::copy(results[m], results[m] + std::min(ROWS, size - d), out + m * out_stride + d);
        }
    }
}

void run(Model &model, int count, const int32_t *tokens, const int32_t *which, const int32_t *positions, int want, float *result) {
    const Shape &shape = model.shape;
    const Kernels &kernels = *model.kernels;
    const int width = shape.width, heads = shape.heads, size = width / heads, inner = shape.inner, half = shape.rotary / 2;
    const Layer &first = model.layers[0];
    const size_t wide = padded(width, ROWS), stride = padded(3 * width, ROWS);
    std::vector<float> x(count * wide), qkv(count * stride);
    Inputs normal(first.qkv, count), attended(first.out, count), hidden(first.fc_out, count);

    const auto alone = [&](double products) { return products * count < ALONE; };
    const auto prepare = [&](const Matrix &matrix, Inputs &inputs, const auto &fill) {
        model.pool.run(count, alone(matrix.columns * 8.0), [&](int m) {
            fill(m, inputs.rows[m].exact);
            kernels.round_input(matrix, inputs.rows[m]);
        });
    };
    const auto run_blocks = [&](int blocks, bool by_one, const auto &use) {
        model.pool.run((blocks + RUN - 1) / RUN, by_one, [&](int task) {
            for (int block = task * RUN; block < std::min(blocks, task * RUN + RUN); block++) use(block);
        });
    };
    // Runs `use(first row of the block, m, its ROWS results)` for the blocks from `from` on of a matrix.
    const auto multiply = [&](const Matrix &matrix, int block, const Inputs &inputs, const auto &use) {
        for (int start = 0; start < count; start += TILE) {
            const int some = std::min(TILE, count - start);
            float results[TILE][ROWS];
            std::memset(results, 0, sizeof *results * some);
            kernels.multiply(matrix, block, &inputs.rows[start], some, results);
            for (int m = 0; m < some; m++) use(block * ROWS, start + m, results[m]);
        }
    };

    for (int m = 0; m < count; m++) model.embed(tokens[m], &x[m * wide]);
    for (int l = 0; l < shape.layers; l++) {
        const Layer &layer = model.layers[l];
        prepare(layer.qkv, normal, [&](int m, float *to) {
            kernels.normalise(&x[m * wide], layer.ln_weight.data(), layer.ln_bias.data(), shape.epsilon, width, to);
        });
        const int qkv_blocks = layer.qkv.blocks();
        run_blocks(qkv_blocks + layer.fc_in.blocks(), alone(static_cast<double>(width) * (3 * width + inner)), [&](int block) {
            if (block < qkv_blocks)
                multiply(layer.qkv, block, normal, [&](int row, int m, const float *from) {
                    std::memcpy(&qkv[m * stride + row], from, 4 * ROWS);
                });
            else
                multiply(layer.fc_in, block - qkv_blocks, normal, [&](int row, int m, float *from) {
                    kernels.gelu(from, &layer.in_bias[row], ROWS);
                    std::memcpy(hidden.rows[m].exact + row, from, 4 * std::min(ROWS, inner - row));
                });
        });
        const auto remember = [&](int h) {
            for (int m = 0; m < count; m++) {
                const int at = positions[m];
                if (m + 1 < count && which[m + 1]) model.ask(which[m + 1], l, h, positions[m + 1]);
                float *q = &qkv[m * stride + h * size], *k = q + width, *v = k + width;
                rotate(q, &model.sines[at * half], &model.cosines[at * half], half);
                rotate(k, &model.sines[at * half], &model.cosines[at * half], half);
                model.remember(which[m], l, h, at, k, v);
            }
        };
        const int tiles = (count + QUERIES - 1) / QUERIES;
        if (tiles > 1) model.pool.run(heads, false, remember);
        model.pool.run(heads * tiles, alone(2.0 * width * (positions[count - 1] + 1)), [&](int task) {
            const int h = task % heads, m = task / heads * QUERIES;
            if (tiles == 1) remember(h);
            attend(model, l, h, std::min(QUERIES, count - m), which + m, positions + m, &qkv[m * stride + h * size], stride,
                   attended.rows[m].exact + h * size, attended.stride);
        });
        prepare(layer.out, attended, [](int, float *) {});
        prepare(layer.fc_out, hidden, [](int, float *) {});
        model.pool.run(layer.out.blocks(), alone(static_cast<double>(width) * (width + inner)), [&](int block) {
            const auto add = [&](int row, int m, const float *from) {
                for (int i = 0; i < ROWS; i++) x[m * wide + row + i] += from[i];
            };
            multiply(layer.out, block, attended, add);
            multiply(layer.fc_out, block, hidden, add);
            for (int m = 0; m < count; m++) add(block * ROWS, m, &layer.out_bias[block * ROWS]);
        });
    }

    const int from = want == 0 ? count - 1 : 0, rows = count - from;  // the last one's logits, or everyone's
    std::vector<float> states(static_cast<size_t>(rows) * width);
    for (int m = 0; m < rows; m++)
        kernels.normalise(&x[(from + m) * wide], model.ln_weight.data(), model.ln_bias.data(), shape.epsilon, width,
                          want == 2 ? result + static_cast<size_t>(m) * width : &states[static_cast<size_t>(m) * width]);
    if (want == 2) return;
    Inputs last(model.head, rows);
    for (int m = 0; m < rows; m++) {
        std::memcpy(last.rows[m].exact, &states[static_cast<size_t>(m) * width], 4 * width);
        kernels.round_input(model.head, last.rows[m]);
    }
    run_blocks(model.head.blocks(), rows * static_cast<double>(width) * shape.vocabulary < ALONE, [&](int block) {
        for (int start = 0; start < rows; start += TILE) {
            const int some = std::min(TILE, rows - start), columns = std::min(ROWS, shape.vocabulary - block * ROWS);
            float results[TILE][ROWS];
            std::memset(results, 0, sizeof *results * some);
            kernels.multiply(model.head, block, &last.rows[start], some, results);
            for (int m = 0; m < some; m++)
                for (int i = 0; i < columns; i++)
                    result[static_cast<size_t>(start + m) * shape.vocabulary + block * ROWS + i] =
                        results[m][i] + model.head_bias[block * ROWS + i];
        }
    });
}

// Whether a set of instructions computes here what plain C does: it was compiled on another machine than this one, perhaps on one
// where it cannot run.
bool agrees(const Kernels &with) {
    constexpr int wide = 90, count = 7, few = 3;
    uint32_t state = 1;
    const auto number = [&] { return static_cast<float>(static_cast<int32_t>(state = state * 1664525 + 1013904223)) * 0x1p-30f; };
    const auto near = [](float a, float b) { return std::fabs(a - b) <= 1e-4f * (1 + std::fabs(b)); };
    for (const Format format : {FP32, FP16, INT8, INT4}) {
        Matrix matrix(format, ROWS, wide, 32);
        std::vector<uint8_t> memory(matrix.bytes());
        matrix.data = memory.data();
        std::vector<float> row(wide);
        for (int r = 0; r < ROWS; r++) {
            for (float &each : row) each = number();
            pack_row(with, matrix, r, row.data(), wide);
        }
        Inputs ours(matrix, count), plain(matrix, count);
        float found[count][ROWS] = {}, wanted[count][ROWS] = {};
        for (int m = 0; m < count; m++) {
            for (int k = 0; k < wide; k++) ours.rows[m].exact[k] = plain.rows[m].exact[k] = number();
            with.round_input(matrix, ours.rows[m]);
            plain::kernels.round_input(matrix, plain.rows[m]);
        }
        with.multiply(matrix, 0, ours.rows.data(), count, found);
        with.multiply(matrix, 0, ours.rows.data(), few, found);
        plain::kernels.multiply(matrix, 0, plain.rows.data(), count, wanted);
        plain::kernels.multiply(matrix, 0, plain.rows.data(), few, wanted);
        const auto same = [&] { return std::equal(found[0], found[0] + count * ROWS, wanted[0], near); };
        if (!same()) return false;
        for (int m = 0; m < count; m++) {
            for (int r = 0; r < ROWS; r++) found[m][r] = wanted[m][r] = number();
            with.gelu(found[m], found[0], ROWS);
            plain::kernels.gelu(wanted[m], wanted[0], ROWS);
        }
        if (!same()) return false;
        for (int m = 0; m < count; m++) with.softmax(found[m], ROWS - m, ROWS), plain::kernels.softmax(wanted[m], ROWS - m, ROWS);
        if (!same()) return false;
    }
    return true;
}

// The kernels for instructions that this machine has; NULL where it has them not.
const Kernels *kernels_of(int instructions) {
#if defined(__x86_64__)
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                                 agrees(avx2::kernels);
    static const bool has_vnni = has_avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && agrees(vnni::kernels);
    if (instructions == 1 && has_avx2) return &avx2::kernels;
    if (instructions == 2 && has_vnni) return &vnni::kernels;
#endif
    return instructions == 0 ? &plain::kernels : nullptr;
}

}  // namespace

// ---------------------------------------------------------------- the interface

extern "C" {

// Raised with every change of what follows, so that a library of another version is not taken for this one.
int codegen_version() { return 2; }

// Whether these instructions (0 plain, 1 AVX2, 2 AVX-512 with VNNI) are compiled in and run here.
int codegen_runs(int instructions) { return kernels_of(instructions) != nullptr; }

// A model of zeros: its weights come by codegen_set. NULL where there is no memory.
Model *codegen_new(const Shape *shape, int format, int group, int instructions, int threads) {
    try {
        return new Model(*shape, static_cast<Format>(format), group, kernels_of(instructions), threads);
    } catch (const std::exception &) {
        return nullptr;
    }
}

void codegen_free(Model *model) { delete model; }

// The bytes of all weights.
size_t codegen_bytes(const Model *model) {
    return model->embedding.data + model->embedding.block_bytes * model->embedding.rows - model->weights.at();
}

// The tensors of a model, in the order of native.py.
enum Part { QKV, OUT, FC_IN, FC_OUT, LN_WEIGHT, LN_BIAS, IN_BIAS, OUT_BIAS, EMBEDDING, HEAD, HEAD_BIAS, SINES, COSINES };

// Sets rows `row` to `row + rows` of a tensor: floats, or, with `scales`, rows of int8 or int4, whichever the matrix has (the embedding
// is int8 then). Layer -1 is beside the layers.
void codegen_set(Model *model, int layer, int part, int row, int rows, const void *from, const float *scales) {
    const float *floats = static_cast<const float *>(from);
    Layer *own = layer < 0 ? nullptr : &model->layers[layer];
    std::vector<float> *vector = part == LN_WEIGHT   ? (own ? &own->ln_weight : &model->ln_weight)
                                 : part == LN_BIAS   ? (own ? &own->ln_bias : &model->ln_bias)
                                 : part == IN_BIAS   ? &own->in_bias
                                 : part == OUT_BIAS  ? &own->out_bias
                                 : part == HEAD_BIAS ? &model->head_bias
                                 : part == SINES     ? &model->sines
                                 : part == COSINES   ? &model->cosines
                                                     : nullptr;
    if (vector) {
        std::copy(floats, floats + rows, vector->begin() + row);
        return;
    }
    Matrix &matrix = part == QKV      ? own->qkv
                     : part == OUT    ? own->out
                     : part == FC_IN  ? own->fc_in
                     : part == FC_OUT ? own->fc_out
                     : part == HEAD   ? model->head
                                      : model->embedding;
    const int wide = part == FC_OUT ? model->shape.inner : model->shape.width;
    const auto set_row = [&](int i) {
        const float *exact = floats + static_cast<size_t>(i) * wide;
        const int8_t *ready = static_cast<const int8_t *>(from) + static_cast<size_t>(i) * wide;
        if (part != EMBEDDING) {
            const int halves = matrix.columns / 2, groups = matrix.columns / matrix.group;
            if (!scales) pack_row(*model->kernels, matrix, row + i, exact, wide);
            else if (matrix.format == INT8) pack_int8(matrix, row + i, ready, scales[i], wide);
            else
                pack_int4(matrix, row + i, static_cast<const uint8_t *>(from) + static_cast<size_t>(i) * halves,
                          scales + static_cast<size_t>(i) * groups);
            return;
        }
        uint8_t *to = matrix.data + (row + i) * matrix.block_bytes;
        if (matrix.format == FP32) std::memcpy(to, exact, 4 * wide);
        if (matrix.format == FP16) std::transform(exact, exact + wide, reinterpret_cast<half *>(to), to_half);
        if (matrix.format != INT8) return;
        const float scale = scales ? scales[i] : model->kernels->round_int8(exact, wide, reinterpret_cast<int8_t *>(to + 4));
        std::memcpy(to, &scale, 4);
        if (scales) std::memcpy(to + 4, ready, wide);
    };
    model->pool.run((rows + ROWS - 1) / ROWS, false, [&](int block) {
        for (int i = block * ROWS; i < std::min(rows, block * ROWS + ROWS); i++) set_row(i);
    });
}

// Rounds rows to int4 as files have it, in groups of `columns`: `to` (rows, bytes) and `scales` (rows, groups).
void codegen_round_int4(const float *from, int rows, int wide, int columns, int instructions, uint8_t *to, float *scales) {
    for (int i = 0; i < rows; i++, from += wide)
        round_row(*kernels_of(instructions), columns, from, wide, [&](int, float scale, const uint8_t *numbers) {
            *scales++ = scale;
            for (int k = 0; k < columns; k += 2) *to++ = static_cast<uint8_t>(numbers[k] | numbers[k + 1] << 4);
        });
}

// Makes `count` empty branches that go on from the first `shared` positions. 0 where there is no memory.
int codegen_branch(Model *model, int count, int shared) {
    try {
        model->caches.resize(1);
        for (int i = 0; i < count; i++) model->caches.push_back(model->cache());
        model->shared = shared;
        return 1;
    } catch (const std::exception &) {
        return 0;
    }
}

// Runs `count` tokens: `rows` has the tokens, then for each the number of its cache, then its position in it. Cache 0 is the main one,
// i + 1 branch i, which goes on from the positions that are shared. All are of the main one, and then in order, or each is of
// another branch. `want` 0: logits (V) of the last; 1: logits (count, V); 2: hidden states (count, C). 0: no memory.
int codegen_run(Model *model, int count, const int32_t *rows, int want, float *result) {
    try {
        run(*model, count, rows, rows + count, rows + 2 * count, want, result);
        return 1;
    } catch (const std::exception &) {
        return 0;
    }
}
}
