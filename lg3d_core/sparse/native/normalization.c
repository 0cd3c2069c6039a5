/* Batch normalisation of rows of bfloat16, computed in float32 and rounded once.

   output = relu((x - mean) / sqrt(variance + eps) * weight + bias + residual)

   x: (rows, channels), contiguous, as are residual, output and all gradients. One call computes one piece of rows; the
   pieces and their order are those of `lg3d_core.sparse.normalization`, which is also the reference.

   Plain C, so that it compiles for any processor; loops over channels become vectors. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE float widen(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* To the nearest, ties to even; NaN stays NaN. */
INLINE uint16_t round_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(value != value ? 0x7fc0 : rounded);
}

/* Mean and biased variance per channel, of at least one row. */
void lg3d_measure_rows(const uint16_t *x, int64_t rows, int64_t channels, float *restrict mean,
                       float *restrict variance) {
    for (int64_t c = 0; c < channels; c++) mean[c] = variance[c] = 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++) mean[c] += widen(x[row * channels + c]);
    for (int64_t c = 0; c < channels; c++) mean[c] /= (float)rows;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++) {
            const float difference = widen(x[row * channels + c]) - mean[c];
            variance[c] += difference * difference;
        }
    for (int64_t c = 0; c < channels; c++) variance[c] /= (float)rows;
}

INLINE void normalize(const uint16_t *x, const uint16_t *residual, uint16_t *restrict output, int64_t rows,
                      int64_t channels, const float *scale, const float *shift, const int has_residual, const int relu) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++) {
            const int64_t at = row * channels + c;
            float value = widen(x[at]) * scale[c] + shift[c];
            if (has_residual) value += widen(residual[at]);
            if (relu) value = value < 0 ? 0 : value; /* NaN stays NaN */
            output[at] = round_to_bf16(value);
        }
}

/* output = relu(x * scale + shift + residual); the residual may be null. */
void lg3d_normalize_rows(const uint16_t *x, const uint16_t *residual, uint16_t *output, int64_t rows, int64_t channels,
                         const float *scale, const float *shift, int64_t relu) {
    if (residual && relu) normalize(x, residual, output, rows, channels, scale, shift, 1, 1);
    else if (residual) normalize(x, residual, output, rows, channels, scale, shift, 1, 0);
    else if (relu) normalize(x, residual, output, rows, channels, scale, shift, 0, 1);
    else normalize(x, residual, output, rows, channels, scale, shift, 0, 0);
}

/* Nothing flows where the ReLU clipped; NaN is not clipped. */
INLINE float clip(uint16_t gradient, const uint16_t *output, int64_t at, const int clips) {
    return clips && widen(output[at]) <= 0 ? 0 : widen(gradient);
}

INLINE void sum_gradients(const uint16_t *gradient, const uint16_t *output, const uint16_t *x,
                          uint16_t *restrict clipped, int64_t rows, int64_t channels, const float *mean,
                          float *restrict plain, float *restrict by_features, const int clips, const int keeps) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++) {
            const int64_t at = row * channels + c;
            const float value = clip(gradient[at], output, at, clips);
            plain[c] += value;
            by_features[c] += value * (widen(x[at]) - mean[c]);
            if (keeps) clipped[at] = round_to_bf16(value);
        }
}

/* Sums over rows of the gradient, and of the gradient times the normalised features. A null `output` had no ReLU;
   where `clipped` is not null, it takes the gradient of the residual. */
void lg3d_sum_gradients(const uint16_t *gradient, const uint16_t *output, const uint16_t *x, uint16_t *clipped,
                        int64_t rows, int64_t channels, const float *mean, const float *inverse_deviation,
                        float *restrict plain, float *restrict by_features) {
    for (int64_t c = 0; c < channels; c++) plain[c] = by_features[c] = 0;
    if (output && clipped) sum_gradients(gradient, output, x, clipped, rows, channels, mean, plain, by_features, 1, 1);
    else if (output) sum_gradients(gradient, output, x, clipped, rows, channels, mean, plain, by_features, 1, 0);
    else sum_gradients(gradient, output, x, clipped, rows, channels, mean, plain, by_features, 0, 0);
    for (int64_t c = 0; c < channels; c++) by_features[c] *= inverse_deviation[c];
}

INLINE void combine(const uint16_t *gradient, const uint16_t *output, const uint16_t *x, uint16_t *restrict result,
                    int64_t rows, int64_t channels, const float *slope, const float *by_features, const float *constant,
                    const int clips) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++) {
            const int64_t at = row * channels + c;
            const float value = clip(gradient[at], output, at, clips);
            result[at] = round_to_bf16(widen(x[at]) * by_features[c] + constant[c] + value * slope[c]);
        }
}

/* result = clipped gradient * slope + x * by_features + constant. */
void lg3d_combine_rows(const uint16_t *gradient, const uint16_t *output, const uint16_t *x, uint16_t *result,
                       int64_t rows, int64_t channels, const float *slope, const float *by_features,
                       const float *constant) {
    if (output) combine(gradient, output, x, result, rows, channels, slope, by_features, constant, 1);
    else combine(gradient, output, x, result, rows, channels, slope, by_features, constant, 0);
}
