/* Sparse convolution on CPU: gathers, products and sums in one pass over the pairs of voxels.

   A pair joins an input row with an output row under a kernel offset. Pairs are sorted by chunk of outputs, then by
   offset, then by output. For each (chunk, panel of output channels, offset) the panel of weights is packed once, then
   groups of pairs are multiplied: the accumulators of a group stay in registers for the whole depth, inputs are read in
   place and sums are written in place, so that there are no separate gather and scatter steps.

   Every output is summed in one order (offset by offset, channel by channel), independent of chunks and threads.

   Vectors are the extension of GCC and Clang, so that the file compiles for any processor; bfloat16 needs AVX512-BF16. */

#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define MAX_VECTORS 4 /* vectors of a panel: with the rows of a group they fill the registers */
#elif defined(__AVX__)
#define LANES 8
#define MAX_VECTORS 2
#else
#define LANES 4
#define MAX_VECTORS 4
#endif

#define MAX_WIDTH (MAX_VECTORS * LANES)
#define MAX_ROWS 8
#define DEPTH 128       /* channels of a packed panel: 32 KiB of weights at most */
#define DEPTH_BF16 192  /* likewise, 24 KiB */
#define PAIRS 128       /* pairs per step of a weight gradient */
#define PAIRS_BF16 256  /* likewise; at most 2 * PAIRS, for which `scratch` is large enough */
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(LANES * 4)));
typedef float loose_vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vector load(const float *from) { return *(const loose_vector *)from; }
INLINE void store(float *to, vector value) { *(loose_vector *)to = value; }

struct convolution {
    const void *input;      /* (inputs, depth) */
    const void *weight;     /* (offsets, depth, width), or (offsets, width, depth) when transposed */
    void *output;           /* (outputs, width), width a multiple of LANES */
    const int32_t *source;  /* input row of each pair */
    const int32_t *target;  /* output row of each pair */
    const int64_t *bounds;  /* (chunks * offsets + 1): where the pairs of a chunk's offset begin */
    const int64_t *rows;    /* (chunks + 1): where the output rows of a chunk begin */
    const float *scale;     /* optional, as are shift and residual: output = relu(output * scale + shift + residual) */
    const float *shift;
    const void *residual;
    int64_t relu;
    int64_t offsets, depth, width;
    int64_t transposed;
    int64_t mirrored;       /* offset k of the map takes the weights of offset offsets - 1 - k */
    int64_t weight_is_f32;  /* bfloat16 rows may come with weights in float32, which are rounded as they are packed */
};

int64_t lg3d_lanes(void) { return LANES; }

int64_t lg3d_num_panels(int64_t width) { return (width + MAX_WIDTH - 1) / MAX_WIDTH; }

/* The vectors of a row are shared out evenly among its panels. */
INLINE int64_t panel_begin(int64_t width, int64_t panel) {
    return width / LANES * panel / lg3d_num_panels(width) * LANES;
}

/* Depth is cut into blocks of even length. */
INLINE int64_t block_begin(int64_t depth, int64_t most, int64_t block) {
    const int64_t blocks = (depth + most - 1) / most;
    return depth / 2 * block / blocks * 2 + (block == blocks) * (depth % 2);
}

/* ---- plans ------------------------------------------------------------------------------------------------------ */

void lg3d_count_pairs(const int32_t *neighbours, int64_t outputs, int64_t offsets, int64_t first, int64_t last,
                      int64_t *counts) {
    for (int64_t offset = 0; offset < offsets; offset++) {
        const int32_t *row = neighbours + offset * outputs;
        int64_t count = 0;
        for (int64_t output = first; output < last; output++) count += row[output] >= 0;
        counts[offset] = count;
    }
}

void lg3d_list_pairs(const int32_t *neighbours, int64_t outputs, int64_t offsets, int64_t first, int64_t last,
                     const int64_t *bounds, int32_t *source, int32_t *target) {
    for (int64_t offset = 0; offset < offsets; offset++) {
        const int32_t *row = neighbours + offset * outputs;
        int64_t pair = bounds[offset];
        for (int64_t output = first; output < last; output++) {
            if (row[output] < 0) continue;
            source[pair] = row[output];
            target[pair] = (int32_t)output;
            pair++;
        }
    }
}

/* ---- float32 ---------------------------------------------------------------------------------------------------- */

/* target rows += source rows @ panel, for `num_rows` pairs and `vectors` vectors of columns, both constants. */
INLINE void multiply_group(const float *const *source, float *const *target, const float *panel, int64_t depth,
                           const int num_rows, const int vectors) {
    vector sums[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[row][v] = load(target[row] + v * LANES);
    for (int64_t k = 0; k < depth; k++) {
        vector weights[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) weights[v] = load(panel + (k * vectors + v) * LANES);
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            const float value = source[row][k];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[row][v] += value * weights[v];
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(target[row] + v * LANES, sums[row][v]);
}

INLINE void multiply_pairs(const float *input, int64_t stride, float *output, int64_t width, const int32_t *source,
                           const int32_t *target, int64_t pairs, const float *panel, int64_t depth, const int num_rows,
                           const int vectors) {
    const float *from[MAX_ROWS];
    float *to[MAX_ROWS];
    int64_t pair = 0;
    for (; pair + num_rows <= pairs; pair += num_rows) {
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            from[row] = input + source[pair + row] * stride;
            to[row] = output + target[pair + row] * width;
        }
        if (pair + 2 * num_rows <= pairs)
            for (int row = 0; row < num_rows; row++) {
                const float *next = input + source[pair + num_rows + row] * stride;
                for (int64_t k = 0; k < depth; k += 16) __builtin_prefetch(next + k);
            }
        multiply_group(from, to, panel, depth, num_rows, vectors);
    }
    for (; pair < pairs; pair++) {
        from[0] = input + source[pair] * stride;
        to[0] = output + target[pair] * width;
        multiply_group(from, to, panel, depth, 1, vectors);
    }
}

INLINE vector finish(vector value, const struct convolution *c, int64_t column, vector residual) {
    if (c->scale) value *= load(c->scale + column);
    if (c->shift) value += load(c->shift + column);
    value += residual;
    if (c->relu) value = (vector)(~(value < 0) & (__typeof__(value < 0))value); /* NaN stays NaN */
    return value;
}

/* Transpose LANES rows of LANES values of 32 bits. */
#if defined(__AVX512F__)
INLINE void transpose(__m512i *rows) {
    __m512i other[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        other[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        other[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(other[i + j], other[i + j + 2]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(other[i + j], other[i + j + 2]);
        }
    /* Row 4 a + b now holds, for each quarter q, column 4 q + b of rows 4 a to 4 a + 3. */
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++) {
        const __m512i low_even = _mm512_shuffle_i32x4(rows[b], rows[4 + b], 0x88);
        const __m512i high_even = _mm512_shuffle_i32x4(rows[8 + b], rows[12 + b], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(rows[b], rows[4 + b], 0xdd);
        const __m512i high_odd = _mm512_shuffle_i32x4(rows[8 + b], rows[12 + b], 0xdd);
        other[b] = _mm512_shuffle_i32x4(low_even, high_even, 0x88);
        other[8 + b] = _mm512_shuffle_i32x4(low_even, high_even, 0xdd);
        other[4 + b] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
        other[12 + b] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) rows[i] = other[i];
}
#endif

static void pack_panel(float *panel, const float *weight, const struct convolution *c, int64_t k0, int64_t depth,
                       int64_t column, int64_t width) {
    if (!c->transposed) {
        for (int64_t k = 0; k < depth; k++)
            memcpy(panel + k * width, weight + (k0 + k) * c->width + column, (size_t)width * sizeof(float));
        return;
    }
    for (int64_t n = 0; n < width; n += LANES) {
        const float *rows = weight + (column + n) * c->depth + k0;
        int64_t k = 0;
#if defined(__AVX512F__)
        for (; k + LANES <= depth; k += LANES) {
            __m512i block[LANES];
#pragma GCC unroll 16
            for (int row = 0; row < LANES; row++) block[row] = _mm512_loadu_si512(rows + row * c->depth + k);
            transpose(block);
#pragma GCC unroll 16
            for (int row = 0; row < LANES; row++) _mm512_storeu_si512(panel + (k + row) * width + n, block[row]);
        }
#endif
        for (; k < depth; k++)
            for (int64_t row = 0; row < LANES; row++) panel[k * width + n + row] = rows[row * c->depth + k];
    }
}

void lg3d_convolve_f32(const struct convolution *c, int64_t chunk, int64_t first_panel, int64_t last_panel) {
    float panel[DEPTH * MAX_WIDTH] __attribute__((aligned(64)));
    for (int64_t p = first_panel; p < last_panel; p++) {
        const int64_t column = panel_begin(c->width, p), width = panel_begin(c->width, p + 1) - column;
        float *output = (float *)c->output + column;
        for (int64_t row = c->rows[chunk]; row < c->rows[chunk + 1]; row++)
            memset(output + row * c->width, 0, (size_t)width * sizeof(float));
        for (int64_t offset = 0; offset < c->offsets; offset++) {
            const int64_t begin = c->bounds[chunk * c->offsets + offset];
            const int64_t pairs = c->bounds[chunk * c->offsets + offset + 1] - begin;
            if (!pairs) continue;
            const int64_t kernel = c->mirrored ? c->offsets - 1 - offset : offset;
            const float *weight = (const float *)c->weight + kernel * c->depth * c->width;
            const int32_t *source = c->source + begin, *target = c->target + begin;
            for (int64_t block = 0; block * DEPTH < c->depth; block++) {
                const int64_t k0 = block_begin(c->depth, DEPTH, block);
                const int64_t depth = block_begin(c->depth, DEPTH, block + 1) - k0;
                const float *input = (const float *)c->input + k0;
                pack_panel(panel, weight, c, k0, depth, column, width);
                switch (width / LANES) {
#if MAX_VECTORS == 4
                case 4:
                    multiply_pairs(input, c->depth, output, c->width, source, target, pairs, panel, depth, 6, 4);
                    break;
                case 3:
                    multiply_pairs(input, c->depth, output, c->width, source, target, pairs, panel, depth, 8, 3);
                    break;
                case 2:
                    multiply_pairs(input, c->depth, output, c->width, source, target, pairs, panel, depth, 8, 2);
                    break;
#else
                case 2:
                    multiply_pairs(input, c->depth, output, c->width, source, target, pairs, panel, depth, 6, 2);
                    break;
#endif
                default:
                    multiply_pairs(input, c->depth, output, c->width, source, target, pairs, panel, depth, 8, 1);
                }
            }
        }
        if (c->scale || c->shift || c->residual || c->relu)
            for (int64_t row = c->rows[chunk]; row < c->rows[chunk + 1]; row++) {
                float *values = output + row * c->width;
                const float *residual = c->residual ? (const float *)c->residual + row * c->width + column : NULL;
                for (int64_t v = 0; v < width; v += LANES)
                    store(values + v, finish(load(values + v), c, column + v, residual ? load(residual + v) : (vector){0}));
            }
    }
}

/* ---- bfloat16: products of pairs of channels, summed in float32 --------------------------------------------------- */

#if defined(__AVX512BF16__)

int64_t lg3d_has_bf16(void) { return 1; }

INLINE __m256i round_to_bf16(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }
INLINE __m512 widen(const uint16_t *from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

INLINE void multiply_group_bf16(const uint16_t *const *source, float *const *target, const uint16_t *panel,
                                int64_t depth, const int num_rows, const int vectors) {
    __m512 sums[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[row][v] = _mm512_loadu_ps(target[row] + v * LANES);
    for (int64_t k = 0; k < depth; k += 2) {
        __m512bh weights[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) weights[v] = (__m512bh)_mm512_loadu_si512(panel + (k * vectors + 2 * v) * LANES);
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            int32_t two;
            memcpy(&two, source[row] + k, sizeof two);
            const __m512bh values = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[row][v] = _mm512_dpbf16_ps(sums[row][v], values, weights[v]);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(target[row] + v * LANES, sums[row][v]);
}

INLINE void multiply_pairs_bf16(const uint16_t *input, int64_t stride, float *sums, int64_t first, const int32_t *source,
                                const int32_t *target, int64_t pairs, const uint16_t *panel, int64_t depth,
                                const int num_rows, const int vectors) {
    const uint16_t *from[MAX_ROWS];
    float *to[MAX_ROWS];
    int64_t pair = 0;
    for (; pair + num_rows <= pairs; pair += num_rows) {
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            from[row] = input + source[pair + row] * stride;
            to[row] = sums + (target[pair + row] - first) * vectors * LANES;
        }
        if (pair + 2 * num_rows <= pairs)
            for (int row = 0; row < num_rows; row++) {
                const uint16_t *next = input + source[pair + num_rows + row] * stride;
                for (int64_t k = 0; k < depth; k += 32) __builtin_prefetch(next + k);
            }
        multiply_group_bf16(from, to, panel, depth, num_rows, vectors);
    }
    for (; pair < pairs; pair++) {
        from[0] = input + source[pair] * stride;
        to[0] = sums + (target[pair] - first) * vectors * LANES;
        multiply_group_bf16(from, to, panel, depth, 1, vectors);
    }
}

/* 32 values of bfloat16, from either dtype of weights. */
INLINE __m512i load_rounded(const void *weight, int64_t at, int64_t is_f32) {
    if (!is_f32) return _mm512_loadu_si512((const uint16_t *)weight + at);
    const float *from = (const float *)weight + at;
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
}

/* Columns of two channels each, interleaved as the products need them. */
static void pack_panel_bf16(uint16_t *panel, const void *weight, const struct convolution *c, int64_t k0, int64_t depth,
                            int64_t column, int64_t width) {
    if (c->transposed) {
        for (int64_t n = 0; n < width; n += LANES) {
            const int64_t first = (column + n) * c->depth + k0;
            int64_t k = 0;
            for (; k + 2 * LANES <= depth; k += 2 * LANES) {
                __m512i block[LANES];
#pragma GCC unroll 16
                for (int row = 0; row < LANES; row++)
                    block[row] = load_rounded(weight, first + row * c->depth + k, c->weight_is_f32);
                transpose(block);
#pragma GCC unroll 16
                for (int row = 0; row < LANES; row++)
                    _mm512_storeu_si512(panel + (k / 2 + row) * 2 * width + 2 * n, block[row]);
            }
            for (; k < depth; k++)
                for (int64_t row = 0; row < LANES; row++) {
                    const int64_t at = first + row * c->depth + k;
                    uint16_t *to = panel + k / 2 * 2 * width + 2 * (n + row) + k % 2;
                    if (c->weight_is_f32)
                        *to = (uint16_t)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_load_ss((const float *)weight + at)), 0);
                    else
                        *to = ((const uint16_t *)weight)[at];
                }
        }
        return;
    }
    for (int64_t k = 0; k < depth; k += 2)
        for (int64_t n = 0; n < width; n += LANES) {
            const int64_t at = (k0 + k) * c->width + column + n;
            __m256i even, odd;
            if (c->weight_is_f32) {
                even = round_to_bf16(_mm512_loadu_ps((const float *)weight + at));
                odd = round_to_bf16(_mm512_loadu_ps((const float *)weight + at + c->width));
            } else {
                even = _mm256_loadu_si256((const __m256i *)((const uint16_t *)weight + at));
                odd = _mm256_loadu_si256((const __m256i *)((const uint16_t *)weight + at + c->width));
            }
            _mm512_storeu_si512(panel + k * width + 2 * n,
                                _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
        }
}

/* As lg3d_convolve_f32, with rows of bfloat16, an even depth; `sums` holds rows of the chunk * MAX_WIDTH floats. */
void lg3d_convolve_bf16(const struct convolution *c, int64_t chunk, int64_t first_panel, int64_t last_panel,
                        float *sums) {
    uint16_t panel[DEPTH_BF16 * MAX_WIDTH] __attribute__((aligned(64)));
    const int64_t first = c->rows[chunk], last = c->rows[chunk + 1];
    const int64_t size = c->weight_is_f32 ? sizeof(float) : sizeof(uint16_t);
    for (int64_t p = first_panel; p < last_panel; p++) {
        const int64_t column = panel_begin(c->width, p), width = panel_begin(c->width, p + 1) - column;
        memset(sums, 0, (size_t)((last - first) * width) * sizeof(float));
        for (int64_t offset = 0; offset < c->offsets; offset++) {
            const int64_t begin = c->bounds[chunk * c->offsets + offset];
            const int64_t pairs = c->bounds[chunk * c->offsets + offset + 1] - begin;
            if (!pairs) continue;
            const int64_t kernel = c->mirrored ? c->offsets - 1 - offset : offset;
            const char *weight = (const char *)c->weight + kernel * c->depth * c->width * size;
            const int32_t *source = c->source + begin, *target = c->target + begin;
            for (int64_t block = 0; block * DEPTH_BF16 < c->depth; block++) {
                const int64_t k0 = block_begin(c->depth, DEPTH_BF16, block);
                const int64_t depth = block_begin(c->depth, DEPTH_BF16, block + 1) - k0;
                const uint16_t *input = (const uint16_t *)c->input + k0;
                pack_panel_bf16(panel, weight, c, k0, depth, column, width);
                switch (width / LANES) {
                case 4: multiply_pairs_bf16(input, c->depth, sums, first, source, target, pairs, panel, depth, 6, 4); break;
                case 3: multiply_pairs_bf16(input, c->depth, sums, first, source, target, pairs, panel, depth, 8, 3); break;
                case 2: multiply_pairs_bf16(input, c->depth, sums, first, source, target, pairs, panel, depth, 8, 2); break;
                default: multiply_pairs_bf16(input, c->depth, sums, first, source, target, pairs, panel, depth, 8, 1);
                }
            }
        }
        for (int64_t row = first; row < last; row++)
            for (int64_t v = 0; v < width; v += LANES) {
                const int64_t at = row * c->width + column + v;
                const __m512 residual = c->residual ? widen((const uint16_t *)c->residual + at) : _mm512_setzero_ps();
                const vector value = finish(load(sums + (row - first) * width + v), c, column + v, (vector)residual);
                _mm256_storeu_si256((__m256i *)((uint16_t *)c->output + at), round_to_bf16((__m512)value));
            }
    }
}

#else

int64_t lg3d_has_bf16(void) { return 0; }

#endif

/* ---- gradient of the weights, summed in float32 ---------------------------------------------------------------------------- */

struct weight_gradient {
    const void *input;     /* (inputs, depth) */
    const void *gradient;  /* (outputs, width), width a multiple of LANES */
    const int32_t *source, *target;
    const int64_t *bounds; /* (chunks * offsets + 1) */
    int64_t offsets, depth, width;
    int64_t is_bf16;       /* input and gradient are bfloat16 */
};

/* output rows += inputs^T @ gradients over packed pairs: `num_rows` channels of the input, `vectors` of the output. */
INLINE void multiply_outer(float *output, int64_t width, const float *input, int64_t stride, const float *gradient,
                           int64_t pairs, const int num_rows, const int vectors) {
    vector sums[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[row][v] = load(output + row * width + v * LANES);
    for (int64_t pair = 0; pair < pairs; pair++) {
        vector gradients[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) gradients[v] = load(gradient + (pair * vectors + v) * LANES);
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            const float value = input[pair * stride + row];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[row][v] += value * gradients[v];
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(output + row * width + v * LANES, sums[row][v]);
}

INLINE void multiply_transposed(float *output, int64_t width, const float *input, int64_t stride, int64_t depth,
                                const float *gradient, int64_t pairs, const int num_rows, const int vectors) {
    int64_t row = 0;
    for (; row + num_rows <= depth; row += num_rows)
        multiply_outer(output + row * width, width, input + row, stride, gradient, pairs, num_rows, vectors);
    for (; row + 2 <= depth; row += 2)
        multiply_outer(output + row * width, width, input + row, stride, gradient, pairs, 2, vectors);
    if (row < depth) multiply_outer(output + row * width, width, input + row, stride, gradient, pairs, 1, vectors);
}

INLINE void gather_row(float *to, const void *from, int64_t at, int64_t count, int64_t is_bf16) {
    if (!is_bf16) {
        memcpy(to, (const float *)from + at, (size_t)count * sizeof(float));
        return;
    }
    for (int64_t k = 0; k < count; k++) {
        const uint32_t bits = (uint32_t)((const uint16_t *)from)[at + k] << 16;
        memcpy(to + k, &bits, sizeof bits);
    }
}

static void add_weight_gradient(const struct weight_gradient *c, float *output, int64_t chunk, int64_t offset,
                                float *inputs, float *gradients) {
    const int64_t stride = c->depth + LANES, end = c->bounds[chunk * c->offsets + offset + 1];
    for (int64_t begin = c->bounds[chunk * c->offsets + offset]; begin < end; begin += PAIRS) {
        const int64_t pairs = end - begin < PAIRS ? end - begin : PAIRS;
        for (int64_t pair = 0; pair < pairs; pair++)
            gather_row(inputs + pair * stride, c->input, c->source[begin + pair] * c->depth, c->depth, c->is_bf16);
        for (int64_t p = 0; p < lg3d_num_panels(c->width); p++) {
            const int64_t column = panel_begin(c->width, p), width = panel_begin(c->width, p + 1) - column;
            for (int64_t pair = 0; pair < pairs; pair++)
                gather_row(gradients + pair * width, c->gradient, c->target[begin + pair] * c->width + column, width,
                           c->is_bf16);
            float *to = output + column;
            switch (width / LANES) {
#if MAX_VECTORS == 4
            case 4: multiply_transposed(to, c->width, inputs, stride, c->depth, gradients, pairs, 6, 4); break;
            case 3: multiply_transposed(to, c->width, inputs, stride, c->depth, gradients, pairs, 8, 3); break;
            case 2: multiply_transposed(to, c->width, inputs, stride, c->depth, gradients, pairs, 8, 2); break;
#else
            case 2: multiply_transposed(to, c->width, inputs, stride, c->depth, gradients, pairs, 6, 2); break;
#endif
            default: multiply_transposed(to, c->width, inputs, stride, c->depth, gradients, pairs, 8, 1);
            }
        }
    }
}

#if defined(__AVX512BF16__)

/* Rows of bfloat16 are multiplied two pairs at a time: pairs 2 s and 2 s + 1 make step s. Packed inputs are
   (blocks of OUTER_ROWS channels, steps, OUTER_ROWS), packed gradients (panels, steps, columns), each value being two
   of bfloat16, of the two pairs of a step. */
#define OUTER_ROWS 8
#define OUTER_VECTORS 3

INLINE __m512i interleave(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

INLINE int64_t num_outer_panels(int64_t width) { return (width / LANES + OUTER_VECTORS - 1) / OUTER_VECTORS; }
INLINE int64_t outer_panel_begin(int64_t width, int64_t panel) {
    return width / LANES * panel / num_outer_panels(width) * LANES;
}

INLINE void multiply_outer_bf16(float *output, int64_t width, const uint32_t *input, const uint32_t *gradient,
                                int64_t steps, int64_t num_rows, const int vectors) {
    __m512 sums[OUTER_ROWS][OUTER_VECTORS];
#pragma GCC unroll 8
    for (int row = 0; row < OUTER_ROWS; row++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sums[row][v] = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; step++) {
        __m512bh gradients[OUTER_VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            gradients[v] = (__m512bh)_mm512_loadu_si512(gradient + (step * vectors + v) * LANES);
#pragma GCC unroll 8
        for (int row = 0; row < OUTER_ROWS; row++) {
            const __m512bh values = (__m512bh)_mm512_set1_epi32((int32_t)input[step * OUTER_ROWS + row]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sums[row][v] = _mm512_dpbf16_ps(sums[row][v], values, gradients[v]);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < OUTER_ROWS; row++)
        if (row < num_rows)
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) {
                float *to = output + row * width + v * LANES;
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums[row][v]));
            }
}

/* Columns [0, width) of the rows of a run of pairs, interleaved: blocks of `block` columns are written `far` values
   apart. */
INLINE void pack_rows_bf16(uint32_t *to, const uint16_t *from, int64_t stride, const int32_t *rows, int64_t pairs,
                           int64_t width, int64_t block, int64_t far) {
    for (int64_t pair = 0; pair < pairs; pair += 2) {
        const uint16_t *even = from + rows[pair] * stride;
        const uint16_t *odd = pair + 1 < pairs ? from + rows[pair + 1] * stride : NULL;
        uint32_t *target = to + pair / 2 * block;
        for (int64_t k = 0; k < width; k += LANES) {
            const __mmask16 mask = width - k < LANES ? (__mmask16)((1 << (width - k)) - 1) : (__mmask16)0xffff;
            const __m512i values = interleave(_mm256_maskz_loadu_epi16(mask, even + k),
                                              odd ? _mm256_maskz_loadu_epi16(mask, odd + k) : _mm256_setzero_si256());
            if (block == OUTER_ROWS) {
                _mm256_storeu_si256((__m256i *)(target + k / OUTER_ROWS * far), _mm512_castsi512_si256(values));
                _mm256_storeu_si256((__m256i *)(target + (k / OUTER_ROWS + 1) * far), _mm512_extracti64x4_epi64(values, 1));
            } else
                _mm512_storeu_si512(target + k, values);
        }
    }
}

static void add_weight_gradient_bf16(const struct weight_gradient *c, float *output, int64_t chunk, int64_t offset,
                                     uint32_t *inputs) {
    const int64_t end = c->bounds[chunk * c->offsets + offset + 1];
    const int64_t row_blocks = (c->depth + LANES - 1) / LANES * (LANES / OUTER_ROWS);
    uint32_t *gradients = inputs + PAIRS_BF16 / 2 * row_blocks * OUTER_ROWS;
    for (int64_t begin = c->bounds[chunk * c->offsets + offset]; begin < end; begin += PAIRS_BF16) {
        const int64_t pairs = end - begin < PAIRS_BF16 ? end - begin : PAIRS_BF16, steps = (pairs + 1) / 2;
        pack_rows_bf16(inputs, c->input, c->depth, c->source + begin, pairs, c->depth, OUTER_ROWS, steps * OUTER_ROWS);
        for (int64_t p = 0; p < num_outer_panels(c->width); p++) {
            const int64_t column = outer_panel_begin(c->width, p), width = outer_panel_begin(c->width, p + 1) - column;
            pack_rows_bf16(gradients, (const uint16_t *)c->gradient + column, c->width, c->target + begin, pairs, width,
                           width, 0);
            for (int64_t row = 0; row < c->depth; row += OUTER_ROWS) {
                float *to = output + row * c->width + column;
                const uint32_t *input = inputs + row * steps;
                switch (width / LANES) {
                case 3: multiply_outer_bf16(to, c->width, input, gradients, steps, c->depth - row, 3); break;
                case 2: multiply_outer_bf16(to, c->width, input, gradients, steps, c->depth - row, 2); break;
                default: multiply_outer_bf16(to, c->width, input, gradients, steps, c->depth - row, 1);
                }
            }
        }
    }
}

#endif

/* Writes the gradient of a run of offsets over the pairs of a run of chunks.
   `scratch` holds lg3d_gradient_scratch(...) floats. */
int64_t lg3d_gradient_scratch(int64_t depth, int64_t width) { return PAIRS * (depth + LANES + width); }

void lg3d_weight_gradient(const struct weight_gradient *c, float *output, int64_t first_offset, int64_t last_offset,
                          int64_t first_chunk, int64_t last_chunk, float *scratch) {
    const int64_t stride = c->depth + LANES; /* odd in cache lines: rows do not fall on each other's sets */
    memset(output + first_offset * c->depth * c->width, 0,
           (size_t)((last_offset - first_offset) * c->depth * c->width) * sizeof(float));
    for (int64_t chunk = first_chunk; chunk < last_chunk; chunk++)
        for (int64_t offset = first_offset; offset < last_offset; offset++) {
            float *to = output + offset * c->depth * c->width;
#if defined(__AVX512BF16__)
            if (c->is_bf16) {
                add_weight_gradient_bf16(c, to, chunk, offset, (uint32_t *)scratch);
                continue;
            }
#endif
            add_weight_gradient(c, to, chunk, offset, scratch, scratch + PAIRS * stride);
        }
}
