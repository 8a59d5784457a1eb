/* The simulation as a program of its own, with the modules built in: AddressSanitizer can then be
   there from the start, which it cannot in a Python that is already running. */
#include <Python.h>

/* The build says which modules the engine and its driver have: each of ENGINE_MODULES and
   DRIVER_MODULES is X(_this) X(_that) … */
#define X(name) PyMODINIT_FUNC PyInit_##name(void);
ENGINE_MODULES
DRIVER_MODULES
#undef X

/* Python with the modules in it, and this run by it. */
static int run(int argc, char **argv, const char *program)
{
#define X(name) PyImport_AppendInittab("iocpx." #name, PyInit_##name);
    ENGINE_MODULES
#undef X
#define X(name) PyImport_AppendInittab(#name, PyInit_##name);
    DRIVER_MODULES
#undef X

    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    PyStatus status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    /* The package itself is for Windows; an empty one holds its modules. */
    return PyRun_SimpleString(
        "import sys, types\n"
        "package = sys.modules['iocpx'] = types.ModuleType('iocpx')\n"
        "package.__path__ = []\n") != 0 || PyRun_SimpleString(program) != 0;
}

#ifdef SIM_FUZZ
/* libFuzzer has the main function, and calls these. */
int framing_fuzz(const unsigned char *data, size_t nbytes);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    return run(1, *argv, "import _framing\n");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t nbytes)
{
    return framing_fuzz(data, nbytes);
}
#else
int main(int argc, char **argv)
{
    return run(argc, argv, "import program\nprogram.main(sys.argv[1:])\n");
}
#endif
