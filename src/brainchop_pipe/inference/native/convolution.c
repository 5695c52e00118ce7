/* Dilated 3x3x3 convolutions of few channels, for processors.
 *
 * Libraries lay channels side by side in registers, and fill eight or sixteen places with five
 * channels. Here the places are voxels of a row, and a few output channels of them are summed up in
 * registers over all that they see, which is near what a processor can do for any number of channels.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sums of so many channels and two registers along a row leave registers for what is summed up. */
#define MOST_OUTPUTS 6
#define MOST_CHANNELS 64
#define MOST_ROWS (9 * MOST_CHANNELS)

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define INLINE static inline __attribute__((always_inline))

enum activation { LINEAR, RELU, ELU };

struct row {
  int count;                           /* Rows that it sees. */
  const float *sources[MOST_ROWS];     /* Their first voxels. */
  const float *weights[MOST_ROWS];     /* Their taps, of each the weights of all outputs. */
  const float *bias;
  float *targets[MOST_OUTPUTS];
  ptrdiff_t width, dilation;
  ptrdiff_t ahead;                     /* From a row to the one that is seen next in its place. */
  enum activation activation;
};

typedef void row_function(const struct row *);

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
USING("avx2,fma")
#include "rows.h"
DONE
#undef NAME
#undef VECTOR
#define VECTOR 16
#define NAME(x) avx512_##x
USING("avx512f,fma")
#include "rows.h"
DONE
#elif defined(__aarch64__)
#define ACROSS 4
#define VECTOR 4
#define NAME(x) neon_##x
#include "rows.h"
#endif

typedef row_function *const row_functions[2][MOST_OUTPUTS];

struct instructions {
  const char *name;
  int across; /* Voxels of a row that are read at a time. */
  row_functions *rows;
};

#define MOST_INSTRUCTIONS 2

/* Those that the processor has, best first; gives their number. */
static int find_instructions(struct instructions found[MOST_INSTRUCTIONS]) {
  (void)found;
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) found[count++] = (struct instructions){"AVX-512", avx512_across, &avx512_rows};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found[count++] = (struct instructions){"AVX2", avx2_across, &avx2_rows};
#elif defined(__aarch64__)
  found[count++] = (struct instructions){"NEON", neon_across, &neon_rows};
#endif
  return count;
}

/* What is to be done, besides the arrays. */
struct task {
  ptrdiff_t margins[2];       /* Voxels before each row, of source and target. */
  ptrdiff_t width;            /* Of a row without its margins. */
  ptrdiff_t taps, dilation;
  ptrdiff_t begin, end, step; /* Planes. */
  int activation;
};

struct volume {
  float *first; /* Voxel behind the margin. */
  ptrdiff_t channels, depth, height, row, plane, channel;
};

static struct volume volume_of(const Py_buffer *buffer, ptrdiff_t margin) {
  const Py_ssize_t *shape = buffer->shape;
  return (struct volume){
    .first = (float *)buffer->buf + margin,
    .channels = shape[0],
    .depth = shape[1],
    .height = shape[2],
    .row = shape[3],
    .plane = shape[2] * shape[3],
    .channel = shape[1] * shape[2] * shape[3],
  };
}

/* Points a row at what it sees; what lies beyond the volume is left out. */
static void look_around(struct row *row, struct volume in, const float *weights, ptrdiff_t taps, int outputs,
                        ptrdiff_t z, ptrdiff_t y) {
  const ptrdiff_t reach = taps / 2;
  row->count = 0;
  for (ptrdiff_t channel = 0; channel < in.channels; channel++)
    for (ptrdiff_t dz = -reach; dz <= reach; dz++)
      for (ptrdiff_t dy = -reach; dy <= reach; dy++, weights += taps * outputs) {
        const ptrdiff_t from_z = z + dz * row->dilation, from_y = y + dy * row->dilation;
        if (from_z < 0 || from_z >= in.depth || from_y < 0 || from_y >= in.height) continue;
        row->sources[row->count] = in.first + channel * in.channel + from_z * in.plane + from_y * in.row;
        row->weights[row->count++] = weights;
      }
}

/* All outputs of a row, in blocks whose sizes differ by one at most. */
static void convolve_row(row_functions *rows, struct row *row, struct volume in, struct volume out,
                         const float *weights, const float *bias, ptrdiff_t taps, ptrdiff_t z, ptrdiff_t y) {
  const int blocks = (int)((out.channels + MOST_OUTPUTS - 1) / MOST_OUTPUTS);
  for (int block = 0, first = 0; block < blocks; block++) {
    const int outputs = (int)(out.channels / blocks + (block < out.channels % blocks));
    look_around(row, in, weights, taps, outputs, z, y);
    row->bias = bias + first;
    for (int o = 0; o < outputs; o++)
      row->targets[o] = out.first + (first + o) * out.channel + z * out.plane + y * out.row;
    (*rows)[taps == 3][outputs - 1](row);
    weights += in.channels * taps * taps * taps * outputs;
    first += outputs;
  }
}

/* Every `step`-th plane: those that see the same planes one after the other find them in the cache. */
static void convolve_planes(row_functions *rows, struct row *row, const struct task *task, struct volume in,
                            struct volume out, const float *weights, const float *bias) {
  row->width = task->width;
  row->dilation = task->dilation;
  row->activation = (enum activation)task->activation;
  row->ahead = in.row;
  for (ptrdiff_t z = task->begin; z < task->end; z += task->step)
    for (ptrdiff_t y = 0; y < out.height; y++)
      convolve_row(rows, row, in, out, weights, bias, task->taps, z, y);
}

enum { SOURCE, TARGET, WEIGHTS, BIAS, ARRAYS };

static int get_floats(PyObject *object, Py_buffer *buffer, int which) {
  const int dimensions = which == SOURCE || which == TARGET ? 4 : 1;
  const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (which == TARGET ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(object, buffer, flags) < 0) return -1;
  if (buffer->ndim == dimensions && strcmp(buffer->format, "f") == 0) return 0;
  PyErr_Format(PyExc_TypeError, "an array of %d dimensions, format %s, was given; float32 of %d are needed",
               buffer->ndim, buffer->format, dimensions);
  PyBuffer_Release(buffer);
  return -1;
}

/* Says why rows would be read or written beyond their arrays; NULL where they are not. */
static const char *what_is_wrong(const struct task *task, const Py_buffer arrays[ARRAYS], ptrdiff_t across) {
  const Py_ssize_t *in = arrays[SOURCE].shape, *out = arrays[TARGET].shape;
  if (task->taps != 1 && task->taps != 3) return "kernels of 1 or 3 voxels are needed";
  if (task->dilation < 1 || task->width < 1) return "dilation and width must be positive";
  if (task->activation < LINEAR || task->activation > ELU) return "unknown activation";
  if (in[0] < 1 || in[0] > MOST_CHANNELS || out[0] < 1) return "1 to 64 channels are needed";
  /* Before they are added up. */
  if (task->dilation > in[3] || task->width > in[3] || task->margins[0] > in[3] || task->margins[1] > out[3])
    return "margins, width and dilation must be less than a row";
  const ptrdiff_t reach = task->taps / 2 * task->dilation;
  const ptrdiff_t read = (task->width + across - 1) / across * across;
  if (in[1] != out[1] || in[2] != out[2]) return "the planes differ in number or height";
  if (task->margins[0] < reach || task->margins[0] + read + reach > in[3])
    return "the source's margins are too small";
  if (task->margins[1] < 0 || task->margins[1] + task->width > out[3]) return "the target's rows are too short";
  if (arrays[WEIGHTS].shape[0] != task->taps * task->taps * task->taps * in[0] * out[0])
    return "weights of another number";
  if (arrays[BIAS].shape[0] != out[0]) return "biases of another number";
  if (task->begin < 0 || task->step < 1 || task->step > out[1] || task->end > out[1]) return "planes beyond the volume";
  return NULL;
}

static int convolve_arrays(const struct instructions *with, const struct task *task,
                           const Py_buffer arrays[ARRAYS]) {
  const char *wrong = what_is_wrong(task, arrays, with->across);
  if (wrong != NULL) {
    PyErr_SetString(PyExc_ValueError, wrong);
    return -1;
  }
  struct row *row = PyMem_Malloc(sizeof(struct row));
  if (row == NULL) {
    PyErr_NoMemory();
    return -1;
  }
  const struct volume in = volume_of(&arrays[SOURCE], task->margins[0]);
  const struct volume out = volume_of(&arrays[TARGET], task->margins[1]);
  Py_BEGIN_ALLOW_THREADS
  convolve_planes(with->rows, row, task, in, out, arrays[WEIGHTS].buf, arrays[BIAS].buf);
  Py_END_ALLOW_THREADS
  PyMem_Free(row);
  return 0;
}

static PyObject *convolve(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *objects[ARRAYS];
  struct task task;
  const char *name;
  if (!PyArg_ParseTuple(arguments, "sOOOO(nn)nnni(nnn)", &name, &objects[SOURCE], &objects[TARGET],
                        &objects[WEIGHTS], &objects[BIAS], &task.margins[0], &task.margins[1], &task.width,
                        &task.taps, &task.dilation, &task.activation, &task.begin, &task.end, &task.step))
    return NULL;
  struct instructions found[MOST_INSTRUCTIONS], *with = NULL;
  for (int i = find_instructions(found) - 1; i >= 0; i--)
    if (strcmp(found[i].name, name) == 0) with = &found[i];
  if (with == NULL) return PyErr_Format(PyExc_ValueError, "this processor, or this build, has no %s", name);
  Py_buffer arrays[ARRAYS];
  int taken = 0;
  while (taken < ARRAYS && get_floats(objects[taken], &arrays[taken], taken) == 0) taken++;
  const int failed = taken < ARRAYS || convolve_arrays(with, &task, arrays) < 0;
  while (taken-- > 0) PyBuffer_Release(&arrays[taken]);
  if (failed) return NULL;
  Py_RETURN_NONE;
}

static PyObject *instructions(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct instructions found[MOST_INSTRUCTIONS];
  const int count = find_instructions(found);
  PyObject *names = PyTuple_New(count);
  for (int i = 0; names != NULL && i < count; i++) {
    PyObject *name = PyUnicode_FromString(found[i].name);
    if (name == NULL || PyTuple_SetItem(names, i, name) < 0) Py_CLEAR(names);
  }
  return names;
}

static PyMethodDef methods[] = {
  {"convolve", convolve, METH_VARARGS, NULL},
  {"instructions", instructions, METH_NOARGS, NULL},
  {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT, .m_name = "_convolution", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__convolution(void) { return PyModule_Create(&definition); }
