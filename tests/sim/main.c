/* The simulation as a program of its own, with the modules built in: AddressSanitizer can then be
   there from the start, which it cannot in a Python that is already running. */
#include <Python.h>

/* The build says which modules the engine and its driver have: each of ENGINE_MODULES and
   DRIVER_MODULES is X(_this) X(_that) … */
#define X(name) PyMODINIT_FUNC PyInit_##name(void);
ENGINE_MODULES
DRIVER_MODULES
#undef X

int main(int argc, char **argv)
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
        "package.__path__ = []\n"
        "import program\n"
        "program.main(sys.argv[1:])\n") != 0;
}
