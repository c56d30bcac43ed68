/* The one file that sees Python: buffers in, buffers out, the GIL released around every row.
 *
 *   transcode(src_type, dst_type, src, n_rows, n_cols, weights, importance, out, objective, effort, errors)
 *   decode(type, src, n_rows, n_cols, out)
 *   use(name or None) -> (isa, {type: ...}) and isas: the instruction sets that run here, worst first
 *
 * Lengths are checked here once more, so that no caller's mistake can write past a buffer. Trouble with values comes
 * back as UnfitValue(row, column). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "gguftool.h"
#include "gain.h"

#define ID_F32 0
#define ID_F16 1
#define ID_BF16 30

static const gt_isa_set *isa;
static PyObject *unfit_value;

typedef struct {
    gt_codec src, dst;
    const uint8_t *in;
    uint8_t *out;
    const float *w;
    const double *a;
    int64_t n_rows, n_cols, in_bytes, out_bytes;
    uint32_t limit;
    gt_options opt;
    int copies, errors, unbiased;
    double sums[4];
    int64_t bad_row, bad_col;
} job;

static int64_t row_bytes(const gt_codec *c, int64_t n) {
    return c->row_header + n / c->block_size * c->block_bytes;
}

/* The first magnitude, as IEEE bits, that the type cannot hold: what would round to infinity, and NaN. */
static uint32_t limit_of(int id) {
    if (id == ID_F16) return 0x477ff000;  /* 65520 */
    if (id == ID_BF16) return 0x7f7f8000; /* halfway beyond the largest bfloat16 */
    return 0x7f800000;
}

/* The rounding mode and the treatment of subnormals belong to the calling thread, and other libraries change them
 * (-ffast-math at link time switches subnormals off); our bytes must not depend on that. */
#if defined(__SSE2__)
#include <xmmintrin.h>
typedef unsigned float_mode;
static float_mode plain_floats(void) {
    float_mode saved = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return saved;
}
static void restore_floats(float_mode saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static float_mode plain_floats(void) {
    float_mode saved, plain = 0;
    __asm__ volatile("mrs %0, fpcr\n\tmsr fpcr, %1" : "=&r"(saved) : "r"(plain) : "memory");
    return saved;
}
static void restore_floats(float_mode saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved) : "memory"); }
#else
typedef int float_mode;
static float_mode plain_floats(void) { return 0; }
static void restore_floats(float_mode saved) { (void)saved; }
#endif

static void run(job *j, float *x, float *y, const double *w) {
    for (int64_t r = 0; r < j->n_rows; ++r) {
        const uint8_t *in = j->in + r * j->in_bytes;
        uint8_t *out = j->out + r * j->out_bytes;
        const float *row = x;
        if (j->copies)
            j->src.decode(in, j->n_cols, x);
        else
            row = (const float *)in;
        j->bad_col = isa->first_unfit(row, j->n_cols, j->limit);
        if (j->bad_col >= 0) {
            j->bad_row = r;
            return;
        }
        j->dst.encode(row, j->w, j->n_cols, out, &j->opt);
        if (j->unbiased) {
            j->dst.decode(out, j->n_cols, y);
            gt_scale_row(&j->dst, gt_gain(isa->error_row, row, y, w, j->n_cols), j->n_cols, out);
        }
        if (j->errors) {
            j->dst.decode(out, j->n_cols, y);
            isa->error_row(row, y, j->a, j->n_cols, j->sums);
        }
    }
}

static int find(gt_codec *c, int id, int64_t n_cols) {
    *c = gt_find_codec(isa, id);
    if (c->block_size == 0) {
        PyErr_Format(PyExc_ValueError, "no kernel for type %d", id);
        return 0;
    }
    if (n_cols < 0 || n_cols > PY_SSIZE_T_MAX / 64 || n_cols % c->block_size) { /* no sum of a row's bytes overflows */
        PyErr_Format(PyExc_ValueError, "%lld columns are no whole blocks of type %d", (long long)n_cols, id);
        return 0;
    }
    return 1;
}

static int holds(const Py_buffer *b, int64_t rows, int64_t bytes, const char *what) {
    if (rows < 0 || (bytes > 0 && rows > PY_SSIZE_T_MAX / bytes) || b->len != rows * bytes) {
        PyErr_Format(PyExc_ValueError, "%s: %zd bytes, expected %lld x %lld", what, b->len, (long long)rows,
                     (long long)bytes);
        return 0;
    }
    return 1;
}

static PyObject *start(job *j) {
    /* Rows that lie at odd addresses (a file's tensor in memory) are copied; all others are read in place. */
    j->copies = j->src.id != ID_F32 || ((uintptr_t)j->in | (uintptr_t)j->in_bytes) % sizeof(float);
    size_t row = ((size_t)j->n_cols * sizeof(float) + 63) / 64 * 64;
    char *raw = PyMem_Malloc(4 * row + 64);
    if (!raw) return PyErr_NoMemory();
    float *x = (float *)(((uintptr_t)raw + 63) / 64 * 64);
    double *w = j->w ? (double *)(x + 2 * row / sizeof(float)) : NULL;
    for (int64_t i = 0; w && i < j->n_cols; ++i) w[i] = j->w[i];
    j->bad_row = -1;
    Py_BEGIN_ALLOW_THREADS
    float_mode saved = plain_floats();
    run(j, x, x + row / sizeof(float), w);
    restore_floats(saved);
    Py_END_ALLOW_THREADS
    PyMem_Free(raw);
    if (j->bad_row >= 0) {
        PyObject *where = Py_BuildValue("(LL)", (long long)j->bad_row, (long long)j->bad_col);
        if (where) PyErr_SetObject(unfit_value, where);
        Py_XDECREF(where);
        return NULL;
    }
    if (!j->errors) Py_RETURN_NONE;
    return Py_BuildValue("(dddd)", j->sums[0], j->sums[1], j->sums[2], j->sums[3]);
}

static PyObject *transcode_checked(job *j, int src, int dst, Py_buffer *in, Py_buffer *w, Py_buffer *a, Py_buffer *out) {
    if (!find(&j->src, src, j->n_cols) || !find(&j->dst, dst, j->n_cols)) return NULL;
    if (!j->src.decode || !j->dst.encode || !j->dst.decode)
        return PyErr_Format(PyExc_ValueError, "no kernel from type %d to type %d", src, dst);
    const gt_options *o = &j->opt;
    if (o->objective < GT_IMATRIX || o->objective > GT_UNBIASED || o->effort < GT_FAST || o->effort > GT_BEST)
        return PyErr_Format(PyExc_ValueError, "no objective %d with effort %d", o->objective, o->effort);
    j->in_bytes = row_bytes(&j->src, j->n_cols);
    j->out_bytes = row_bytes(&j->dst, j->n_cols);
    if (!holds(in, j->n_rows, j->in_bytes, "source") || !holds(out, j->n_rows, j->out_bytes, "output")) return NULL;
    if (w->buf && !holds(w, j->n_cols, sizeof(float), "weights")) return NULL;
    if (a->buf && !holds(a, j->n_cols, sizeof(double), "importance")) return NULL;
    j->in = in->buf;
    j->out = out->buf;
    j->w = w->buf;
    j->a = a->buf;
    j->limit = limit_of(dst);
    j->unbiased = j->opt.objective == GT_UNBIASED && *gt_scale_offsets(dst) >= 0;
    if (j->opt.objective == GT_UNBIASED) j->opt.objective = GT_IMATRIX;
    return start(j);
}

static PyObject *py_transcode(PyObject *self, PyObject *args) {
    (void)self;
    int src, dst;
    long long n_rows, n_cols;
    Py_buffer in = {0}, w = {0}, a = {0}, out = {0};
    job j = {0};
    if (!PyArg_ParseTuple(args, "iiy*LLz*z*w*iip:transcode", &src, &dst, &in, &n_rows, &n_cols, &w, &a, &out,
                          &j.opt.objective, &j.opt.effort, &j.errors))
        return NULL;
    j.n_rows = n_rows;
    j.n_cols = n_cols;
    PyObject *result = transcode_checked(&j, src, dst, &in, &w, &a, &out);
    PyBuffer_Release(&in);
    PyBuffer_Release(&w);
    PyBuffer_Release(&a);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *decode_checked(int id, Py_buffer *in, int64_t n_rows, int64_t n_cols, Py_buffer *out) {
    gt_codec c;
    if (!find(&c, id, n_cols)) return NULL;
    if (!c.decode) return PyErr_Format(PyExc_ValueError, "no decoder for type %d", id);
    int64_t in_bytes = row_bytes(&c, n_cols), out_bytes = n_cols * (int64_t)sizeof(float);
    if (!holds(in, n_rows, in_bytes, "source") || !holds(out, n_rows, out_bytes, "output")) return NULL;
    const uint8_t *src = in->buf;
    float *dst = out->buf;
    Py_BEGIN_ALLOW_THREADS
    float_mode saved = plain_floats();
    for (int64_t r = 0; r < n_rows; ++r) c.decode(src + r * in_bytes, n_cols, dst + r * n_cols);
    restore_floats(saved);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_decode(PyObject *self, PyObject *args) {
    (void)self;
    int id;
    long long n_rows, n_cols;
    Py_buffer in = {0}, out = {0};
    if (!PyArg_ParseTuple(args, "iy*LLw*:decode", &id, &in, &n_rows, &n_cols, &out)) return NULL;
    PyObject *result = decode_checked(id, &in, n_rows, n_cols, &out);
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

/* {type id: (block size, block bytes, row header, has an encoder, has a decoder)} */
static PyObject *codec_table(void) {
    PyObject *table = PyDict_New();
    for (const gt_codec *const *family = isa->families; table && *family; ++family)
        for (const gt_codec *c = *family; c->block_size; ++c) {
            gt_codec k = gt_find_codec(isa, c->id);
            PyObject *key = PyLong_FromLong(k.id);
            PyObject *entry = Py_BuildValue("(iiiNN)", k.block_size, k.block_bytes, k.row_header,
                                            PyBool_FromLong(k.encode != NULL), PyBool_FromLong(k.decode != NULL));
            int failed = !key || !entry || PyDict_SetItem(table, key, entry) < 0;
            Py_XDECREF(key);
            Py_XDECREF(entry);
            if (failed) Py_CLEAR(table);
            if (failed) return NULL;
        }
    return table;
}

static PyObject *isa_names(void) {
    PyObject *names = PyList_New(0);
    for (const char *const *name = gt_usable_isas(); names && *name; ++name) {
        PyObject *text = PyUnicode_FromString(*name);
        if (!text || PyList_Append(names, text) < 0) Py_CLEAR(names);
        Py_XDECREF(text);
        if (!names) return NULL;
    }
    return names;
}

static int add(PyObject *module, const char *name, PyObject *value) {
    int status = value ? PyModule_AddObjectRef(module, name, value) : -1;
    Py_XDECREF(value);
    return status;
}

static int setup(PyObject *module) {
    isa = gt_choose_isa(NULL);
    unfit_value = PyErr_NewException("gguftool._native.UnfitValue", PyExc_ValueError, NULL);
    if (!unfit_value || PyModule_AddObjectRef(module, "UnfitValue", unfit_value) < 0) return -1;
    return add(module, "isas", isa_names());
}

static PyObject *py_use(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    if (!PyArg_ParseTuple(args, "z:use", &name)) return NULL;
    const gt_isa_set *chosen = gt_choose_isa(name);
    if (!chosen) return PyErr_Format(PyExc_ValueError, "no instruction set '%s'", name);
    isa = chosen;
    return Py_BuildValue("(sN)", isa->name, codec_table());
}

static PyMethodDef methods[] = {
    {"transcode", py_transcode, METH_VARARGS, "Rows of one type to rows of another; the error sums if asked."},
    {"decode", py_decode, METH_VARARGS, "Rows of a type to float32."},
    {"use", py_use, METH_VARARGS, "Chooses an instruction set (None: the best); its name and its table of types."},
    {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)setup}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "Kernels of gguftool.codecs.", 0, methods,
                                        slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
