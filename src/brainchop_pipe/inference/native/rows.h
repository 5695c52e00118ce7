/* Rows of a convolution for one instruction set: included once for each, with VECTOR (floats in a
 * register), ACROSS (registers along a row that are summed up at a time) and NAME(x) defined. */

typedef float NAME(vector) __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));
typedef uint32_t NAME(mask) __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));

/* Voxels of a row that are read at a time. */
enum { NAME(across) = ACROSS * VECTOR };

/* One number in all places. Less nothing it is itself, also where it is -0: no instruction is made of that. */
INLINE NAME(vector) NAME(all)(float value) { return value - (NAME(vector)){0}; }

/* exp(x) - 1 for x <= 0, to within 1e-7: 2^n exp(r), and the polynomial of Cephes' expf for exp(r). */
INLINE NAME(vector) NAME(less_one)(NAME(vector) x) {
  const float to_integer = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number. */
  NAME(mask) is_low = (NAME(mask))(x < -87.0f);
  x = (NAME(vector))((~is_low & (NAME(mask))x) | (is_low & (NAME(mask))NAME(all)(-87.0f)));
  NAME(vector) shifted = x * 1.44269504f + to_integer;
  NAME(vector) n = shifted - to_integer;
  NAME(vector) r = x - n * 0.693359375f + n * 2.12194440e-4f;
  NAME(vector) p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r
                     + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r + 5.0000001201e-1f;
  NAME(vector) power = (NAME(vector))(((NAME(mask))shifted << 23) + 0x3f800000);
  return (p * r * r + r + 1.0f) * power - 1.0f;
}

INLINE NAME(vector) NAME(activated)(NAME(vector) x, enum activation kind) {
  if (kind == LINEAR) return x;
  /* NaN is not below zero, and stays. */
  NAME(mask) is_below = (NAME(mask))(x < 0.0f);
  NAME(mask) kept = ~is_below & (NAME(mask))x;
  if (kind == RELU) return (NAME(vector))kept;
  return (NAME(vector))(kept | (is_below & (NAME(mask))NAME(less_one)(x)));
}

/* `outputs` and `taps` are constants where this is called: all loops over them are unrolled, and the
 * sums stay in registers. */
INLINE void NAME(row)(const struct row *row, const int outputs, const int taps) {
  for (ptrdiff_t x = 0; x < row->width; x += ACROSS * VECTOR) {
    NAME(vector) sums[MOST_OUTPUTS][ACROSS];
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int v = 0; v < ACROSS; v++) sums[o][v] = NAME(all)(row->bias[o]);
    for (int r = 0; r < row->count; r++) {
      const float *values = row->sources[r] + x, *weights = row->weights[r];
      __builtin_prefetch(values + row->ahead, 0, 2);
      UNROLL for (int t = 0; t < taps; t++) {
        NAME(vector) seen[ACROSS];
        UNROLL for (int v = 0; v < ACROSS; v++)
          seen[v] = *(const NAME(vector) *)(values + (t - taps / 2) * row->dilation + v * VECTOR);
        UNROLL for (int o = 0; o < outputs; o++) {
          const NAME(vector) weight = NAME(all)(weights[t * outputs + o]);
          UNROLL for (int v = 0; v < ACROSS; v++) sums[o][v] += seen[v] * weight;
        }
      }
    }
    const ptrdiff_t left = row->width - x;
    UNROLL for (int o = 0; o < outputs; o++) {
      NAME(vector) made[ACROSS];
      UNROLL for (int v = 0; v < ACROSS; v++) made[v] = NAME(activated)(sums[o][v], row->activation);
      if (left >= ACROSS * VECTOR)
        UNROLL for (int v = 0; v < ACROSS; v++) *(NAME(vector) *)(row->targets[o] + x + v * VECTOR) = made[v];
      else
        memcpy(row->targets[o] + x, made, sizeof(float) * left);
    }
  }
}

#define ROW(outputs, taps) \
  static void NAME(row_##outputs##_##taps)(const struct row *row) { NAME(row)(row, outputs, taps); }
ROW(1, 1) ROW(2, 1) ROW(3, 1) ROW(4, 1) ROW(5, 1) ROW(6, 1)
ROW(1, 3) ROW(2, 3) ROW(3, 3) ROW(4, 3) ROW(5, 3) ROW(6, 3)
#undef ROW

static row_function *const NAME(rows)[2][MOST_OUTPUTS] = {
  {NAME(row_1_1), NAME(row_2_1), NAME(row_3_1), NAME(row_4_1), NAME(row_5_1), NAME(row_6_1)},
  {NAME(row_1_3), NAME(row_2_3), NAME(row_3_3), NAME(row_4_3), NAME(row_5_3), NAME(row_6_3)},
};
