/* What a recent Rust makes, cadeloop for one, takes its random numbers from bcryptprimitives.dll,
   which Wine 8 lacks. advapi32 has them too, under the name behind RtlGenRandom. */
#include <windows.h>

BOOLEAN WINAPI SystemFunction036(PVOID, ULONG);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size)
{
    return SystemFunction036(data, (ULONG)size);
}
