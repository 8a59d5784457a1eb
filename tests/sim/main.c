/* The simulation as a program of its own, with the modules built in: AddressSanitizer can then be
   there from the start, which it cannot in a Python that is already running. */
#include <Python.h>

/* The build says which modules the engine has: ENGINE_MODULES is X(_state) X(_base) … */
#define X(name) PyMODINIT_FUNC PyInit_##name(void);
ENGINE_MODULES
#undef X
PyMODINIT_FUNC PyInit__sim(void);
PyMODINIT_FUNC PyInit__wakes(void);
PyMODINIT_FUNC PyInit__scale(void);

int main(int argc, char **argv)
{
#define X(name) PyImport_AppendInittab("iocpx." #name, PyInit_##name);
    ENGINE_MODULES
#undef X
    PyImport_AppendInittab("_sim", PyInit__sim);
    PyImport_AppendInittab("_wakes", PyInit__wakes);
    PyImport_AppendInittab("_scale", PyInit__scale);

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
