/* Voxels from one order in memory to the other.
 *
 * What lies side by side before lies far apart afterwards, often by a power of two, so that all of it
 * falls on the same few places of the caches, and each on a page of its own. Here rows are read as they are,
 * some planes of them, and lines of the cache are written whole.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LINE 64 /* Bytes of a line of the cache. */
#define ROWS 8  /* Of each plane, at a time. */

static Py_ssize_t least(Py_ssize_t one, Py_ssize_t other) { return one < other ? one : other; }

static Py_ssize_t row_bytes(const Py_buffer *from) { return (from->shape[0] * from->itemsize / LINE + 1) * LINE; }

/* Some rows, and a line more, so that planes do not fall on the same places. */
static Py_ssize_t plane_bytes(const Py_buffer *from) { return ROWS * row_bytes(from) + LINE; }

/* As many planes as a line has voxels. */
static Py_ssize_t bytes_at_a_time(const Py_buffer *from) { return LINE / from->itemsize * plane_bytes(from); }

/* In `from` the first axis is without gaps, in `to` the last. Strides are in bytes; `read` has room
 * for what is read at a time. */
#define REORDER(type)                                                                                           \
  static void reorder_##type(const Py_buffer *from, const Py_buffer *to, char *read) {                          \
    enum { COUNT = LINE / sizeof(type) };                                                                       \
    const Py_ssize_t *shape = from->shape, *near = from->strides, *far = to->strides;                           \
    const Py_ssize_t row = row_bytes(from), plane = plane_bytes(from);                                          \
    for (Py_ssize_t k = 0; k < shape[2]; k += COUNT)                                                            \
      for (Py_ssize_t j = 0; j < shape[1]; j += ROWS) {                                                         \
        const Py_ssize_t planes = least(COUNT, shape[2] - k), rows = least(ROWS, shape[1] - j);                 \
        const char *source = (const char *)from->buf + j * near[1] + k * near[2];                               \
        for (Py_ssize_t z = 0; z < planes; z++)                                                                 \
          for (Py_ssize_t y = 0; y < rows; y++)                                                                 \
            memcpy(read + z * plane + y * row, source + z * near[2] + y * near[1], shape[0] * sizeof(type));    \
        char *target = (char *)to->buf + j * far[1] + k * far[2];                                               \
        for (Py_ssize_t begin = 0; begin < shape[0]; begin += COUNT)                                            \
          for (Py_ssize_t y = 0; y < rows; y++)                                                                 \
            for (Py_ssize_t i = begin; i < least(begin + COUNT, shape[0]); i++) {                               \
              type line[COUNT];                                                                                 \
              for (Py_ssize_t z = 0; z < COUNT; z++) line[z] = ((const type *)(read + z * plane + y * row))[i]; \
              memcpy(target + i * far[0] + y * far[1], line, planes * sizeof(type));                            \
            }                                                                                                   \
      }                                                                                                         \
  }

REORDER(uint8_t)
REORDER(uint16_t)
REORDER(uint32_t)
REORDER(uint64_t)

static const char *what_is_wrong(const Py_buffer *from, const Py_buffer *to) {
  if (from->ndim != 3 || to->ndim != 3) return "arrays of three axes are needed";
  for (int axis = 0; axis < 3; axis++)
    if (from->shape[axis] != to->shape[axis]) return "the arrays differ in shape";
  if (from->itemsize != to->itemsize) return "the voxels differ in size";
  if (from->strides[0] != from->itemsize) return "the source's first axis has gaps";
  if (to->strides[2] != to->itemsize) return "the target's last axis has gaps";
  return NULL;
}

static int reorder_arrays(const Py_buffer *from, const Py_buffer *to) {
  const char *wrong = what_is_wrong(from, to);
  void (*run)(const Py_buffer *, const Py_buffer *, char *) = NULL;
  if (wrong == NULL) switch (from->itemsize) {
    case 1: run = reorder_uint8_t; break;
    case 2: run = reorder_uint16_t; break;
    case 4: run = reorder_uint32_t; break;
    case 8: run = reorder_uint64_t; break;
    default: wrong = "voxels of 1, 2, 4 or 8 bytes are needed";
  }
  if (wrong != NULL) {
    PyErr_SetString(PyExc_ValueError, wrong);
    return -1;
  }
  char *read = PyMem_Calloc(bytes_at_a_time(from), 1);
  if (read == NULL) {
    PyErr_NoMemory();
    return -1;
  }
  Py_BEGIN_ALLOW_THREADS
  run(from, to, read);
  Py_END_ALLOW_THREADS
  PyMem_Free(read);
  return 0;
}

static PyObject *reorder(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *source, *target;
  Py_buffer from, to;
  if (!PyArg_ParseTuple(arguments, "OO", &source, &target)) return NULL;
  if (PyObject_GetBuffer(source, &from, PyBUF_STRIDED_RO) < 0) return NULL;
  if (PyObject_GetBuffer(target, &to, PyBUF_STRIDED) < 0) {
    PyBuffer_Release(&from);
    return NULL;
  }
  const int failed = reorder_arrays(&from, &to);
  PyBuffer_Release(&to);
  PyBuffer_Release(&from);
  if (failed) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"reorder", reorder, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT, .m_name = "_order", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__order(void) { return PyModule_Create(&definition); }
