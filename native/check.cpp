// Runs the step under sanitizers (`make sanitize`): random shapes, every dtype and instruction set, one token and many, branches,
// threads. The figures are tests/lm/test_native.py's matter; here each result must only be finite, and the same in any company.

#include "step.cpp"

#include <cstdio>
#include <random>

namespace {

std::mt19937 random_bits(1);

int one_of(std::initializer_list<int> choices) { return choices.begin()[random_bits() % choices.size()]; }

std::vector<float> normal(size_t count, float mean, float spread) {
    std::normal_distribution<float> draw(mean, spread);
    std::vector<float> numbers(count);
    for (float &number : numbers) number = draw(random_bits);
    return numbers;
}

void fill(Model *model) {
    const Shape &shape = model->shape;
    const auto set = [&](int layer, int part, int rows, int columns, float mean) {
        const std::vector<float> numbers = normal(static_cast<size_t>(rows) * columns, mean, 0.3f);
        const int half = rows / 2 / ROWS * ROWS;  // in two pieces
        if (half) codegen_set(model, layer, part, 0, half, numbers.data(), nullptr);
        const float *rest = numbers.data() + static_cast<size_t>(half) * columns;
        if (model->format != INT4 || part == EMBEDDING) {
            codegen_set(model, layer, part, half, rows - half, rest, nullptr);
            return;
        }
        const int groups = (columns + model->group - 1) / model->group;  // as files have it
        std::vector<uint8_t> bytes(static_cast<size_t>(rows - half) * groups * model->group / 2);
        std::vector<float> scales(static_cast<size_t>(rows - half) * groups);
        codegen_round_int4(rest, rows - half, columns, model->group, 0, bytes.data(), scales.data());
        codegen_set(model, layer, part, half, rows - half, bytes.data(), scales.data());
    };
    const auto vector = [&](int layer, int part, int size, float mean) {
        const std::vector<float> numbers = normal(size, mean, 0.3f);
        codegen_set(model, layer, part, 0, size / 2, numbers.data(), nullptr);
        codegen_set(model, layer, part, size / 2, size - size / 2, numbers.data() + size / 2, nullptr);
    };
    for (int l = 0; l < shape.layers; l++) {
        set(l, QKV, 3 * shape.width, shape.width, 0);
        set(l, OUT, shape.width, shape.width, 0);
        set(l, FC_IN, shape.inner, shape.width, 0);
        set(l, FC_OUT, shape.width, shape.inner, 0);
        vector(l, LN_WEIGHT, shape.width, 1);
        vector(l, LN_BIAS, shape.width, 0);
        vector(l, IN_BIAS, shape.inner, 0);
        vector(l, OUT_BIAS, shape.width, 0);
    }
    set(-1, EMBEDDING, shape.vocabulary, shape.width, 0);
    set(-1, HEAD, shape.vocabulary, shape.width, 0);
    vector(-1, HEAD_BIAS, shape.vocabulary, 0);
    vector(-1, LN_WEIGHT, shape.width, 1);
    vector(-1, LN_BIAS, shape.width, 0);
    vector(-1, SINES, shape.positions * shape.rotary / 2, 0);
    vector(-1, COSINES, shape.positions * shape.rotary / 2, 1);
}

void require(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "native/check: %s\n", what);
    std::exit(1);
}

void check(int format, int instructions, int threads) {
    Shape shape;
    shape.heads = one_of({4, 8});
    const int size = one_of({4, 12, 20, 40});
    shape.width = shape.heads * size;
    shape.rotary = one_of({2, 4});
    shape.layers = one_of({1, 3});
    shape.inner = one_of({shape.width * 4, 41, 600});
    shape.vocabulary = one_of({33, 64, 101});
    shape.positions = 90;
    shape.epsilon = 1e-5f;
    Model *model = codegen_new(&shape, format, one_of({32, 64}), instructions, threads);
    require(model != nullptr, "no memory");
    fill(model);

    const int count = 75, shared = 1 + random_bits() % 60;
    std::vector<int32_t> rows(3 * count);  // tokens, caches, positions
    for (int i = 0; i < count; i++) rows[i] = random_bits() % shape.vocabulary, rows[2 * count + i] = i;
    const size_t wide = shape.vocabulary;
    std::vector<float> all(count * wide), one(wide), hidden(static_cast<size_t>(count) * shape.width), branched(3 * wide);
    require(codegen_run(model, count, rows.data(), 1, all.data()), "no memory");
    for (const float number : all) require(std::isfinite(number), "a logit is not finite");
    require(codegen_run(model, count, rows.data(), 2, hidden.data()), "no memory");
    for (int i = 0; i < count; i++) {
        const int32_t row[] = {rows[i], 0, i};
        require(codegen_run(model, 1, row, 0, one.data()), "no memory");
        require(std::equal(one.begin(), one.end(), &all[i * wide]), "a token alone differs");
    }
    require(codegen_branch(model, 3, shared), "no memory");
    for (int i = shared; i < count; i++) {
        const int32_t three[] = {rows[i], rows[i], rows[i], 3, 1, 2, i, i, i};
        require(codegen_run(model, 3, three, 1, branched.data()), "no memory");
        for (int b = 0; b < 3; b++) require(std::equal(&all[i * wide], &all[i * wide] + wide, &branched[b * wide]), "a branch differs");
    }
    codegen_free(model);
}

}  // namespace

int main() {
    int runs = 0;
    for (int round = 0; round < 2; round++)
        for (int format = FP32; format <= INT4; format++)
            for (int instructions = 0; instructions < 3; instructions++)
                for (int threads = 1; threads <= 3; threads += 2)
                    if (codegen_runs(instructions)) check(format, instructions, threads), runs++;
    std::printf("native/check: %d models, all the same in any company\n", runs);
}
