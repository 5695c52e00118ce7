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

#if defined(__x86_64__)
#define ACROSS 2
#define VECTOR 8
#define NAME(x) avx2_##x
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "rows.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef NAME
#undef VECTOR

#define VECTOR 16
#define NAME(x) avx512_##x
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,fma")
#endif
#include "rows.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef NAME
#undef VECTOR
#elif defined(__aarch64__)
#define ACROSS 4
#define VECTOR 4
#define NAME(x) neon_##x
#include "rows.h"
#undef NAME
#undef VECTOR
#endif

typedef row_function *const row_functions[2][MOST_OUTPUTS];

struct instructions {
  const char *name;
  int across; /* Voxels of a row that are read at a time. */
  row_functions *rows;
};

/* Those that the processor has, best first; the last one has no name. */
static int find_instructions(struct instructions found[3]) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) found[count++] = (struct instructions){"AVX-512", 32, &avx512_rows};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found[count++] = (struct instructions){"AVX2", 16, &avx2_rows};
#elif defined(__aarch64__)
  found[count++] = (struct instructions){"NEON", 16, &neon_rows};
#endif
  return count;
}

struct volume {
  float *first; /* Voxel behind the margin. */
  ptrdiff_t channels, depth, height, row, plane, channel;
};

static struct volume volume_of(const Py_buffer *buffer, ptrdiff_t margin) {
  const Py_ssize_t *shape = buffer->shape;
  return (struct volume){
    .first = (float *)buffer->buf + margin,
    .channels = shape[0], .depth = shape[1], .height = shape[2],
    .row = shape[3], .plane = shape[2] * shape[3], .channel = shape[1] * shape[2] * shape[3],
  };
}

/* Points a row at what it sees; what lies beyond the volume is left out. */
static void look_around(struct row *row, struct volume in, const float *weights, int taps, int outputs, ptrdiff_t z, ptrdiff_t y) {
  const int reach = taps / 2;
  const ptrdiff_t dilation = row->dilation;
  row->count = 0;
  for (ptrdiff_t channel = 0; channel < in.channels; channel++)
    for (int dz = -reach; dz <= reach; dz++)
      for (int dy = -reach; dy <= reach; dy++, weights += taps * outputs) {
        const ptrdiff_t from_z = z + dz * dilation, from_y = y + dy * dilation;
        if (from_z < 0 || from_z >= in.depth || from_y < 0 || from_y >= in.height) continue;
        row->sources[row->count] = in.first + channel * in.channel + from_z * in.plane + from_y * in.row;
        row->weights[row->count++] = weights;
      }
}

/* Every `step`-th plane: those that see the same planes one after the other find them in the cache. */
static void convolve_planes(row_functions *rows, struct volume in, struct volume out, const float *weights, const float *bias,
                            int taps, struct row *row, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t step) {
  row->ahead = in.row;
  for (ptrdiff_t z = begin; z < end; z += step)
    for (ptrdiff_t y = 0; y < out.height; y++) {
        const float *block = weights;
        /* Blocks of outputs whose sizes differ by one at most. */
        const int blocks = (int)((out.channels + MOST_OUTPUTS - 1) / MOST_OUTPUTS);
        for (int b = 0, first = 0; b < blocks; b++) {
          const int outputs = (int)(out.channels / blocks + (b < out.channels % blocks));
          look_around(row, in, block, taps, outputs, z, y);
          row->bias = bias + first;
          for (int o = 0; o < outputs; o++)
            row->targets[o] = out.first + (first + o) * out.channel + z * out.plane + y * out.row;
          (*rows)[taps == 3][outputs - 1](row);
          block += in.channels * taps * taps * taps * outputs;
          first += outputs;
        }
      }
}

static int get_floats(PyObject *object, Py_buffer *buffer, int dimensions, int flags) {
  if (PyObject_GetBuffer(object, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0) return -1;
  if (buffer->ndim == dimensions && strcmp(buffer->format, "f") == 0) return 0;
  PyErr_Format(PyExc_TypeError, "an array of %d dimensions, format %s, was given; float32 of %d are needed",
               buffer->ndim, buffer->format, dimensions);
  PyBuffer_Release(buffer);
  return -1;
}

/* Raises an error and gives -1 where rows would be read or written beyond their arrays. */
static int check(struct instructions with, const Py_buffer *in, const Py_buffer *out, const Py_buffer *weights, const Py_buffer *bias,
                 ptrdiff_t margins[2], ptrdiff_t width, ptrdiff_t taps, ptrdiff_t dilation, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t step, int activation) {
  const ptrdiff_t reach = (taps / 2) * dilation;
  const ptrdiff_t read = (width + with.across - 1) / with.across * with.across;
  const char *wrong = NULL;
  if (taps != 1 && taps != 3) wrong = "kernels of 1 or 3 voxels are needed";
  else if (dilation < 1 || width < 1) wrong = "dilation and width must be positive";
  else if (activation < LINEAR || activation > ELU) wrong = "unknown activation";
  else if (in->shape[0] < 1 || in->shape[0] > MOST_CHANNELS || out->shape[0] < 1) wrong = "1 to 64 channels are needed";
  else if (in->shape[1] != out->shape[1] || in->shape[2] != out->shape[2]) wrong = "the planes differ in number or height";
  else if (margins[0] < reach || margins[0] + read + reach > in->shape[3]) wrong = "the source's margins are too small";
  else if (margins[1] < 0 || margins[1] + width > out->shape[3]) wrong = "the target's rows are too short";
  else if (weights->shape[0] != taps * taps * taps * in->shape[0] * out->shape[0]) wrong = "weights of another number";
  else if (bias->shape[0] != out->shape[0]) wrong = "biases of another number";
  else if (begin < 0 || step < 1 || end > out->shape[1]) wrong = "planes beyond the volume";
  if (wrong != NULL) PyErr_SetString(PyExc_ValueError, wrong);
  return wrong == NULL ? 0 : -1;
}

static PyObject *convolve(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *objects[4];
  ptrdiff_t margins[2], width, taps, dilation, begin, end, step;
  int activation;
  const char *name;
  if (!PyArg_ParseTuple(arguments, "sOOOO(nn)nnni(nnn)", &name, &objects[0], &objects[1], &objects[2], &objects[3],
                        &margins[0], &margins[1], &width, &taps, &dilation, &activation, &begin, &end, &step))
    return NULL;
  struct instructions found[3], *with = NULL;
  for (int i = find_instructions(found) - 1; i >= 0; i--)
    if (strcmp(found[i].name, name) == 0) with = &found[i];
  if (with == NULL) return PyErr_Format(PyExc_ValueError, "this processor, or this build, has no %s", name);
  Py_buffer buffers[4];
  int taken = 0, failed = 0;
  for (; taken < 4; taken++)
    if (get_floats(objects[taken], &buffers[taken], taken < 2 ? 4 : 1, taken == 1 ? PyBUF_WRITABLE : 0) < 0) break;
  struct row *row = taken == 4 ? PyMem_Malloc(sizeof(struct row)) : NULL;
  if (taken == 4 && row == NULL) PyErr_NoMemory();
  failed = row == NULL || check(*with, &buffers[0], &buffers[1], &buffers[2], &buffers[3], margins, width, taps, dilation,
                                begin, end, step, activation) < 0;
  if (!failed) {
    row->width = width;
    row->dilation = dilation;
    row->activation = (enum activation)activation;
    Py_BEGIN_ALLOW_THREADS
    convolve_planes(with->rows, volume_of(&buffers[0], margins[0]), volume_of(&buffers[1], margins[1]), buffers[2].buf,
                    buffers[3].buf, (int)taps, row, begin, end, step);
    Py_END_ALLOW_THREADS
  }
  PyMem_Free(row);
  while (taken-- > 0) PyBuffer_Release(&buffers[taken]);
  if (failed) return NULL;
  Py_RETURN_NONE;
}

static PyObject *instructions(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct instructions found[3];
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

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_convolution", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__convolution(void) { return PyModule_Create(&definition); }
