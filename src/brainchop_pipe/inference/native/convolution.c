/* Convolutions of volumes, for processors: dilated 3x3x3 ones above all, and what goes with them.
 *
 * Libraries lay channels side by side in registers, and fill eight or sixteen places with five
 * channels. Here the places are voxels of a row, and a few output channels of them are summed up in
 * registers over all that they see.
 *
 * Of 3x3 taps across rows Winograd's F(4x4, 3x3) makes 6x6 products for 4x4 rows, where 144 would be
 * needed: it multiplies sums of rows by sums of weights. Source: Lavin and Gray (2016), "Fast
 * algorithms for convolutional neural networks", arXiv:1509.09308. Its points are 0, +-sqrt(1/2),
 * +-sqrt(2) and infinity, whose errors are half those of 0, +-1, +-2. The taps along a row stay as they are.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sums of so many channels and two registers along a row leave registers for what is summed up. */
#define MOST_OUTPUTS 6
#define MOST_CHANNELS 1024
/* Rows in a line that are looked at, and those that are given. */
#define SEEN 6
#define GIVEN 4
#define POSITIONS (SEEN * SEEN)
#define ROOT_HALF 0.707106781f
#define ROOT_TWO 1.41421356f
/* Floats of a line of the cache. */
#define LINE 16
/* Voxels of one channel that all of them together may take: in 36 positions they lie in a core's cache. */
#define CACHED_VOXELS 4096

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define INLINE static inline __attribute__((always_inline))

enum activation { LINEAR, RELU, ELU, GELU };

/* Rows of channels times weights. */
struct product {
  const float *values; /* Where the first tap of the first voxel is. */
  ptrdiff_t apart;     /* From one channel to the next. */
  ptrdiff_t inputs;
  const float *weights; /* Of each input, of each tap: of all outputs. */
  ptrdiff_t dilation;
  float *sums;
  ptrdiff_t sums_apart;
  ptrdiff_t width;
};

struct instructions {
  const char *name;
  ptrdiff_t across; /* Voxels of a row that are summed up at a time. */
  void (*multiply[2][MOST_OUTPUTS])(const struct product *);
  void (*look)(const float *const rows[POSITIONS], ptrdiff_t width, ptrdiff_t ahead, float *seen, ptrdiff_t apart);
  void (*give)(const float *products, ptrdiff_t apart, ptrdiff_t width, float bias, enum activation,
               float *const rows[GIVEN * GIVEN], double *sums);
  void (*finish)(const float *from, float *to, ptrdiff_t width, float scale, float shift, enum activation, double *sums);
  void (*repeat)(const float *from, float *to, ptrdiff_t width, enum activation);
};

/* Code between USING and DONE is for an instruction set that not all processors have. */
#define PRAGMA(words) _Pragma(#words)
#ifdef __clang__
#define USING(set) PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define DONE PRAGMA(clang attribute pop)
#else
#define USING(set) PRAGMA(GCC push_options) PRAGMA(GCC target(set))
#define DONE PRAGMA(GCC pop_options)
#endif

#if defined(__x86_64__)
#define ACROSS 2
#define VECTOR 8
#define NAME(x) avx2_##x
#define NAMED "AVX2"
USING("avx2,fma")
#include "rows.h"
DONE
#undef NAME
#undef NAMED
#undef VECTOR
#define VECTOR 16
#define NAME(x) avx512_##x
#define NAMED "AVX-512"
USING("avx512f,fma")
#include "rows.h"
DONE
#elif defined(__aarch64__)
#define ACROSS 4
#define VECTOR 4
#define NAME(x) neon_##x
#define NAMED "NEON"
#include "rows.h"
#endif

#define MOST_INSTRUCTIONS 2

/* Those that the processor has, best first; gives their number. */
static int find_instructions(const struct instructions *found[MOST_INSTRUCTIONS]) {
  (void)found;
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) found[count++] = &avx512_instructions;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[count++] = &avx2_instructions;
#elif defined(__aarch64__)
  found[count++] = &neon_instructions;
#endif
  return count;
}

/* What is to be done, besides the arrays. */
struct task {
  ptrdiff_t width;            /* Voxels of a row; behind them it is filled up with zeros. */
  ptrdiff_t taps, dilation;
  ptrdiff_t begin, end;       /* Fours of planes; planes of what is scaled or repeated. */
  ptrdiff_t step;             /* From one four to the next. */
  enum activation activation;
};

struct volume {
  float *first;
  ptrdiff_t channels, depth, height, row, plane, channel;
};

/* A task, and rows of each channel that lie in the cache: as they are multiplied, and their products. */
struct work {
  const struct instructions *with;
  const struct task *task;
  struct volume in, out;
  const float *weights, *bias;
  double *sums;                 /* Of each channel of four planes; NULL where they are not wanted. */
  ptrdiff_t chunk;              /* Voxels of a row that are done at a time, */
  ptrdiff_t segments;           /* of so many fours of rows, */
  ptrdiff_t segments_apart;     /* which lie so far from each other in one long row. */
  float *seen, *products, *nothing;
  ptrdiff_t seen_row, products_row, seen_position, products_position;
};

static struct volume volume_of(const Py_buffer *buffer) {
  const Py_ssize_t *shape = buffer->shape, *strides = buffer->strides, size = sizeof(float);
  return (struct volume){
    .first = buffer->buf,
    .channels = shape[0],
    .depth = shape[1],
    .height = shape[2],
    .row = strides[2] / size,
    .plane = strides[1] / size,
    .channel = strides[0] / size,
  };
}

static float *row_of(const struct volume *in, ptrdiff_t channel, ptrdiff_t z, ptrdiff_t y) {
  return in->first + channel * in->channel + z * in->plane + y * in->row;
}

static ptrdiff_t least(ptrdiff_t one, ptrdiff_t other) { return one < other ? one : other; }

static ptrdiff_t most(ptrdiff_t one, ptrdiff_t other) { return one > other ? one : other; }

static ptrdiff_t rounded_up(ptrdiff_t length, ptrdiff_t multiple) {
  return (length + multiple - 1) / multiple * multiple;
}

/* A length whose multiples do not fall on the same lines of the cache. */
static ptrdiff_t odd_lines(ptrdiff_t length) {
  const ptrdiff_t rounded = rounded_up(length, LINE);
  return rounded / LINE % 2 ? rounded : rounded + LINE;
}

/* Rows or planes a dilation apart are given in fours: the first of each four, in order. */
static ptrdiff_t first_of_four(ptrdiff_t four, ptrdiff_t dilation) {
  return four / dilation * GIVEN * dilation + four % dilation;
}

/* Some at the end are less than four. */
static ptrdiff_t count_fours(ptrdiff_t length, ptrdiff_t dilation) {
  return length / (GIVEN * dilation) * dilation + least(length % (GIVEN * dilation), dilation);
}

/* How much is done at a time: a part of long rows, or short ones behind one another. */
static void plan_rows(struct work *work) {
  const ptrdiff_t across = work->with->across, dilation = work->task->dilation, width = work->task->width;
  const ptrdiff_t wanted = most(CACHED_VOXELS / (work->in.channels + work->out.channels), 2 * across);
  const ptrdiff_t chunks = (width + wanted - 1) / wanted, fours = count_fours(work->in.height, dilation);
  work->chunk = chunks == 1 ? width : rounded_up((width + chunks - 1) / chunks, across);
  /* The margin behind a row is that before the next. */
  work->segments_apart = work->chunk + dilation;
  work->segments = chunks == 1 ? most(least((wanted + dilation) / work->segments_apart, fours), 1) : 1;
  work->products_row = rounded_up(work->segments * work->segments_apart, across);
  work->seen_row = across + work->products_row + rounded_up(2 * dilation, across);
  /* Of 2x2x2 taps there is one position of all taps. */
  const ptrdiff_t rows = work->task->taps == 2 ? 8 * work->in.channels : work->in.channels;
  work->seen_position = odd_lines(rows * work->seen_row);
  work->products_position = odd_lines(work->out.channels * work->products_row);
}

static int reserve_rows(struct work *work) {
  const ptrdiff_t positions = work->task->taps == 3 ? POSITIONS : 1;
  const ptrdiff_t seen = positions * work->seen_position, products = positions * work->products_position;
  /* Margins of rows stay 0; what lies behind them is multiplied, too, if to no effect. */
  work->seen = PyMem_Calloc(seen + products + work->seen_row, sizeof(float));
  if (work->seen == NULL) return -1;
  work->products = work->seen + seen;
  work->nothing = work->products + products;
  return 0;
}

/* Multiplies rows of all inputs for all outputs, in blocks whose sizes differ by one at most; gives the
 * weights behind. */
static const float *multiply(const struct work *work, struct product product, ptrdiff_t taps) {
  const int outputs = (int)work->out.channels, blocks = (outputs + MOST_OUTPUTS - 1) / MOST_OUTPUTS;
  for (int block = 0; block < blocks; block++) {
    const int size = outputs / blocks + (block < outputs % blocks);
    work->with->multiply[taps == 3][size - 1](&product);
    product.weights += taps * product.inputs * size;
    product.sums += product.sums_apart * size;
  }
  return product.weights;
}

/* Where the margin of a row begins, a register behind the row's own begin. */
static float *margin_of(const struct work *work, ptrdiff_t position, ptrdiff_t channel) {
  return work->seen + position * work->seen_position + channel * work->seen_row + work->with->across;
}

/* Makes what is multiplied of the rows that four rows, of four planes, see: a chunk, from x on, and
 * a dilation before and behind it. Whole registers from the begin of a row on are read, so that none is read
 * beyond its end. */
static void look_around(const struct work *work, ptrdiff_t z, ptrdiff_t four, ptrdiff_t x, ptrdiff_t segment) {
  const struct volume *in = &work->in;
  const ptrdiff_t dilation = work->task->dilation, y = first_of_four(four, dilation);
  const ptrdiff_t ahead = (first_of_four(four + 1, dilation) - y) * in->row;
  const ptrdiff_t begin = most(x - rounded_up(dilation, work->with->across), 0);
  const ptrdiff_t end = least(x + work->chunk + dilation, work->task->width);
  const ptrdiff_t at = segment * work->segments_apart + begin - (x - dilation);
  for (ptrdiff_t channel = 0; channel < in->channels; channel++) {
    const float *rows[POSITIONS];
    for (int p = 0; p < POSITIONS; p++) {
      const ptrdiff_t from_z = z + (p / SEEN - 1) * dilation, from_y = y + (p % SEEN - 1) * dilation;
      const int is_within = from_z >= 0 && from_z < in->depth && from_y >= 0 && from_y < in->height;
      rows[p] = is_within ? row_of(in, channel, from_z, from_y) + begin : work->nothing;
    }
    work->with->look(rows, end - begin, ahead, margin_of(work, 0, channel) + at, work->seen_position);
  }
}

/* Clears what lies before and behind a row where another part of one was. */
static void clear_margins(const struct work *work, ptrdiff_t x) {
  const ptrdiff_t dilation = work->task->dilation;
  const ptrdiff_t room = work->seen_row - work->with->across;
  const ptrdiff_t before = most(dilation - x, 0), behind = least(work->task->width - x + dilation, room);
  for (int p = 0; p < POSITIONS; p++)
    for (ptrdiff_t channel = 0; channel < work->in.channels; channel++) {
      memset(margin_of(work, p, channel), 0, sizeof(float) * before);
      memset(margin_of(work, p, channel) + behind, 0, sizeof(float) * (room - behind));
    }
}

static void give_rows(const struct work *work, ptrdiff_t z, ptrdiff_t four, ptrdiff_t x, ptrdiff_t width,
                 const float *products, double *sums) {
  const struct volume *out = &work->out;
  const ptrdiff_t dilation = work->task->dilation, y = first_of_four(four, dilation);
  for (ptrdiff_t channel = 0; channel < out->channels; channel++) {
    float *rows[GIVEN * GIVEN];
    for (int p = 0; p < GIVEN * GIVEN; p++) {
      const ptrdiff_t to_z = z + p / GIVEN * dilation, to_y = y + p % GIVEN * dilation;
      rows[p] = to_z < out->depth && to_y < out->height ? row_of(out, channel, to_z, to_y) + x : NULL;
    }
    work->with->give(products + channel * work->products_row, work->products_position, width,
                     work->bias[channel], work->task->activation, rows, sums == NULL ? NULL : sums + 2 * channel);
  }
}

/* Where channels of four planes are summed up; NULL where that is not wanted. */
static double *sums_of(const struct work *work, ptrdiff_t four_of_planes) {
  return work->sums == NULL ? NULL : work->sums + 2 * work->out.channels * four_of_planes;
}

/* 3x3x3 taps for four planes. */
static void convolve_planes(const struct work *work, ptrdiff_t four_of_planes) {
  const struct task *task = work->task;
  const ptrdiff_t z = first_of_four(four_of_planes, task->dilation), across = work->with->across;
  const ptrdiff_t fours = count_fours(work->in.height, task->dilation);
  double *sums = sums_of(work, four_of_planes);
  for (ptrdiff_t four = 0; four < fours; four += work->segments) {
    const ptrdiff_t segments = least(work->segments, fours - four);
    for (ptrdiff_t x = 0; x < task->width; x += work->chunk) {
      const ptrdiff_t width = least(work->chunk, task->width - x);
      if (work->chunk < task->width) clear_margins(work, x);
      for (ptrdiff_t s = 0; s < segments; s++) look_around(work, z, four + s, x, s);
      const float *weights = work->weights;
      for (int p = 0; p < POSITIONS; p++)
        weights = multiply(work, (struct product){
          .values = margin_of(work, p, 0),
          .apart = work->seen_row,
          .inputs = work->in.channels,
          .weights = weights,
          .dilation = task->dilation,
          .sums = work->products + p * work->products_position,
          .sums_apart = work->products_row,
          .width = rounded_up((segments - 1) * work->segments_apart + width, across),
        }, 3);
      for (ptrdiff_t s = 0; s < segments; s++)
        give_rows(work, z, four + s, x, width, work->products + s * work->segments_apart, sums);
    }
  }
}

/* Multiplies a part of a row for all outputs, and stores it. */
static void convolve_part(const struct work *work, const float *values, ptrdiff_t apart, ptrdiff_t inputs,
                          ptrdiff_t z, ptrdiff_t y, ptrdiff_t x, double *sums) {
  const struct task *task = work->task;
  const ptrdiff_t width = least(work->chunk, task->width - x);
  multiply(work, (struct product){
    .values = values,
    .apart = apart,
    .inputs = inputs,
    .weights = work->weights,
    .sums = work->products,
    .sums_apart = work->products_row,
    .width = rounded_up(width, work->with->across),
  }, 1);
  for (ptrdiff_t channel = 0; channel < work->out.channels; channel++)
    work->with->finish(work->products + channel * work->products_row, row_of(&work->out, channel, z, y) + x, width,
                       1.0f, work->bias[channel], task->activation, sums == NULL ? NULL : sums + 2 * channel);
}

/* One tap for a row. */
static void convolve_row(const struct work *work, ptrdiff_t z, ptrdiff_t y, double *sums) {
  for (ptrdiff_t x = 0; x < work->task->width; x += work->chunk)
    convolve_part(work, row_of(&work->in, 0, z, y) + x, work->in.channel, work->in.channels, z, y, x, sums);
}

/* Every second voxel of `count`. */
static void take_every_second(const float *from, float *to, ptrdiff_t count) {
  for (ptrdiff_t x = 0; x < count; x++) to[x] = from[2 * x];
}

/* 2x2x2 taps that are two voxels apart, for a row of half the length: each tap of each input is one more input. */
static void halve_row(const struct work *work, ptrdiff_t z, ptrdiff_t y, double *sums) {
  const struct volume *in = &work->in;
  for (ptrdiff_t x = 0; x < work->task->width; x += work->chunk) {
    const ptrdiff_t width = least(work->chunk, work->task->width - x);
    float *seen = work->seen;
    for (ptrdiff_t channel = 0; channel < in->channels; channel++)
      for (int tap = 0; tap < 8; tap++, seen += work->seen_row)
        take_every_second(row_of(in, channel, 2 * z + tap / 4, 2 * y + tap / 2 % 2) + 2 * x + tap % 2, seen, width);
    convolve_part(work, work->seen, work->seen_row, 8 * in->channels, z, y, x, sums);
  }
}

static void convolve_all(const struct work *work) {
  const struct task *task = work->task;
  for (ptrdiff_t four = task->begin; four < task->end; four += task->step) {
    if (task->taps == 3) {
      convolve_planes(work, four);
      continue;
    }
    double *sums = sums_of(work, four);
    for (ptrdiff_t z = GIVEN * four; z < least(GIVEN * (four + 1), work->out.depth); z++)
      for (ptrdiff_t y = 0; y < work->out.height; y++)
        (task->taps == 2 ? halve_row : convolve_row)(work, z, y, sums);
  }
}

/* Says why rows would be read or written beyond their arrays; NULL where they are not. */
static const char *what_is_wrong(const struct task *task, const Py_buffer *source, const Py_buffer *target,
                                 ptrdiff_t across) {
  const Py_ssize_t *in = source->shape, *out = target->shape;
  const ptrdiff_t step = task->taps == 2 ? 2 : 1;
  if (task->taps < 1 || task->taps > 3) return "kernels of 1 to 3 voxels are needed";
  if (task->dilation < 1 || task->width < 1) return "dilation and width must be positive";
  if (task->taps < 3 && task->dilation != 1) return "fewer than three taps have the dilation 1";
  if (task->activation < LINEAR || task->activation > GELU) return "unknown activation";
  if (in[0] < 1 || in[0] > MOST_CHANNELS || out[0] < 1 || out[0] > MOST_CHANNELS) return "1 to 1024 channels are needed";
  if (in[1] / step != out[1] || in[2] / step != out[2]) return "the planes do not fit each other in number or height";
  /* The numbers are looked at before they are added up. They are read in whole registers. */
  if (task->width > in[3] / step || (step == 1 && rounded_up(task->width, across) > in[3]))
    return "the source's rows are too short";
  if (task->width > out[3]) return "the target's rows are too short";
  if (task->dilation > in[1] + in[2] + in[3]) return "the dilation is larger than the volume";
  const ptrdiff_t fours = count_fours(out[1], task->dilation);
  if (task->begin < 0 || task->step < 1 || task->step > out[1] || task->end > fours) return "planes beyond the volume";
  return NULL;
}

/* The same for numbers that belong to channels; `sums` may be missing. */
static const char *what_is_wrong_besides(const struct task *task, const Py_buffer *source, const Py_buffer *target,
                                         const Py_buffer *weights, const Py_buffer *bias, const Py_buffer *sums) {
  const Py_ssize_t inputs = source->shape[0], outputs = target->shape[0];
  const ptrdiff_t of_each[] = {1, 8, 3 * POSITIONS};
  if (weights->shape[0] != of_each[task->taps - 1] * inputs * outputs) return "weights of another number";
  if (bias->shape[0] != outputs) return "biases of another number";
  if (sums == NULL) return NULL;
  if (sums->shape[0] != count_fours(target->shape[1], task->dilation) || sums->shape[1] != outputs ||
      sums->shape[2] != 2)
    return "sums of another shape";
  return NULL;
}

static int fail(const char *wrong) {
  if (wrong == NULL) return 0;
  PyErr_SetString(PyExc_ValueError, wrong);
  return -1;
}

/* What an array must be. */
struct kind {
  int dimensions;
  const char *format;
  int flags;
};

/* Whether rows are without gaps, and begin a whole number of floats from each other. */
static int whole_numbers_apart(Py_buffer *buffer) {
  const int last = buffer->ndim - 1;
  int whole = buffer->shape[last] <= 1 || buffer->strides[last] == buffer->itemsize;
  for (int i = 0; i < buffer->ndim; i++) whole &= buffer->strides[i] % buffer->itemsize == 0;
  if (whole) return 0;
  PyBuffer_Release(buffer);
  return fail("rows without gaps are needed");
}

static int get_numbers(PyObject *object, Py_buffer *buffer, const struct kind *kind) {
  if (PyObject_GetBuffer(object, buffer, PyBUF_FORMAT | kind->flags) < 0) return -1;
  if (buffer->ndim == kind->dimensions && strcmp(buffer->format, kind->format) == 0) return whole_numbers_apart(buffer);
  PyErr_Format(PyExc_TypeError, "an array of %d dimensions, format %s, was given; %s of %d are needed", buffer->ndim,
               buffer->format, *kind->format == 'd' ? "float64" : "float32", kind->dimensions);
  PyBuffer_Release(buffer);
  return -1;
}

static void release_arrays(Py_buffer *arrays, int count) {
  while (count-- > 0) PyBuffer_Release(&arrays[count]);
}

static int get_arrays(PyObject *const *objects, Py_buffer *arrays, const struct kind *kinds, int count) {
  for (int i = 0; i < count; i++)
    if (get_numbers(objects[i], &arrays[i], &kinds[i]) < 0) {
      release_arrays(arrays, i);
      return -1;
    }
  return 0;
}

static const struct instructions *find_named(const char *name) {
  const struct instructions *found[MOST_INSTRUCTIONS];
  for (int i = find_instructions(found) - 1; i >= 0; i--)
    if (strcmp(found[i]->name, name) == 0) return found[i];
  PyErr_Format(PyExc_ValueError, "this processor, or this build, has no %s", name);
  return NULL;
}

enum { SOURCE, TARGET, WEIGHTS, BIAS, SUMS, ARRAYS };

/* Volumes may be parts of larger ones. */
#define VOLUME {4, "f", PyBUF_STRIDES}
#define MADE {4, "f", PyBUF_STRIDES | PyBUF_WRITABLE}
#define NUMBERS {1, "f", PyBUF_C_CONTIGUOUS}

static const struct kind convolved[ARRAYS] = {
  VOLUME, MADE, NUMBERS, NUMBERS, {3, "d", PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
};
static const struct kind scaled[] = {MADE, NUMBERS, NUMBERS};
static const struct kind repeated[] = {VOLUME, MADE};

static int convolve_arrays(const struct instructions *with, const struct task *task, const Py_buffer arrays[ARRAYS],
                           const Py_buffer *sums) {
  if (fail(what_is_wrong(task, &arrays[SOURCE], &arrays[TARGET], with->across)) < 0) return -1;
  if (fail(what_is_wrong_besides(task, &arrays[SOURCE], &arrays[TARGET], &arrays[WEIGHTS], &arrays[BIAS], sums)) < 0)
    return -1;
  struct work work = {
    .with = with,
    .task = task,
    .in = volume_of(&arrays[SOURCE]),
    .out = volume_of(&arrays[TARGET]),
    .weights = arrays[WEIGHTS].buf,
    .bias = arrays[BIAS].buf,
    .sums = sums == NULL ? NULL : sums->buf,
  };
  plan_rows(&work);
  if (reserve_rows(&work) < 0) {
    PyErr_NoMemory();
    return -1;
  }
  Py_BEGIN_ALLOW_THREADS
  convolve_all(&work);
  Py_END_ALLOW_THREADS
  PyMem_Free(work.seen);
  return 0;
}

static PyObject *convolve(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *objects[ARRAYS];
  struct task task;
  const char *name;
  int activation;
  if (!PyArg_ParseTuple(arguments, "sOOOOOnnni(nnn)", &name, &objects[SOURCE], &objects[TARGET],
                        &objects[WEIGHTS], &objects[BIAS], &objects[SUMS], &task.width,
                        &task.taps, &task.dilation, &activation, &task.begin, &task.end, &task.step))
    return NULL;
  task.activation = (enum activation)activation;
  const struct instructions *with = find_named(name);
  if (with == NULL) return NULL;
  Py_buffer arrays[ARRAYS];
  const int count = objects[SUMS] == Py_None ? SUMS : ARRAYS;
  if (get_arrays(objects, arrays, convolved, count) < 0) return NULL;
  const int failed = convolve_arrays(with, &task, arrays, count == ARRAYS ? &arrays[SUMS] : NULL) < 0;
  release_arrays(arrays, count);
  if (failed) return NULL;
  Py_RETURN_NONE;
}

static void scale_planes(const struct instructions *with, const struct task *task, struct volume volume,
                         const float *scale, const float *shift) {
  for (ptrdiff_t z = task->begin; z < task->end; z++)
    for (ptrdiff_t channel = 0; channel < volume.channels; channel++)
      for (ptrdiff_t y = 0; y < volume.height; y++) {
        float *row = row_of(&volume, channel, z, y);
        with->finish(row, row, task->width, scale[channel], shift[channel], task->activation, NULL);
      }
}

static int scale_arrays(const struct instructions *with, const struct task *task, const Py_buffer arrays[3]) {
  const Py_ssize_t *shape = arrays[0].shape;
  const char *wrong = NULL;
  if (task->activation < LINEAR || task->activation > GELU) wrong = "unknown activation";
  if (arrays[1].shape[0] != shape[0] || arrays[2].shape[0] != shape[0]) wrong = "one number of each channel is needed";
  if (task->width < 1 || task->width > shape[3] || rounded_up(task->width, with->across) > shape[3])
    wrong = "the rows are too short";
  if (task->begin < 0 || task->end > shape[1]) wrong = "planes beyond the volume";
  if (fail(wrong) < 0) return -1;
  Py_BEGIN_ALLOW_THREADS
  scale_planes(with, task, volume_of(&arrays[0]), arrays[1].buf, arrays[2].buf);
  Py_END_ALLOW_THREADS
  return 0;
}

static PyObject *scale(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *objects[3];
  struct task task = {0};
  const char *name;
  int activation;
  if (!PyArg_ParseTuple(arguments, "sOOOni(nn)", &name, &objects[0], &objects[1], &objects[2], &task.width,
                        &activation, &task.begin, &task.end))
    return NULL;
  task.activation = (enum activation)activation;
  const struct instructions *with = find_named(name);
  if (with == NULL) return NULL;
  Py_buffer arrays[3];
  if (get_arrays(objects, arrays, scaled, 3) < 0) return NULL;
  const int failed = scale_arrays(with, &task, arrays) < 0;
  release_arrays(arrays, 3);
  if (failed) return NULL;
  Py_RETURN_NONE;
}

static void repeat_planes(const struct instructions *with, const struct task *task, struct volume from,
                          struct volume to) {
  for (ptrdiff_t z = task->begin; z < task->end; z++)
    for (ptrdiff_t channel = 0; channel < to.channels; channel++)
      for (ptrdiff_t y = 0; y < to.height; y++)
        with->repeat(row_of(&from, channel, z / 2, y / 2), row_of(&to, channel, z, y), task->width, task->activation);
}

static int repeat_arrays(const struct instructions *with, const struct task *task, const Py_buffer arrays[2]) {
  const Py_ssize_t *from = arrays[0].shape, *to = arrays[1].shape;
  const char *wrong = NULL;
  if (task->activation < LINEAR || task->activation > GELU) wrong = "unknown activation";
  if (from[0] != to[0]) wrong = "channels differ in number";
  if (to[1] / 2 > from[1] || to[2] / 2 > from[2] || to[1] % 2 || to[2] % 2)
    wrong = "the planes do not fit each other in number or height";
  if (task->width < 1 || task->width > to[3] || rounded_up(task->width, with->across) > to[3] ||
      rounded_up(task->width, with->across) / 2 > from[3])
    wrong = "the rows are too short";
  if (task->begin < 0 || task->end > to[1]) wrong = "planes beyond the volume";
  if (fail(wrong) < 0) return -1;
  Py_BEGIN_ALLOW_THREADS
  repeat_planes(with, task, volume_of(&arrays[0]), volume_of(&arrays[1]));
  Py_END_ALLOW_THREADS
  return 0;
}

static PyObject *repeat(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *objects[2];
  struct task task = {0};
  const char *name;
  int activation;
  if (!PyArg_ParseTuple(arguments, "sOOni(nn)", &name, &objects[0], &objects[1], &task.width, &activation, &task.begin,
                        &task.end))
    return NULL;
  task.activation = (enum activation)activation;
  const struct instructions *with = find_named(name);
  if (with == NULL) return NULL;
  Py_buffer arrays[2];
  if (get_arrays(objects, arrays, repeated, 2) < 0) return NULL;
  const int failed = repeat_arrays(with, &task, arrays) < 0;
  release_arrays(arrays, 2);
  if (failed) return NULL;
  Py_RETURN_NONE;
}

static PyObject *instructions(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  const struct instructions *found[MOST_INSTRUCTIONS];
  const int count = find_instructions(found);
  PyObject *names = PyTuple_New(count);
  for (int i = 0; names != NULL && i < count; i++) {
    PyObject *name = Py_BuildValue("(sn)", found[i]->name, found[i]->across);
    if (name == NULL || PyTuple_SetItem(names, i, name) < 0) Py_CLEAR(names);
  }
  return names;
}

static PyMethodDef methods[] = {
  {"convolve", convolve, METH_VARARGS, NULL},
  {"scale", scale, METH_VARARGS, NULL},
  {"repeat", repeat, METH_VARARGS, NULL},
  {"instructions", instructions, METH_NOARGS, NULL},
  {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT, .m_name = "_convolution", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__convolution(void) { return PyModule_Create(&definition); }
