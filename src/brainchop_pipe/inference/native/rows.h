/* What is done with rows, for one instruction set: included once for each, with VECTOR (floats in a
 * register), ACROSS (registers along a row that are summed up at a time) and NAME(x) defined. */

typedef float NAME(vector) __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));
typedef uint32_t NAME(mask) __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));

INLINE NAME(vector) NAME(load)(const float *from) { return *(const NAME(vector) *)from; }

/* One number in all places. Less nothing it is itself, also where it is -0: no instruction is made of that. */
INLINE NAME(vector) NAME(all)(float value) { return value - (NAME(vector)){0}; }

/* `one` where the mask is set, else `other`. */
INLINE NAME(vector) NAME(either)(NAME(mask) mask, NAME(vector) one, NAME(vector) other) {
  return (NAME(vector))((mask & (NAME(mask))one) | (~mask & (NAME(mask))other));
}

/* exp(x) - 1 for x <= 0, to within 1e-7: 2^n exp(r), and the polynomial of Cephes' expf for exp(r). */
INLINE NAME(vector) NAME(less_one)(NAME(vector) x) {
  const float to_integer = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number. */
  x = NAME(either)((NAME(mask))(x < -87.0f), NAME(all)(-87.0f), x);
  NAME(vector) shifted = x * 1.44269504f + to_integer;
  NAME(vector) n = shifted - to_integer;
  NAME(vector) r = x - n * 0.693359375f + n * 2.12194440e-4f;
  NAME(vector) p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r
                     + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r + 5.0000001201e-1f;
  NAME(vector) power = (NAME(vector))(((NAME(mask))shifted << 23) + 0x3f800000);
  return (p * r * r + r + 1.0f) * power - 1.0f;
}

/* x * (1 + erf(x / sqrt(2))) / 2, to within 2e-7 of |x|: Abramowitz and Stegun, 7.1.26. */
INLINE NAME(vector) NAME(gelu)(NAME(vector) x) {
  NAME(vector) z = (NAME(vector))((NAME(mask))x & 0x7fffffffu) * 0.707106781f;
  NAME(vector) t = 1.0f / (1.0f + 0.3275911f * z);
  NAME(vector) p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t
                    + 0.254829592f) * t;
  NAME(vector) beyond = 0.5f * p * (NAME(less_one)(-z * z) + 1.0f); /* Of a normal distribution, beyond |x|. */
  return x * NAME(either)((NAME(mask))(x < 0.0f), beyond, 1.0f - beyond);
}

INLINE NAME(vector) NAME(activated)(NAME(vector) x, enum activation kind) {
  if (kind == LINEAR) return x;
  if (kind == GELU) return NAME(gelu)(x);
  /* NaN is not below zero, and stays. */
  NAME(mask) is_below = (NAME(mask))(x < 0.0f);
  return NAME(either)(is_below, kind == RELU ? (NAME(vector)){0} : NAME(less_one)(x), x);
}

/* Stores as many places as there are left. */
INLINE void NAME(store)(float *target, NAME(vector) values, ptrdiff_t left) {
  if (left >= VECTOR) *(NAME(vector) *)target = values;
  else memcpy(target, &values, sizeof(float) * left);
}

/* The sums of rows times weights, of `outputs` channels, over whole registers. `outputs` and `taps` are
 * constants where this is called: all loops over them are unrolled, and the sums stay in registers. */
INLINE void NAME(multiply)(const struct product *of, const int outputs, const int taps) {
  for (ptrdiff_t x = 0; x < of->width; x += ACROSS * VECTOR) {
    NAME(vector) sums[MOST_OUTPUTS][ACROSS];
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int v = 0; v < ACROSS; v++) sums[o][v] = (NAME(vector)){0};
    const float *values = of->values + x, *weights = of->weights;
    for (ptrdiff_t c = 0; c < of->inputs; c++, values += of->apart, weights += taps * outputs) {
      UNROLL for (int t = 0; t < taps; t++) {
        NAME(vector) seen[ACROSS];
        UNROLL for (int v = 0; v < ACROSS; v++) seen[v] = NAME(load)(values + t * of->dilation + v * VECTOR);
        UNROLL for (int o = 0; o < outputs; o++) {
          const NAME(vector) weight = NAME(all)(weights[t * outputs + o]);
          UNROLL for (int v = 0; v < ACROSS; v++) sums[o][v] += seen[v] * weight;
        }
      }
    }
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int v = 0; v < ACROSS; v++)
        *(NAME(vector) *)(of->sums + o * of->sums_apart + x + v * VECTOR) = sums[o][v];
  }
}

#define MULTIPLY(outputs, taps) \
  static void NAME(multiply_##outputs##_##taps)(const struct product *of) { NAME(multiply)(of, outputs, taps); }
MULTIPLY(1, 1) MULTIPLY(2, 1) MULTIPLY(3, 1) MULTIPLY(4, 1) MULTIPLY(5, 1) MULTIPLY(6, 1)
MULTIPLY(1, 3) MULTIPLY(2, 3) MULTIPLY(3, 3) MULTIPLY(4, 3) MULTIPLY(5, 3) MULTIPLY(6, 3)
#undef MULTIPLY

/* What F(4, 3) multiplies in the place of six rows. */
INLINE void NAME(transformed)(NAME(vector) to[SEEN], const NAME(vector) from[SEEN]) {
  const NAME(vector) even = from[4] - 2.0f * from[2], odd = ROOT_HALF * from[3] - ROOT_TWO * from[1];
  const NAME(vector) even_far = from[4] - 0.5f * from[2], odd_far = ROOT_TWO * from[3] - ROOT_HALF * from[1];
  to[0] = from[0] - 2.5f * from[2] + from[4];
  to[1] = even + odd;
  to[2] = even - odd;
  to[3] = even_far + odd_far;
  to[4] = even_far - odd_far;
  to[5] = from[1] - 2.5f * from[3] + from[5];
}

/* The four rows that six products stand for. */
INLINE void NAME(back)(NAME(vector) to[GIVEN], const NAME(vector) from[SEEN]) {
  const NAME(vector) even = from[1] + from[2], odd = from[1] - from[2];
  const NAME(vector) even_far = from[3] + from[4], odd_far = from[3] - from[4];
  to[0] = from[0] + even + even_far;
  to[1] = ROOT_HALF * odd + ROOT_TWO * odd_far;
  to[2] = 0.5f * even + 2.0f * even_far;
  to[3] = 0.5f * ROOT_HALF * odd + 2.0f * ROOT_TWO * odd_far + from[5];
}

/* 6 x 6 rows, of six planes, to what is multiplied in their place. */
static void NAME(look)(const float *const rows[POSITIONS], ptrdiff_t width, ptrdiff_t ahead, float *seen,
                       ptrdiff_t apart) {
  for (ptrdiff_t x = 0; x < width; x += VECTOR) {
    /* The latter four rows of each plane are seen for the first time: the next ones lie `ahead`. */
    if (x % LINE == 0)
      UNROLL for (int z = 0; z < SEEN; z++)
        UNROLL for (int y = SEEN - GIVEN; y < SEEN; y++) __builtin_prefetch(rows[SEEN * z + y] + x + ahead, 0, 2);
    NAME(vector) in_plane[SEEN][SEEN], done[SEEN];
    UNROLL for (int y = 0; y < SEEN; y++) {
      NAME(vector) column[SEEN];
      UNROLL for (int z = 0; z < SEEN; z++) column[z] = NAME(load)(rows[SEEN * z + y] + x);
      NAME(transformed)(done, column);
      UNROLL for (int z = 0; z < SEEN; z++) in_plane[z][y] = done[z];
    }
    UNROLL for (int z = 0; z < SEEN; z++) {
      NAME(transformed)(done, in_plane[z]);
      UNROLL for (int y = 0; y < SEEN; y++) *(NAME(vector) *)(seen + (SEEN * z + y) * apart + x) = done[y];
    }
  }
}

/* Adds voxels of a row and their squares up; places behind the last of them are 0. */
INLINE void NAME(measure)(NAME(vector) values, ptrdiff_t left, NAME(vector) sums[2]) {
  if (left < VECTOR) {
    NAME(vector) some = {0};
    memcpy(&some, &values, sizeof(float) * left);
    values = some;
  }
  sums[0] += values;
  sums[1] += values * values;
}

INLINE void NAME(add_up)(const NAME(vector) measured[2], double *sums) {
  for (int i = 0; i < 2; i++)
    for (int v = 0; v < VECTOR; v++) sums[i] += measured[i][v];
}

/* The 4 x 4 rows, of four planes, that 6 x 6 rows of products stand for; NULL where there is none.
 * What they sum up to is added to `sums`, and their squares, where these are wanted. */
static void NAME(give)(const float *products, ptrdiff_t apart, ptrdiff_t width, float bias,
                       enum activation activation, float *const rows[GIVEN * GIVEN], double *sums) {
  NAME(vector) measured[2] = {{0}, {0}};
  for (ptrdiff_t x = 0; x < width; x += VECTOR) {
    NAME(vector) in_plane[GIVEN][SEEN], made[GIVEN];
    UNROLL for (int y = 0; y < SEEN; y++) {
      NAME(vector) column[SEEN];
      UNROLL for (int z = 0; z < SEEN; z++) column[z] = NAME(load)(products + (SEEN * z + y) * apart + x);
      NAME(back)(made, column);
      UNROLL for (int z = 0; z < GIVEN; z++) in_plane[z][y] = made[z];
    }
    UNROLL for (int z = 0; z < GIVEN; z++) {
      NAME(back)(made, in_plane[z]);
      UNROLL for (int y = 0; y < GIVEN; y++) {
        if (rows[GIVEN * z + y] == NULL) continue;
        made[y] += bias;
        if (sums != NULL) NAME(measure)(made[y], width - x, measured);
        NAME(store)(rows[GIVEN * z + y] + x, NAME(activated)(made[y], activation), width - x);
      }
    }
  }
  if (sums != NULL) NAME(add_up)(measured, sums);
}

/* A row times a number, with another one added, and what activation makes of that; also in place. What it
 * sums up to before the activation is added to `sums`, as `give` does. */
static void NAME(finish)(const float *from, float *to, ptrdiff_t width, float scale, float shift,
                         enum activation activation, double *sums) {
  NAME(vector) measured[2] = {{0}, {0}};
  for (ptrdiff_t x = 0; x < width; x += VECTOR) {
    const NAME(vector) made = NAME(load)(from + x) * scale + shift;
    if (sums != NULL) NAME(measure)(made, width - x, measured);
    NAME(store)(to + x, NAME(activated)(made, activation), width - x);
  }
  if (sums != NULL) NAME(add_up)(measured, sums);
}

/* Adds each voxel of a row to the two that it covers in one of half the spacing. */
static void NAME(repeat)(const float *from, float *to, ptrdiff_t width, enum activation activation) {
  for (ptrdiff_t x = 0; x < width; x += VECTOR) {
    NAME(vector) twice;
    UNROLL for (int v = 0; v < VECTOR; v++) twice[v] = from[x / 2 + v / 2];
    NAME(store)(to + x, NAME(activated)(NAME(load)(to + x) + twice, activation), width - x);
  }
}

static const struct instructions NAME(instructions) = {
  .name = NAMED,
  .across = ACROSS * VECTOR,
  .multiply = {
    {NAME(multiply_1_1), NAME(multiply_2_1), NAME(multiply_3_1),
     NAME(multiply_4_1), NAME(multiply_5_1), NAME(multiply_6_1)},
    {NAME(multiply_1_3), NAME(multiply_2_3), NAME(multiply_3_3),
     NAME(multiply_4_3), NAME(multiply_5_3), NAME(multiply_6_3)},
  },
  .look = NAME(look),
  .give = NAME(give),
  .finish = NAME(finish),
  .repeat = NAME(repeat),
};
